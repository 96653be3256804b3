"""Reductions of kernels to one value a channel.

TensorFlow's own over the leading axes of a large matrix take as long as several passes on a CPU, above all where the
number of channels is a power of two. Pooling and a product with ones find the same in one pass.
"""

import math

import tensorflow as tf

from keras_quant.backend.arrays import compiles_with_xla

# Fewer values are reduced as fast as they are read, whichever way.
LARGE = 2**18
# Rows that pooling takes at a time.
WINDOW = 64


def largest_size(x, axes):
    """`max |x|` over `axes`."""
    sizes = tf.abs(x)
    if not _is_large_matrix(sizes, axes):
        return tf.reduce_max(sizes, axes)
    rows, channels = _matrix(sizes, axes)
    window = (min(rows.shape[0], WINDOW), 1)
    pooled = tf.nn.max_pool2d(tf.reshape(rows, (1, rows.shape[0], 1, rows.shape[1])), window, window, "SAME")
    return tf.reshape(tf.reduce_max(pooled, (0, 1, 2)), channels)


def sum_over(x, axes):
    """The sum over `axes`."""
    if not _is_large_matrix(x, axes):
        return tf.reduce_sum(x, axes)
    rows, channels = _matrix(x, axes)
    return tf.reshape(tf.linalg.matmul(tf.ones((1, rows.shape[0])), rows), channels)


def is_large(x):
    """Whether a tensor has many values, or nobody knows how many."""
    return None in x.shape or math.prod(x.shape) >= LARGE


def _is_large_matrix(x, axes):
    """Whether `axes` are the leading ones of many values, and no compiler finds a better way."""
    leading = tuple(axes) == tuple(range(len(axes)))
    return leading and x.dtype == tf.float32 and is_large(x) and not compiles_with_xla()


def _matrix(x, axes):
    """`x` as a matrix of a row for each place along `axes`, and the shape of a row."""
    channels = x.shape[len(axes) :]
    return tf.reshape(x, (math.prod(x.shape[: len(axes)]), math.prod(channels))), channels
