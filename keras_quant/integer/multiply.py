"""MUL: XNNPACK's `qs8-vmul` with float32 requantization."""

from keras_quant import backend
from keras_quant.integer.params import float32_product, float32_ratio, rescale


def multiply(a, b, y, bounds=(None, None)):
    """`c_y = rint(c_a·c_b · float32(float32(s_a·s_b) / s_y))`, clamped.

    Args:
        a, b: `Quantized`; shapes broadcast.
        y: `QuantParams` of the output.
        bounds: of the fused activation.
    """
    multiplier = float32_ratio(float32_product(a.params.scale, b.params.scale), y.scale)
    return rescale(backend.product_in_place(a.integers, b.integers), multiplier, y, bounds)
