"""Where the same file rounds to another neighbour on another processor: what lies half way, or as good as.

XNNPACK's MUL multiplies in float32 on x86-64 (`qs8-vmul-minmax-fp32`) and in fixed point on Arm (`-rndnu`, halves up); its
MEAN and SUM round product and correction once on Arm, where a compiler fuses them, and twice on x86-64. Both are a matter
of the scales: whether any integers at all come to lie so near to a half can be told from those. Held against both
processors in `tests/runtimes/test_aarch64.py`.

Tables of TANH, LOGISTIC, ELU and GELU are made as a file is loaded, by functions of the C library in float32. These are out
by a few units in the last place, each library by its own.
"""

import numpy as np
from keras import ops

from keras_quant.integer.params import INT8

F32, F64 = np.float32, np.float64
# By how much of their size functions of a C library are out at most: four units in the last place. What a zero point added
# rounds by.
OF_LIBRARY, OF_SUM = 2.0**-21, 2.0**-16
# Sums of more integers are not looked through: a hundred megabytes of them.
MOST_SUMMED = 2**15


def products_part(products, a, b, y):
    """Whether MUL rounds any of these products otherwise on 64-bit Arm.

    Args:
        products: array of integers `c_a·c_b`.
        a, b, y: `QuantParams` of inputs and output.
    """
    multiplier = F32(_scale(a) * _scale(b)) / _scale(y)
    exact = F64(products) * F64(multiplier)
    return _part(F32(exact), np.floor(exact + 0.5), y)


def sums_part(count, x, y, share=1.0):
    """Whether SUM, or MEAN with `share = 1 / count`, rounds any sum otherwise on 64-bit Arm.

    Args:
        count: how many integers are added.
        x, y: `QuantParams` of input and output.
        share: what the sum is multiplied by besides the scales.
    """
    if count > MOST_SUMMED:
        return False
    multiplier = F64(F32(_scale(x) / _scale(y)) * F32(share))
    zero_x, zero_y = (F64(ops.convert_to_numpy(v.zero_point)) for v in (x.stored, y.kernel))
    offset = F64(F32(zero_y - F64(F32(zero_x * count * multiplier))))
    sums = np.arange(x.type.low * count, x.type.high * count + 1, dtype=F64)
    here = F32(F64(F32(sums * multiplier)) + offset)
    there = np.rint(F32(sums * multiplier + offset))
    return _part(here - F32(zero_y), there - zero_y, y)


def table_parts(function, x, y, size=None):
    """Whether a table that the runtime makes of a function may hold other integers with another C library.

    Args:
        function: real function of a float64 array; NaN where the library's has no part in it.
        x, y: `QuantParams` of input and output.
        size: function of the same values: what the library's error is a few units in the last place of, by default what
            `function` gives.
    """
    zero_x, zero_y = (F64(ops.convert_to_numpy(v)) for v in (x.zero_point, y.kernel.zero_point))
    values = F64(F32(np.arange(INT8.low, INT8.high + 1) - zero_x) * _scale(x))
    made, scale = function(values), F64(_scale(y))
    steps, error = made / scale + zero_y, np.abs(made if size is None else size(values)) / scale * OF_LIBRARY + OF_SUM
    near = np.abs(steps - np.floor(steps) - 0.5) < error
    return bool(np.any(near & (steps > INT8.low - 1) & (steps < INT8.high + 1)))


def _scale(params):
    return F32(ops.convert_to_numpy(params.scale))


def _part(here, there, y):
    low, high = (F64(ops.convert_to_numpy(v)) for v in (y.low, y.high))
    return bool(np.any(np.clip(np.rint(here), low, high) != np.clip(there, low, high)))
