"""Integer weights: a float kernel, its per-channel scale and a following batch normalization become int8, int32, scale."""

import dataclasses
import math
from typing import Any

from keras import ops

from keras_quant import backend
from keras_quant.integer.params import float32_product, float32_ratio

# An int32 bias of at most 2**30 leaves the accumulator room for the products.
BIAS_LIMIT = 2.0**30
# Products of so few terms are exact in float32 whatever the weights; so few sums a sample take float64 sooner than the look
# at the biases that would spare it, which takes a while to trace.
_EXACT_TERMS, _FEW_SUMS = 2**24 // (127 * 255), 2**14
# XNNPACK takes requantization multipliers below 256; far below 2**-30 a channel adds nothing to any output.
SMALLEST_MULTIPLIER, LARGEST_MULTIPLIER = 2.0**-30, 255.0


@dataclasses.dataclass(frozen=True)
class FoldedWeights:
    """What the file holds of a weighted layer.

    Attributes:
        kernel: symmetric integers, in [-127, 127] for 8 bits, as float32, in the Keras kernel's layout.
        bias: integers as float64, `(channels,)`, to be stored as int32.
        scale: float32 `(channels,)`.
        multiplier: float32 `(channels,)`, `float32(s_x · s_w) / s_y` in XNNPACK's order of operations.
        exact_multiplier: float64 `(channels,)`, for the kernels of int16.
    """

    kernel: Any
    bias: Any
    scale: Any
    multiplier: Any
    exact_multiplier: Any = None


def fold(kernel, kernel_scale, bias, gain, x, y, channel_shape, limit=127):
    """Fold a per-channel gain and bias into symmetric per-channel integer weights.

    Symmetric per-channel scales commute with a per-channel gain g: `g·w = (g·s)·(w/s)`, so the integers are those that
    training saw and only their scale (and, for g < 0, their sign) changes. A channel whose scale would leave what the
    kernels take (a dead channel: g or w zero) is rounded anew with the nearest scale they do.

    Args:
        kernel: float32 weights.
        kernel_scale: float32 `(channels,)`, the training scale of `kernel`; positive.
        bias: float `(channels,)`, real-valued, after the gain.
        gain: float `(channels,)`.
        x, y: `QuantParams` of the layer's input and output.
        channel_shape: shape that broadcasts `(channels,)` against `kernel`.
        limit: largest integer weight.

    Returns:
        `FoldedWeights`. Scales are computed in float64 and rounded once, so that eager, graph and XLA execution agree.
    """
    wide = lambda v: ops.cast(v, "float64")
    gain, own, sx, sy = wide(gain), wide(kernel_scale), wide(x.scale), wide(y.scale)
    folded = own * ops.abs(gain)
    smallest = ops.maximum(ops.abs(wide(bias)) / (sx * BIAS_LIMIT), SMALLEST_MULTIPLIER * sy / sx)
    # A bias that needs more than the largest multiplier saturates the output either way.
    scale = ops.minimum(ops.maximum(folded, smallest), LARGEST_MULTIPLIER * sy / sx)
    to_integer = ops.where(ops.equal(scale, folded), ops.sign(gain) / own, gain / scale)
    scale = ops.cast(scale, "float32")
    to_integer = ops.reshape(ops.cast(to_integer, "float32"), channel_shape)
    bias_limit = 2.0**31 - 2.0**8
    return FoldedWeights(
        kernel=backend.clip(backend.round_half_even(kernel * to_integer), -float(limit), float(limit)),
        bias=backend.clip(backend.round_half_even(wide(bias) / (sx * wide(scale))), -bias_limit, bias_limit),
        scale=scale,
        multiplier=float32_ratio(float32_product(x.scale, scale), y.scale),
        exact_multiplier=sx * wide(scale) / sy,
    )


def accumulate(product, x, weights, reduce_axes):
    """`Σ c_x·q_w + bias`, rounded to float32 once, as the kernels convert their int32 accumulator.

    Float32 sums of integers are exact while every partial sum stays below 2**24. Where the largest sum that these weights
    can give lies above, the kernel is taken apart into digits small enough, and the digits' sums are added in float64.

    Args:
        product: function (inputs, kernel) → sums; linear.
        x: centred integers of the input, as `Quantized`.
        weights: `FoldedWeights`.
        reduce_axes: axes of the kernel that are summed over for one output channel.

    Returns:
        float32 tensor.
    """
    integers, params = x.integers, x.params
    terms = math.prod(weights.kernel.shape[axis] for axis in reduce_axes)
    exact = product(integers, weights.kernel) if terms <= _EXACT_TERMS else None
    if exact is not None and None not in exact.shape[1:] and math.prod(exact.shape[1:]) <= _FEW_SUMS:
        return ops.cast(ops.cast(exact, "float64") + weights.bias, "float32")
    furthest = ops.maximum(ops.abs(params.low), ops.abs(params.high))
    products = ops.max(ops.sum(ops.abs(weights.kernel), axis=reduce_axes)) * furthest
    largest = ops.cast(products, "float64") + ops.max(ops.abs(weights.bias))

    def narrow():
        return (product(integers, weights.kernel) if exact is None else exact) + ops.cast(weights.bias, "float32")

    def wide():
        total = ops.cast(weights.bias, "float64")
        if exact is not None:
            return ops.cast(ops.cast(exact, "float64") + total, "float32")
        if terms * 255 >= 2**24:
            return ops.cast(product(ops.cast(integers, "float64"), ops.cast(weights.kernel, "float64")) + total, "float32")
        for place, digit in _digits(weights.kernel, terms):
            total = total + ops.cast(product(integers, digit), "float64") * place
        return ops.cast(total, "float32")

    return ops.cond(largest < 2.0**24, narrow, wide)


def _digits(kernel, terms):
    """Integers in [-127, 127] as `Σ place · digit`, digits so small that `terms` products with 255 sum to below 2**24."""
    largest = 2**24 // (255 * terms)
    base, place = float(2 * largest + 1), 1.0
    while place < 255:
        higher = backend.round_half_even(kernel / base)
        yield place, kernel - higher * base
        kernel, place = higher, place * base
