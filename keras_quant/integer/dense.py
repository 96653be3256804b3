"""FULLY_CONNECTED, per channel. XNNPACK: `qs8-qc8w-gemm` with float32 requantization."""

from keras import ops

from keras_quant.integer.arithmetic import kernels


def fully_connected(x, weights, y, bounds=(None, None)):
    """`c_y = rint(float32(Σ c_x·q_w + bias) · float32(float32(s_x·s_w[c]) / s_y))`, clamped.

    Args:
        x: `Quantized` of `(..., inputs)`.
        weights: `FoldedWeights` with kernel `(inputs, units)`.
        y: `QuantParams` of the output.
        bounds: of the fused activation.
    """
    own = kernels(y)
    return own.rescale_rows(own.accumulate(ops.matmul, x, weights, (0,)), weights, y, bounds)
