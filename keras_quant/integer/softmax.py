"""SOFTMAX: the built-in kernel (`optimized_ops::Softmax`), a table of exponentials and a float32 normalization.

It is what LiteRT runs from int8 to int16 everywhere, and from int8 to int8 everywhere but on 64-bit Arm. `exact_softmax` is
of operators that XNNPACK has: exponentials of 8 bits, which float32 adds exactly in any order, and one division.
"""

import numpy as np
from keras import ops

from keras_quant import backend
from keras_quant.integer.params import INT8, INT8_MAX, QuantParams, to_grid
from keras_quant.integer.table import tabulate

# The exponentials of a row are integers up to this; as many terms have a sum that float32 holds.
LARGEST_TERM = 255
MOST_TERMS = 2**24 // LARGEST_TERM
# The grid on which ELU makes them, less 1: for x ≤ 0 it is exp(x) - 1.
TERMS = QuantParams(np.float32(1 / LARGEST_TERM), np.float32(INT8.high), INT8)


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
    """`q_y = rint(float32(e_j / Σ e) · (1/s_y)) + z_y` over the last axis, `e_j = 255 + rint(expm1(s_x·(q_j - max)) · 255)`.

    Args:
        x: `Quantized` of `(..., terms)`, at most `MOST_TERMS`.
        y: `QuantParams` of the output.
    """
    distance = x.integers - ops.max(x.integers, axis=-1, keepdims=True)
    table = tabulate(QuantParams(x.params.scale, TERMS.zero_point), TERMS, ops.expm1) - INT8.low
    terms = ops.take(table, ops.cast(distance, "int32") + LARGEST_TERM)
    return to_grid(terms / ops.sum(terms, axis=-1, keepdims=True), y)
