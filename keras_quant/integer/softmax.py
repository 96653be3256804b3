"""SOFTMAX: the built-in kernel (`optimized_ops::Softmax`), a table of exponentials and a float32 normalization.

It is what LiteRT runs from int8 to int16 everywhere, and from int8 to int8 everywhere but on 64-bit Arm.
"""

from keras import ops

from keras_quant import backend
from keras_quant.integer.params import INT8_MAX


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
