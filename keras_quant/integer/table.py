"""Functions of one int8 value by a table of 256 entries: XNNPACK's own (`x8-lut`), the built-in GELU's, and the file's."""

import math

import numpy as np
from keras import ops

from keras_quant import backend
from keras_quant.integer.params import INT8_MAX, INT8_MIN


def look_up(x, y, function):
    """Any function that XNNPACK tabulates: `q_y = rint(float32(function(s_x·c_x) · (1/s_y)) + z_y)`, clamped.

    Args:
        x: `Quantized`.
        y: `QuantParams` of the output.
        function: real function of a float64 tensor.
    """
    return _take(tabulate(x.params, y, function) - y.zero_point, x)


def tabulate(x, y, function):
    """The 256 int8 outputs of a function, for the inputs -128…127; a file may hold it as a constant for GATHER.

    Args:
        x, y: `QuantParams` of input and output.
        function: real function of a float64 tensor; where it is NaN or infinite the table saturates.

    Returns:
        Integer-valued float32 `(256,)`.
    """
    # float64 and one rounding: the nearest float32, which any good libm also gives.
    exact = ops.cast(function(ops.cast(_every(x) * x.scale, "float64")), "float32")
    values = backend.round_half_even(exact * (1.0 / y.scale) + y.zero_point)
    return backend.clip(ops.nan_to_num(values, posinf=INT8_MAX, neginf=INT8_MIN), INT8_MIN, INT8_MAX)


def elu(x, y):
    """ELU with slope 1: XNNPACK tabulates it, see `look_up`."""
    return look_up(x, y, ops.elu)


def gelu(x, y, approximate):
    """GELU: the built-in kernel tabulates it in float32 (`GeluTransform`, `LUTPopulate`), halves rounded away from zero.

    `q_y = round(g(s_x·c_x) · (1/s_y)) + z_y` with `g(v) = 0.5·v·erfc(-v/√2)`, or, approximate,
    `0.5·v·(1 + tanh(√(2/π)·(v + 0.044715·v³)))`, every product rounded to float32.

    Args:
        x: `Quantized`.
        y: `QuantParams` of the output.
        approximate: Python bool, which of the two.
    """
    v = _every(x.params) * x.params.scale
    through = lambda function, argument: ops.cast(function(ops.cast(argument, "float64")), "float32")
    if approximate:
        inner = float(np.float32(math.sqrt(2 / math.pi))) * (v + float(np.float32(0.044715)) * v * v * v)
        values = 0.5 * v * (1.0 + through(ops.tanh, inner))
    else:
        values = 0.5 * v * through(backend.erfc, v * float(np.float32(-math.sqrt(0.5))))
    scaled = ops.cast(values * (1.0 / y.scale), "float64")
    rounded = ops.cast(ops.sign(scaled) * ops.floor(ops.abs(scaled) + 0.5), "float32")
    return _take(backend.clip(rounded, y.low, y.high), x)


def _every(x):
    return ops.arange(INT8_MIN, INT8_MAX + 1, dtype="float32") - x.zero_point


def _take(centred, x):
    return ops.take(centred, ops.cast(x.integers + (x.params.zero_point - INT8_MIN), "int32"))
