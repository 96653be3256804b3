"""Functions of one int8 value by a table of 256 entries: XNNPACK's own (`x8-lut`), or the file's."""

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
    table = tabulate(x.params, y.kernel, function) - y.kernel.zero_point
    return take(backend.clip(table, y.low, y.high), x)


def tabulate(x, y, function):
    """The 256 int8 outputs of a function, for the inputs -128…127; a file may hold it as a constant for GATHER.

    Args:
        x, y: `QuantParams` of input and output.
        function: real function of a float64 tensor; where it is NaN or infinite the table saturates.

    Returns:
        Integer-valued float32 `(256,)`.
    """
    # float64 and one rounding: the nearest float32, which any good libm also gives.
    exact = ops.cast(function(ops.cast(every_value(x) * x.scale, "float64")), "float32")
    values = backend.round_half_even(exact * (1.0 / y.scale) + y.zero_point)
    return backend.clip(ops.nan_to_num(values, posinf=INT8_MAX, neginf=INT8_MIN), INT8_MIN, INT8_MAX)


def every_value(x):
    """The 256 centred integers of a grid, in order: what a table is indexed by."""
    return ops.arange(INT8_MIN, INT8_MAX + 1, dtype="float32") - x.zero_point


def take(centred, x):
    """The entries of a table of centred integers that `x` points to."""
    return ops.take(centred, ops.cast(x.integers + (x.params.zero_point - INT8_MIN), "int32"))
