"""SOFTMAX: the built-in kernel (`optimized_ops::Softmax`), a table of exponentials and a float32 normalization.

It is what LiteRT runs from int8 to int16 everywhere, and from int8 to int8 everywhere but on 64-bit Arm. `exact_softmax` is
of operators that XNNPACK has: exponentials of 8 bits, which float32 adds exactly in any order, and one division.
"""

import numpy as np
from keras import ops

from keras_quant import backend
from keras_quant.integer.params import INT8, INT8_MAX, QuantParams, inverse_of, to_grid
from keras_quant.integer.table import tabulate

# Scales of exponentials, how many levels they have, and of rows of how many terms. Each scale is an integer of few bits
# divided by a power of two, so that float32 adds up a row exactly: the longer it is, the fewer bits.
_SCALES = [np.float32((2**bits + 1) / 2 ** (bits + 8)) for bits in range(8, 0, -1)] + [np.float32(2**-7)]
_LEVELS = [int(np.rint(1 / scale)) for scale in _SCALES]
_MOST_TERMS = [2**24 // (levels * (2**bits + 1)) for levels, bits in zip(_LEVELS, range(8, 0, -1))] + [2**24 // _LEVELS[-1]]
MOST_TERMS = _MOST_TERMS[-1]


def exponentials(terms):
    """The grid on which ELU makes the exponentials of a row of so many terms, less 1: it is exp(x) - 1 for x ≤ 0.

    Returns:
        `QuantParams`, and the integer that stands for 1.
    """
    place = next(place for place, most in enumerate(_MOST_TERMS) if terms <= most)
    return QuantParams(_SCALES[place], np.float32(INT8.high), INT8), _LEVELS[place]


def softmax(x, y):
    """`q_y = round(e_j · (1 / (Σ e · s_y))) + z_y` with `e_j = float32(exp(float32(-s_x)·(max - q_j)))`, over the last axis.

    Sums run left to right in float32. `round` takes halves away from zero.
    Of a whole model's output the grid is (1/256, -128).

    Args:
        x: `Quantized` of `(..., classes)`.
        y: `QuantParams` of the output.
    """
    distance = ops.max(x.integers, axis=-1, keepdims=True) - x.integers
    exponents = ops.cast(-x.params.scale * ops.arange(256, dtype="float32"), "float64")
    table = ops.cast(ops.exp(exponents), "float32")
    terms = ops.take(table, ops.cast(distance, "int32"))
    # A cumulative sum adds in the kernel's order; a reduction adds in pairs and ends up elsewhere in the last place.
    total = ops.cumsum(terms, axis=-1)[..., -1:]
    inverse = ops.cast(1.0 / ops.cast(total * y.scale, "float64"), "float32")
    scaled = ops.cast(terms * inverse, "float64")
    rounded = ops.cast(ops.floor(scaled + 0.5), "float32")
    return backend.clip(rounded, 0.0, INT8_MAX - y.zero_point)


def exact_softmax(x, y):
    """`q_y = rint(float32(s·e_j · float32(1 / (s·Σ e))) · (1/s_y)) + z_y` over the last axis.

    With `e_j = K + rint(float32(expm1(s_x·(q_j - max))) · (1/s))`, and `s` and `K` by `exponentials`.

    Args:
        x: `Quantized` of `(..., terms)`, at most `MOST_TERMS`.
        y: `QuantParams` of the output.
    """
    grid, one = exponentials(x.integers.shape[-1])
    distance = x.integers - ops.max(x.integers, axis=-1, keepdims=True)
    table = tabulate(QuantParams(x.params.scale, grid.zero_point), grid, ops.expm1) - grid.zero_point + one
    terms = ops.take(table * grid.scale, ops.cast(distance - INT8.low + INT8.high, "int32"))
    return to_grid(backend.product_in_place(terms, inverse_of(ops.sum(terms, axis=-1, keepdims=True))), y)
