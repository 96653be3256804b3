"""ADD and SUB: XNNPACK's `qs8-vadd`, 20-bit fixed point."""

import numpy as np
from keras import ops

from keras_quant import backend
from keras_quant.integer.params import activation_range, float32_ratio

SMALLEST_RATIO, LARGEST_RATIO = 2.0**-10, 2.0**8
_EXPONENTS = np.arange(-32, 33)
_POWERS = np.exp2(_EXPONENTS.astype("float64"))


def add(a, b, y, bounds=(None, None)):
    """`c_y = (c_a·m_a + c_b·m_b + 2**(shift-1)) >> shift`, clamped.

    `shift = 20 - floor(log2(max(s_a/s_y, s_b/s_y)))` and `m = rint(ratio · 2**shift)`, ratios in float32. XNNPACK wants
    ratios in [2**-10, 2**8); an input below that is less than a quarter step of the output and counts as zero.

    Args:
        a, b: `Quantized`; shapes broadcast.
        y: `QuantParams` of the output.
        bounds: of the fused activation.
    """
    return _weighted_sum(a, b, y, bounds, sign=1)


def subtract(a, b, y, bounds=(None, None)):
    """As `add`, with the second multiplier negated."""
    return _weighted_sum(a, b, y, bounds, sign=-1)


def _weighted_sum(a, b, y, bounds, sign):
    ratio_a, ratio_b = (_kept(float32_ratio(x.params.scale, y.scale)) for x in (a, b))
    # floor(log2(ratio)) by comparing with exact powers of two: a float logarithm rounds up just below a power.
    larger = ops.sum(ops.cast(_POWERS <= ops.maximum(ratio_a, ratio_b), "int32")) - 1
    shift = 20 - ops.take(_EXPONENTS.astype("int32"), larger)
    power = ops.take(_POWERS, shift - int(_EXPONENTS[0]))
    multiplier_a = ops.cast(backend.round_half_even(ratio_a * power), "int32")
    multiplier_b = sign * ops.cast(backend.round_half_even(ratio_b * power), "int32")
    half = ops.cast(power / 2, "int32")
    total = ops.cast(a.integers, "int32") * multiplier_a + (ops.cast(b.integers, "int32") * multiplier_b + half)
    low, high = activation_range(y, bounds)
    return backend.clip(ops.cast(backend.shift_right(total, shift), "float32"), low, high)


def _kept(ratio):
    return ops.cast(ops.where(ratio < SMALLEST_RATIO, 0.0, ratio), "float64")
