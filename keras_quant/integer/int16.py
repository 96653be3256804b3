"""int16 activations with int8 weights: LiteRT's built-in reference kernels, in fixed point.

Zero points are 0, so centred integers are the integers. A real multiplier becomes `m · 2**(shift - 31)` with a 31-bit
integer `m` (`QuantizeMultiplier`); there are two ways to multiply by it, and FULLY_CONNECTED does without:

* `_times_wide`: a 48-bit accumulator by the upper 16 bits of `m`, rounded once (halves up): convolutions;
* `_times`: an int32 by all of `m`: the doubled high half, then a shift, each rounded (`MultiplyByQuantizedMultiplier`).
"""

import math

import numpy as np
from keras import ops

from keras_quant import backend
from keras_quant.integer.params import Quantized, activation_range

_EXPONENTS = np.arange(-64, 65)
_POWERS = np.exp2(_EXPONENTS.astype("float64"))
_INT32 = 2**31


def accumulate(product, x, weights, reduce_axes):
    """`Σ c_x·q_w + bias` in float64, exact; args as of `weights.accumulate`."""
    return product(ops.cast(x.integers, "float64"), ops.cast(weights.kernel, "float64")) + weights.bias


def rescale(accumulator, multiplier, y, bounds=(None, None)):
    """CONV_2D and DEPTHWISE_CONV_2D from their accumulator on.

    `c_y = (acc · m16 + 2**(14-shift)) >> (15-shift)` with `m16 = (m + 2**15) >> 16`, clamped.

    Args:
        accumulator: integers in float64.
        multiplier: float64 `s_x · s_w / s_y`, a scalar or one per channel (last axis).
        y: `QuantParams` of the output.
        bounds: of the fused activation.
    """
    mantissa, shift = _fixed_point(multiplier)
    mantissa = ops.where(mantissa < 0x7FFF0000, backend.shift_right(mantissa + 2**15, 16), 0x7FFF)
    total = 15 - shift
    half = backend.shift_left(ops.ones_like(total), total - 1)
    integers = backend.shift_right(ops.cast(accumulator, "int64") * mantissa + half, total)
    return _clamped(integers, y, bounds)


def rescale_rows(accumulator, multiplier, y, bounds=(None, None)):
    """FULLY_CONNECTED from its accumulator on: `c_y = round(acc · float64(s_x · s_w / s_y))`, halves away from 0, clamped.

    Args as of `rescale`.
    """
    product = accumulator * ops.cast(multiplier, "float64")
    return _clamped(ops.sign(product) * ops.floor(ops.abs(product) + 0.5), y, bounds)


def requantize(x, y):
    """QUANTIZE between int8 and int16, or from int16 to int16: `c_y = c_x · s_x/s_y` by `_times`, clamped."""
    return _clamped(_times(ops.cast(x.integers, "int64"), _ratio(x.params.scale, y.scale)), y, (None, None))


def relu(x, y):
    """RELU: as `requantize`, clamped at zero; the ratio of the scales is rounded to float32."""
    return _clamped(_times(ops.cast(x.integers, "int64"), x.params.scale / y.scale), y, (0.0, None))


def add(a, b, y, bounds=(None, None), sign=1):
    """ADD and, with `sign=-1`, SUB: both inputs at 15 more bits on a scale of twice the larger one's, then the output's.

    `c_y = ((c_a·2**15)·(s_a/2s) ± (c_b·2**15)·(s_b/2s)) · (2s/(2**15·s_y))`, `s = max(s_a, s_b)`; the inner products
    are rounded once, the outer one by `_times`.
    """
    scales = [ops.cast(v.params.scale, "float64") for v in (a, b)]
    twice = 2.0 * ops.maximum(*scales)
    first, second = (_times_once(ops.cast(v.integers, "int64") * 2**15, s / twice) for v, s in zip((a, b), scales))
    return _clamped(_times(first + sign * second, twice / (2.0**15 * ops.cast(y.scale, "float64"))), y, bounds)


def subtract(a, b, y, bounds=(None, None)):
    """SUB: as `add`, with the second input's sign turned."""
    return add(a, b, y, bounds, sign=-1)


def mean(x, y, axes, keepdims=False):
    """The mean over an image: AVERAGE_POOL_2D and then QUANTIZE. Args as of `pooling.mean`."""
    count = math.prod(x.integers.shape[axis] for axis in axes)
    total = ops.sum(ops.cast(x.integers, "float64"), axis=axes, keepdims=keepdims)
    return requantize(Quantized(_share(total, ops.cast(count, "float64")), x.params), y)


def average_pool(x, pool_size, strides, padding):
    """AVERAGE_POOL_2D, on the input's grid: the mean over the window's part on the image, halves away from zero.

    Args:
        x: `Quantized` of `(n, h, w, c)`.
        pool_size, strides: two integers each.
        padding: "valid" or "same".
    """
    window = ops.ones((*pool_size, 1, 1), "float64")
    sums = lambda images: ops.conv(ops.cast(images, "float64"), window, strides, padding, "channels_last")
    height, width, channels = x.integers.shape[1:]
    # Each channel as an image: a depthwise convolution has no float64 with strides that differ.
    total = sums(ops.reshape(ops.transpose(x.integers, (0, 3, 1, 2)), (-1, height, width, 1)))
    rounded = _share(total, sums(ops.ones((1, height, width, 1))))
    return ops.transpose(ops.reshape(rounded, (-1, channels, *rounded.shape[1:3])), (0, 2, 3, 1))


def _share(total, count):
    """An integer division that rounds halves away from zero."""
    return ops.cast(ops.sign(total) * ops.floor((ops.abs(total) + ops.floor(count / 2)) / count), "float32")


def _ratio(numerator, denominator):
    return ops.cast(numerator, "float64") / ops.cast(denominator, "float64")


def _fixed_point(multiplier):
    """Mantissa and shift: `multiplier = mantissa · 2**(shift - 31)`, int64 both."""
    multiplier = ops.cast(multiplier, "float64")
    # floor(log2) by comparing with exact powers of two: a float logarithm may round up just below one.
    below = ops.sum(ops.cast(_POWERS <= multiplier[..., None], "int32"), axis=-1) - 1
    shift = ops.take(_EXPONENTS.astype("int64"), below) + 1
    share = multiplier / (2.0 * ops.take(_POWERS, below))
    mantissa = ops.cast(ops.floor(share * float(_INT32) + 0.5), "int64")
    full = mantissa == _INT32
    return ops.where(full, mantissa // 2, mantissa), shift + ops.cast(full, "int64")


def _times_once(x, multiplier):
    mantissa, shift = _fixed_point(multiplier)
    total = 31 - shift
    return backend.shift_right(x * mantissa + backend.shift_left(ops.ones_like(total), total - 1), total)


def _times(x, multiplier):
    mantissa, shift = _fixed_point(multiplier)
    left, right = ops.maximum(shift, 0), ops.maximum(-shift, 0)
    product = backend.shift_left(x, left) * mantissa
    high = backend.shift_right(product + 2**30, 31)
    mask = backend.shift_left(ops.ones_like(right), right) - 1
    threshold = backend.shift_right(mask, 1) + ops.cast(high < 0, "int64")
    return backend.shift_right(high, right) + ops.cast(backend.mask_bits(high, mask) > threshold, "int64")


def _clamped(integers, y, bounds):
    low, high = activation_range(y, bounds)
    return backend.clip(ops.cast(integers, "float32"), low, high)
