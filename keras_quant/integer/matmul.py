"""BATCH_MATMUL: XNNPACK's `qs8-qc8w-gemm` with float32 requantization, packed at run time."""

from keras import ops

from keras_quant.integer.params import float32_product, float32_ratio, rescale


def batch_matmul(a, b, y):
    """`c_y = rint(float32(Σ c_a·c_b) · float32(float32(s_a·s_b) / s_y))`, clamped.

    Args:
        a, b: `Quantized` of `(..., m, k)` and `(..., k, n)`; the zero point of `b` is 0.
        y: `QuantParams` of the output.
    """
    exact = a.integers.shape[-1] * 255 * 128 < 2**24
    left, right = (x.integers if exact else ops.cast(x.integers, "float64") for x in (a, b))
    total = ops.cast(ops.matmul(left, right), "float32")
    return rescale(total, float32_ratio(float32_product(a.params.scale, b.params.scale), y.scale), y)
