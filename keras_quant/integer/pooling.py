"""MEAN and SUM. (MAX_POOL_2D, REDUCE_MAX and REDUCE_MIN keep scale and zero point: the extreme of the integers.)"""

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
    # In float64: a compiler may turn a float32 division by a constant into a product, which rounds otherwise.
    multiplier = ops.cast(ops.cast(x.params.scale / y.scale, "float64") / _count(x, axes), "float32")
    return rescale(_total(x, axes, keepdims), multiplier, y)


def sum(x, y, axes, keepdims=False):
    """SUM: `c_y = rint(Σ c_x · float32(s_x / s_y))`, clamped. Args: as in `mean`."""
    return rescale(_total(x, axes, keepdims), x.params.scale / y.scale, y)


def _count(x, axes):
    return math.prod(x.integers.shape[axis] for axis in axes)


def _total(x, axes, keepdims):
    wide = ops.cast(x.integers, "float64") if _count(x, axes) >= 2**16 else x.integers
    return ops.cast(ops.sum(wide, axis=axes, keepdims=keepdims), "float32")
