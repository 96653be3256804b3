"""MEAN and AVERAGE_POOL_2D. (MAX_POOL_2D keeps scale and zero point: the maximum of the integers.)"""

import math

from keras import ops

from keras_quant.integer.params import rescale


def mean(x, y, axes, keepdims=False):
    """MEAN: `c_y = rint(Σ c_x · float32(float32(s_x / s_y) / n))`, clamped. XNNPACK: `qs8-rsum`.

    Args:
        x: `Quantized`.
        y: `QuantParams` of the output.
        axes: reduced axes.
        keepdims: keep them as ones.
    """
    count = math.prod(x.integers.shape[axis] for axis in axes)
    wide = ops.cast(x.integers, "float64") if count >= 2**16 else x.integers
    total = ops.cast(ops.sum(wide, axis=axes, keepdims=keepdims), "float32")
    # In float64: a compiler may turn a float32 division by a constant into a product, which rounds otherwise.
    multiplier = ops.cast(ops.cast(x.params.scale / y.scale, "float64") / count, "float32")
    return rescale(total, multiplier, y)


def average_pool_2d(x, pool_size, strides, padding):
    """AVERAGE_POOL_2D, the built-in kernel: the mean of `q` (not of `q - z`) over the window's real elements.

    Rounded to nearest, halves away from zero, in integers; scale and zero point are the input's.

    Args:
        x: `Quantized` of `(n, h, w, c)`.
        pool_size, strides: two integers each.
        padding: "valid" or "same".
    """
    zero_point = x.params.zero_point
    channels = x.integers.shape[-1]

    def window_sum(values, depth):
        return ops.depthwise_conv(values, ops.ones((*pool_size, depth, 1)), strides, padding, "channels_last")

    count = window_sum(ops.ones_like(x.integers[:1, :, :, :1]), 1)
    total = window_sum(x.integers + zero_point, channels)
    # The half keeps the quotient off the integers, where a division turned into a product would fall to either side.
    return ops.sign(total) * ops.floor((ops.abs(total) + ops.floor(count / 2) + 0.5) / count) - zero_point
