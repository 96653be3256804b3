"""ELU: XNNPACK tabulates the float function over the 256 inputs (`x8-lut`)."""

from keras import ops

from keras_quant.integer.table import look_up


def elu(x, y):
    """`q_y = rint(float32(elu(s_x·c_x) · (1/s_y)) + z_y)`, clamped; its slope is 1.

    Args:
        x: `Quantized`.
        y: `QuantParams` of the output.
    """
    return look_up(x, y, ops.elu)
