"""A function applied to one step of a sequence after the other, its states handed on."""

import tensorflow as tf


def unfold(step, sequences, states, shapes, length, backwards=False):
    """What `step` makes of all steps in turn; gradients go through it.

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
    # Arrays of steps: a slice of a tensor would pass on a gradient as large as all steps together.
    given = [_array(x.dtype, length, x.shape[2:]).unstack(_swapped(x)) for x in sequences]
    arrays = tuple(_array(tf.float32, length, shape) for shape in shapes)

    def body(count, states, arrays):
        place = length - 1 - count if backwards else count
        outputs, made = step([array.read(place) for array in given], list(states))
        for new, old in zip(made, states):
            new.set_shape(old.shape)
        return count + 1, tuple(made), tuple(array.write(count, x) for array, x in zip(arrays, outputs))

    loop = tf.constant(0), tuple(states), arrays
    _, states, arrays = tf.while_loop(lambda count, *_: count < length, body, loop, maximum_iterations=length)
    return [_swapped(array.stack()) for array in arrays], list(states)


def _array(dtype, length, shape):
    return tf.TensorArray(dtype, length, element_shape=(None, *shape), clear_after_read=False)


def _swapped(x):
    """`(batch, length, ...)` as `(length, batch, ...)`, and the other way around."""
    return tf.transpose(x, [1, 0, *range(2, x.shape.rank)])
