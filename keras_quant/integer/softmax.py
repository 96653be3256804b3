"""SOFTMAX: the built-in kernel (`optimized_ops::Softmax`), a table of exponentials and a float32 normalization.

It is what LiteRT runs from int8 to int16 everywhere, and from int8 to int8 everywhere but on 64-bit Arm. `exact_softmax` is
of operators that XNNPACK has: exponentials of 8 bits, which float32 adds exactly in any order, and one division.
"""

import numpy as np
from keras import ops

from keras_quant import backend
from keras_quant.integer.halves import table_parts
from keras_quant.integer.params import INT8, INT8_MAX, QuantParams, inverse_of, to_grid
from keras_quant.integer.table import tabulate

# The grid on which ELU makes the exponentials of a row, less 1: it is exp(x) - 1 for x ≤ 0. The scale is an integer of few
# bits divided by a power of two.
EXPONENTIALS = QuantParams(np.float32(257 / 2**16), np.float32(INT8.high), INT8)
# The integer that stands for 1.
ONE = 255
# Rows of how many exponentials float32 adds up exactly in any order: as they are, and as integers.
TERMS_AS_THEY_ARE = 2**24 // (257 * ONE)
MOST_TERMS = 2**24 // ONE


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
    """`q_y = rint(float32(s·e_j · float32(1 / float32(s·Σ e))) · (1/s_y)) + z_y` over the last axis.

    With `e_j = K + rint(float32(expm1(s_x·(q_j - max))) · (1/s))`, `s` the scale of `EXPONENTIALS` and `K` = `ONE`.

    Args:
        x: `Quantized` of `(..., terms)`, at most `MOST_TERMS`.
        y: `QuantParams` of the output.
    """
    grid = EXPONENTIALS
    distance = x.integers - ops.max(x.integers, axis=-1, keepdims=True)
    table = tabulate(_distances(x.params), grid, ops.expm1) - grid.zero_point + ONE
    terms = ops.take(table, ops.cast(distance - INT8.low + INT8.high, "int32"))
    total = ops.sum(terms, axis=-1, keepdims=True) * grid.scale
    return to_grid(backend.product_in_place(terms * grid.scale, inverse_of(total)), y)


def exponentials_part(x):
    """Whether the table of exponentials of `exact_softmax` may be another one elsewhere; see `halves`."""
    return table_parts(np.expm1, _distances(x), EXPONENTIALS)


def _distances(x):
    """The grid of what scores are below the largest."""
    return QuantParams(x.scale, EXPONENTIALS.zero_point)
