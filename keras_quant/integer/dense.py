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
    return own.rescale_rows(own.accumulate(_rows_by, x, weights, (0,)), weights, y, bounds)


def _rows_by(x, kernel):
    """`ops.matmul`, whose graph works out the sizes of rows where those of a sample are known."""
    sample = x.shape[1:-1]
    if not sample or None in sample:
        return ops.matmul(x, kernel)
    return ops.reshape(ops.matmul(ops.reshape(x, (-1, x.shape[-1])), kernel), (-1, *sample, kernel.shape[-1]))
