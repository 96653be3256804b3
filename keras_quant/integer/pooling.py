"""MEAN and SUM, and the sums of windows.

(MAX_POOL_2D, REDUCE_MAX and REDUCE_MIN keep scale and zero point: the extreme of the integers.)
"""

import functools
import math

from keras import ops

from keras_quant import backend
from keras_quant.integer.params import float32_product, float32_ratio


def mean(x, y, axes, keepdims=False):
    """MEAN: `q_y = rint(Σ q_x · m + (z_y - n·z_x · m))`, clamped, `m = float32(float32(s_x / s_y) · float32(1 / n))`.

    XNNPACK's `qs8-rsum` sums the integers as they are and corrects for the zero point in float32 (`reduce-nd.c`), so halves
    may fall to either side. Every operation is rounded to float32, as on x86-64. On 64-bit Arm product and sum are rounded
    once together, which gives the other neighbour where the result lies within about 1e-5 of a half.

    Args:
        x: `Quantized`.
        y: `QuantParams` of the output.
        axes: reduced axes.
        keepdims: keep them as ones.
    """
    share = float32_ratio(1.0, _count(x, axes))
    return _requantized_sum(x, y, axes, keepdims, float32_product(float32_ratio(x.params.scale, y.scale), share))


def sum(x, y, axes, keepdims=False):
    """SUM: as `mean`, with `m = float32(s_x / s_y)`."""
    return _requantized_sum(x, y, axes, keepdims, float32_ratio(x.params.scale, y.scale))


def _requantized_sum(x, y, axes, keepdims, multiplier):
    # Products in float64 are exact: no compiler can round them and the sum together.
    multiplier, count = _wide(multiplier), _count(x, axes)
    x_zero, y_zero = x.params.stored.zero_point, y.kernel.zero_point
    zero_points = _float32(_wide(x_zero) * count * multiplier)
    offset = _float32(_wide(y_zero) - _wide(zero_points))
    total = ops.sum(_wide(x.integers + x_zero), axis=axes, keepdims=keepdims)
    scaled = _float32(_wide(_float32(_wide(_float32(total)) * multiplier)) + _wide(offset))
    return backend.clip(backend.round_half_even(scaled) - y_zero, y.low, y.high)


def _count(x, axes):
    return math.prod(x.integers.shape[axis] for axis in axes)


def _wide(value):
    return ops.cast(value, "float64")


def _float32(value):
    return ops.cast(value, "float32")


def window_sums(x, window, strides, padding):
    """The sum over each window, one axis after the other.

    Args:
        x: tensor `(n, *places, c)`.
        window, strides: an integer for each of the places' axes.
        padding: "valid" or "same", with zeros.
    """
    for axis, (taps, stride) in enumerate(zip(window, strides), 1):
        size = x.shape[axis]
        count = -(-size // stride) if padding == "same" else (size - taps) // stride + 1
        reach = (count - 1) * stride + 1
        missing = max(reach + taps - 1 - size, 0)
        if missing:
            widths = [(missing // 2, missing - missing // 2) if a == axis else (0, 0) for a in range(len(x.shape))]
            x = ops.pad(x, widths)
        before = (slice(None),) * axis
        x = functools.reduce(ops.add, [x[(*before, slice(tap, tap + reach, stride))] for tap in range(taps)])
    return x
