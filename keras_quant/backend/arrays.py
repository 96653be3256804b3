"""Operations on tensors."""

import keras
import tensorflow as tf
from tensorflow.python.ops import control_flow_util


def read(variable):
    """The present value of a Keras variable (or tensor), as a plain tensor."""
    value = getattr(variable, "value", variable)
    return tf.convert_to_tensor(variable if callable(value) else value)


def constant(value, dtype=tf.float32):
    """A number or a tuple of them, the same operation wherever a graph wants it; of a tensor, its cast."""
    if tf.is_tensor(value):
        return tf.cast(value, dtype)
    if tf.executing_eagerly():
        return tf.constant(value, dtype)
    graph, key = tf.compat.v1.get_default_graph(), (value if isinstance(value, tuple) else float(value), dtype)
    constants = getattr(graph, "_keras_quant_constants", {})
    graph._keras_quant_constants = constants
    if key not in constants:
        with tf.control_dependencies(None):
            constants[key] = tf.constant(value, dtype)
    return constants[key]


def cut_in_parts(x, axis, begin, end):
    """`x[begin:end]` along an axis, of parts of one length that a tensor is cut in once; `None` where it is no such part.

    The gradient of all parts together is one tensor; that of a slice is as large as `x`, for each of them.
    """
    size = x.shape[axis]
    begin, end, _ = slice(begin, end).indices(size)
    length = end - begin
    if length <= 0 or begin % length or size % length:
        return None
    known = x.__dict__.setdefault("_keras_quant_parts", {})
    if (axis, length) not in known:
        known[axis, length] = tf.split(x, size // length, axis)
    return known[axis, length][begin // length]


def smallest(x):
    """The smallest value of a tensor, a scalar."""
    return tf.raw_ops.Min(input=x, axis=_all_axes(x))


def largest(x):
    """The largest value of a tensor, a scalar."""
    return tf.raw_ops.Max(input=x, axis=_all_axes(x))


def _all_axes(x):
    return constant(tuple(range(len(x.shape))), tf.int32)


def where_below(x, bound, values, otherwise):
    """`values` where `x` is below a number, a number `otherwise`: also where `x` is NaN."""
    return tf.where(x < constant(bound), values, constant(otherwise))


def round_half_even(x):
    """Round half to even, in float."""
    return tf.math.rint(x)


def round_to_bfloat16(x):
    """Positive float32 numbers, rounded to the nearest of bfloat16, to even; by their bits, as compilers drop casts."""
    bits = tf.bitcast(x, tf.int32)
    bits = bits + 0x7FFF + tf.bitwise.bitwise_and(tf.bitwise.right_shift(bits, 16), 1)
    return tf.bitcast(tf.bitwise.bitwise_and(bits, -0x10000), tf.float32)


def erfc(x):
    """The complementary error function, accurate far out where `1 - erf(x)` is not."""
    return tf.math.erfc(x)


def clip(x, low, high):
    """Clip to `[low, high]` in one pass over memory (`keras.ops.clip` takes two); the bounds are scalars."""
    return tf.raw_ops.ClipByValue(t=x, clip_value_min=constant(low, x.dtype), clip_value_max=constant(high, x.dtype))


def add_bias(x, bias):
    """`x + bias` along the last axis; the gradient of `bias` takes a third of what TensorFlow's of a sum does."""
    return tf.nn.bias_add(x, bias)


def dense(x, kernel, bias):
    """`x @ kernel + bias` over the last axis, of rows in a matrix, so that TensorFlow's optimizer makes it one operation."""
    rows = x if len(x.shape) == 2 else tf.reshape(x, (-1, x.shape[-1]))
    y = tf.nn.bias_add(tf.linalg.matmul(rows, kernel), bias)
    return y if len(x.shape) == 2 else tf.reshape(y, shape_with(x, kernel.shape[-1]))


def shape_with(x, size):
    """The shape of `x` but for its last axis, which has `size` values; for `reshape`, of few operations."""
    leading = x.shape[:-1]
    if sum(n is None for n in leading) > 1:
        return tf.concat([tf.shape(x)[:-1], [size]], 0)
    return constant(tuple(-1 if n is None else n for n in leading) + (size,), tf.int32)


def matmul(x, y, transpose_y=False):
    """The product of matrices; `y` with its last two axes exchanged is not copied, neither here nor in the gradient."""
    return tf.linalg.matmul(x, y, transpose_b=transpose_y)


def product_in_place(x, y):
    """`x * y` of finite tensors, where it stands: `(x * y) * z` and `x * (y * z)` stay in that order.

    TensorFlow's optimizer takes a chain of plain products in the order that broadcasts least (`MinimizeBroadcasts`), which
    rounds otherwise. It leaves this operation alone, which takes a third longer.
    """
    return tf.math.multiply_no_nan(x, y)


def shift_right(x, amount):
    """Arithmetic shift of integers; `keras.ops` has it from Keras 3.9 on."""
    return tf.bitwise.right_shift(x, tf.cast(amount, x.dtype))


def shift_left(x, amount):
    """Shift of integers to the left."""
    return tf.bitwise.left_shift(x, tf.cast(amount, x.dtype))


def mask_bits(x, mask):
    """The bits of integers that are set in `mask`."""
    return tf.bitwise.bitwise_and(x, mask)


def search_sorted(ascending, values):
    """For each value, how many of `ascending` are smaller."""
    return tf.searchsorted(ascending, values)


def scale_and_shift(x, scale, shift):
    """`x * scale + shift` per channel."""
    return x * scale + shift


def keras_logits(probabilities, logits):
    """Mark `probabilities` with the logits they came from, so that Keras's losses compute from those (as Keras does)."""
    probabilities._keras_logits = logits
    return probabilities


def is_symbolic(x):
    return isinstance(x, keras.KerasTensor)


def is_eager():
    """Whether operations are run as they are called, in no graph."""
    return tf.executing_eagerly()


def compiles_with_xla():
    """Whether the function being traced is one of `jit_compile=True`."""
    return not tf.executing_eagerly() and control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())
