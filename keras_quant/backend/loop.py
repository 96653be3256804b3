"""A function applied to one step of a sequence after the other, its states handed on."""

import contextlib

import tensorflow as tf

from keras_quant.backend.arrays import compiles_with_xla, constant
from keras_quant.backend.gradient import registered_gradient, take_steps
from keras_quant.backend.hoisting import hoisting

_ops = tf.raw_ops


def unfold(step, sequences, states, shapes, length, backwards=False, hoists=False):
    """What `step` makes of all steps in turn; gradients go through it.

    Sequences are stacks that a step is taken from and put onto: in the gradient one is the other, and nothing is searched
    for. Of an array's element the gradient is an array again, and these are added in every step.

    Args:
        step: function (list of tensors `(batch, ...)`, list of states) → (list of float32 tensors, list of states).
        sequences: list of tensors `(batch, length, ...)`.
        states: list of tensors, the first states.
        shapes: of the step's outputs, without the batch.
        length: integer.
        backwards: whether to begin with the last step.
        hoists: whether to compute what all steps have in common once, before the loop. It has no gradient then.

    Returns:
        List of what the steps gave, in the order in which they were computed, `(batch, length, ...)`; list of the last
        states.
    """
    given = tuple(_stack(x, length, backwards) for x in sequences)
    made = tuple(_empty(shape, length) for shape in shapes)

    def body(count, states, given, made):
        take_steps()
        given, steps = zip(*(_taken(stack, x) for stack, x in zip(given, sequences)))
        with hoisting() if hoists else contextlib.nullcontext():
            outputs, after = step(list(steps), list(states))
        for new, old in zip(after, states):
            new.set_shape(old.shape)
        return count + 1, tuple(after), given, tuple(map(_put, made, outputs))

    loop = tf.constant(0), tuple(states), given, made
    _, states, _, made = tf.while_loop(lambda count, *_: count < length, body, loop, maximum_iterations=length)
    return [_sequence(stack, shape, length) for stack, shape in zip(made, shapes)], list(states)


def _stack(x, length, backwards):
    """A sequence `(batch, length, ...)` as a stack, the step to begin with on top."""
    x, shape = _swapped(x), [-1, *x.shape[2:]]
    if backwards:
        return _ops.TensorListFromTensor(tensor=x, element_shape=shape)
    if compiles_with_xla():
        return _ops.TensorListFromTensor(tensor=tf.reverse(x, [0]), element_shape=shape)
    # The same without a copy; XLA has no kernel for it.
    order = constant(tuple(range(length - 1, -1, -1)), tf.int32)
    return _ops.TensorListScatterV2(tensor=x, indices=order, element_shape=shape, num_elements=length)


def _empty(shape, length):
    return _ops.EmptyTensorList(element_shape=[-1, *shape], max_num_elements=length, element_dtype=tf.float32)


def _sequence(stack, shape, length):
    x = _ops.TensorListStack(input_handle=stack, element_shape=[-1, *shape], element_dtype=tf.float32, num_elements=length)
    return _swapped(x)


def _taken(stack, x):
    """The stack without its top, and the top, a step of `x`."""
    shape = [-1, *x.shape[2:]]
    stack, step = _ops.TensorListPopBack(input_handle=stack, element_shape=shape, element_dtype=x.dtype)
    step.set_shape((x.shape[0], *x.shape[2:]))
    return stack, step


def _put(stack, x):
    with registered_gradient("TensorListPushBack", _PUT):
        return _ops.TensorListPushBack(input_handle=stack, tensor=x)


_PUT = "KerasQuantPut"


@tf.RegisterGradient(_PUT)
def _gradient_of_put(operation, upstream):
    # TensorFlow's own keeps the shape of every step, whose batch may differ.
    x = operation.inputs[1]
    return _ops.TensorListPopBack(input_handle=upstream, element_shape=[-1, *x.shape[1:]], element_dtype=x.dtype)


def _swapped(x):
    """`(batch, length, ...)` as `(length, batch, ...)`, and the other way around."""
    return tf.transpose(x, [1, 0, *range(2, x.shape.rank)])
