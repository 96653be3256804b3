"""LOGISTIC and TANH: XNNPACK tabulates the float function over the 256 inputs (`x8-lut`)."""

from keras import ops

from keras_quant import backend
from keras_quant.integer.params import INT8_MAX, INT8_MIN


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


def look_up(x, y, function):
    """Any function that XNNPACK tabulates: `q_y = rint(float32(function(s_x·c_x) · (1/s_y)) + z_y)`, clamped.

    Args:
        x: `Quantized`.
        y: `QuantParams` of the output.
        function: real function of a float64 tensor.
    """
    zero_point = x.params.zero_point
    every = ops.arange(INT8_MIN, INT8_MAX + 1, dtype="float32") - zero_point
    # float64 and one rounding: the nearest float32, which any good libm also gives.
    exact = ops.cast(function(ops.cast(every * x.params.scale, "float64")), "float32")
    table = backend.round_half_even(exact * (1.0 / y.scale) + y.zero_point)
    table = backend.clip(table, INT8_MIN, INT8_MAX) - y.zero_point
    return ops.take(table, ops.cast(x.integers + (zero_point - INT8_MIN), "int32"))
