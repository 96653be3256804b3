"""LOGISTIC and TANH: XNNPACK tabulates the float function over the 256 inputs (`x8-lut`)."""

from keras import ops

from keras_quant.integer.table import look_up


def logistic(x, y):
    """`q_y = rint(float32(σ(s_x·c_x) · (1/s_y)) + z_y)`, at the operator's fixed output grid (1/256, -128).

    Args:
        x: `Quantized`.
        y: `QuantParams` of the output.
    """
    return look_up(x, y, ops.sigmoid)


def tanh(x, y):
    """`q_y = rint(float32(tanh(s_x·c_x) · (1/s_y)) + z_y)`, at the operator's fixed output grid (1/128, 0)."""
    return look_up(x, y, ops.tanh)
