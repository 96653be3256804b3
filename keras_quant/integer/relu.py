"""QUANTIZE from int8 to int8 (which also carries a stand-alone ReLU) and LEAKY_RELU: 8-bit fixed point."""

from keras import ops

from keras_quant import backend
from keras_quant.integer.params import float32_product, float32_ratio


def requantize(x, y):
    """QUANTIZE int8 → int8: `c_y = (c_x·rint(256·s_x/s_y) + 128) >> 8`, clamped. XNNPACK: `qs8-vcvt`.

    A ReLU is the clamp of an output whose zero point is -128; a bounded one has its bound at q = 127.
    Ratios outside [2**-8, 2**7] are refused by XNNPACK.

    Args:
        x: `Quantized`.
        y: `QuantParams` of the output.
    """
    return _shift_by_8(x.integers * _fixed_point(float32_ratio(x.params.scale, y.scale)), y)


def leaky_relu(x, y, alpha):
    """LEAKY_RELU: as `requantize`, with `rint(256·alpha·s_x/s_y)` on the negative side. XNNPACK: `qs8-vlrelu`.

    Args:
        x: `Quantized`.
        y: `QuantParams` of the output.
        alpha: Python float, the negative slope.
    """
    positive = float32_ratio(x.params.scale, y.scale)
    negative = float32_product(positive, ops.cast(alpha, "float32"))
    slope = ops.where(x.integers >= 0, _fixed_point(positive), _fixed_point(negative))
    return _shift_by_8(x.integers * slope, y)


def _fixed_point(multiplier):
    return backend.round_half_even(256.0 * multiplier)


def _shift_by_8(product, y):
    # Exact in float32: products stay below 2**24 and a division by 256 only moves the exponent.
    return backend.clip(ops.floor((product + 128.0) * (1 / 256)), y.low, y.high)
