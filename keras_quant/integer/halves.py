"""Where the same file rounds to another neighbour on 64-bit Arm than on x86-64: products and means that lie half way.

XNNPACK's MUL multiplies in float32 on x86-64 (`qs8-vmul-minmax-fp32`) and in fixed point on Arm (`-rndnu`, halves up); its
MEAN and SUM round product and correction once on Arm, where a compiler fuses them, and twice on x86-64. Both are a matter
of the scales: whether any integers at all come to lie so near to a half can be told from those. Held against both
processors in `tests/runtimes/test_aarch64.py`.
"""

import numpy as np
from keras import ops

F32, F64 = np.float32, np.float64
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


def _scale(params):
    return F32(ops.convert_to_numpy(params.scale))


def _part(here, there, y):
    low, high = (F64(ops.convert_to_numpy(v)) for v in (y.low, y.high))
    return bool(np.any(np.clip(np.rint(here), low, high) != np.clip(there, low, high)))
