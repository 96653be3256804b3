"""GELU: the built-in kernel tabulates it over the 256 inputs (`LUTPopulate`)."""

import math

import numpy as np
from keras import ops

from keras_quant import backend
from keras_quant.integer.table import every_value, take


def gelu(x, y, approximate):
    """GELU: the built-in kernel tabulates it in float32 (`GeluTransform`, `LUTPopulate`), halves rounded away from zero.

    `q_y = round(g(s_x·c_x) · (1/s_y)) + z_y` with `g(v) = 0.5·v·erfc(-v/√2)`, or, approximate,
    `0.5·v·(1 + tanh(√(2/π)·(v + 0.044715·v³)))`, every product rounded to float32.

    Args:
        x: `Quantized`.
        y: `QuantParams` of the output.
        approximate: Python bool, which of the two.
    """
    times = backend.product_in_place
    v = times(every_value(x.params), x.params.scale)
    through = lambda function, argument: ops.cast(function(ops.cast(argument, "float64")), "float32")
    if approximate:
        cube = times(times(times(np.float32(0.044715), v), v), v)
        factor = 1.0 + through(ops.tanh, times(np.float32(math.sqrt(2 / math.pi)), v + cube))
    else:
        factor = through(backend.erfc, times(v, np.float32(-math.sqrt(0.5))))
    scaled = ops.cast(times(times(0.5 * v, factor), 1.0 / y.scale), "float64")
    rounded = ops.cast(ops.sign(scaled) * ops.floor(ops.abs(scaled) + 0.5), "float32")
    return take(backend.clip(rounded, y.low, y.high), x)
