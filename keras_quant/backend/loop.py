"""A function applied to one step of a sequence after the other, its states handed on."""

import tensorflow as tf

from keras_quant.backend.arrays import read
from keras_quant.backend.gradient import custom_gradient


def unfold(step, sequences, states, shapes, length, backwards=False):
    """What `step` makes of all steps in turn.

    Args:
        step: function (list of tensors `(batch, ...)`, list of states) → (list of float32 tensors, list of states).
        sequences: list of tensors `(batch, length, ...)`.
        states: list of tensors, the first states.
        shapes: of the step's outputs, without the batch.
        length: integer.
        backwards: whether to begin with the last step.

    Returns:
        List of what the steps gave, in the order in which they were computed, `(batch, length, ...)`; list of the last
        states.
    """
    sequences = [_swapped(x) for x in sequences]
    arrays = tuple(tf.TensorArray(tf.float32, length, element_shape=(None, *shape)) for shape in shapes)

    def body(count, states, arrays):
        outputs, made = step(_at(sequences, count, length, backwards), list(states))
        for new, old in zip(made, states):
            new.set_shape(old.shape)
        return count + 1, tuple(made), tuple(array.write(count, x) for array, x in zip(arrays, outputs))

    loop = tf.constant(0), tuple(states), arrays
    _, states, arrays = tf.while_loop(lambda count, *_: count < length, body, loop, maximum_iterations=length)
    return [_swapped(array.stack()) for array in arrays], list(states)


def unfold_in_training(step, variables, sequences, states, shapes, length, backwards, summaries):
    """`unfold` with gradients for sequences, states and variables, which computes each step once more on the way back.

    So only the states are kept, not what led to them, and a step's operations write gradients by hand as they do elsewhere.

    Args:
        step: as of `unfold`, that also returns a vector of numbers.
        variables: list of Keras variables that `step` reads.
        sequences, states, shapes, length, backwards: as of `unfold`.
        summaries: integer, how many numbers those are.

    Returns:
        Lists of outputs and last states, and the largest that each number was.
    """
    count = len(sequences), len(states)
    before = []

    @custom_gradient
    def forward(*tensors):
        own, first = list(tensors[: count[0]]), list(tensors[count[0] : sum(count)])
        seen = [tf.fill([summaries], -float("inf"))]

        def forward_step(xs, states):
            *states, most = states
            outputs, made, numbers = step(xs, states)
            return [*outputs, *states], [*made, tf.maximum(most, numbers)]

        kept_shapes = [x.shape[1:] for x in first]
        outputs, last = unfold(forward_step, own, [*first, *seen], [*shapes, *kept_shapes], length, backwards)
        split = len(shapes)
        outputs, kept = outputs[:split], outputs[split:]
        before[:] = last[-1:]

        def backward(*upstream):
            given = list(upstream[:split]), list(upstream[split:])
            return _backward(step, variables, own, kept, *given, length, backwards)

        return [*outputs, *last[:-1]], backward

    flat = forward(*sequences, *states, *(read(v) for v in variables))
    return flat[: len(shapes)], flat[len(shapes) :], before[0]


def _backward(step, variables, sequences, kept, of_outputs, of_states, length, backwards):
    """The gradients of sequences, first states and variables."""
    sequences, kept, of_outputs = ([_swapped(x) for x in tensors] for tensors in (sequences, kept, of_outputs))
    # A sequence of booleans, such as a mask, has no gradient.
    real = [x.dtype.is_floating for x in sequences]
    totals = tuple(tf.zeros_like(read(v)) for v in variables)
    arrays = tuple(
        tf.TensorArray(x.dtype, length, element_shape=x.shape[1:]) for x, is_real in zip(sequences, real) if is_real
    )

    def body(count, of_states, totals, arrays):
        place = length - 1 - count
        xs, states = _at(sequences, place, length, backwards), [x[place] for x in kept]
        watched = [*(x for x, is_real in zip(xs, real) if is_real), *states]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            for tensor in (*watched, *(v.value for v in variables)):
                tape.watch(tensor)
            outputs, made, _ = step(xs, states)
        given = [*(x[place] for x in of_outputs), *of_states]
        wanted = [*watched, *(v.value for v in variables)]
        grads = tape.gradient([*outputs, *made], wanted, given, tf.UnconnectedGradients.ZERO)
        split, after = len(arrays), len(watched)
        index = place if not backwards else length - 1 - place
        arrays = tuple(array.write(index, g) for array, g in zip(arrays, grads[:split]))
        for new, old in zip(grads[split:after], of_states):
            new.set_shape(old.shape)
        totals = tuple(total + g for total, g in zip(totals, grads[after:]))
        return count + 1, tuple(grads[split:after]), totals, arrays

    loop = tf.constant(0), tuple(of_states), totals, arrays
    _, of_states, totals, arrays = tf.while_loop(lambda count, *_: count < length, body, loop, maximum_iterations=length)
    found = iter([_swapped(array.stack()) for array in arrays])
    of_sequences = [next(found) if is_real else None for is_real in real]
    return [*of_sequences, *of_states, *totals]


def _swapped(x):
    """`(batch, length, ...)` as `(length, batch, ...)`, and the other way around."""
    return tf.transpose(x, [1, 0, *range(2, x.shape.rank)])


def _at(sequences, count, length, backwards):
    return [x[length - 1 - count if backwards else count] for x in sequences]
