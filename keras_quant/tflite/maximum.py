"""Rules for elementwise maximum and minimum: REDUCE_MAX, REDUCE_MIN of the stacked inputs, which XNNPACK has."""

import math

from keras_quant.layers import QuantMaximum, QuantMinimum
from keras_quant.tflite.concatenate import join, on_grid
from keras_quant.tflite.lower import lowers, params_of


@lowers(QuantMaximum)
def maximum(lowering, layer, inputs, output):
    return _extreme(lowering, inputs, output, "MAX")


@lowers(QuantMinimum)
def minimum(lowering, layer, inputs, output):
    return _extreme(lowering, inputs, output, "MIN")


def _extreme(lowering, inputs, output, which):
    if lowering.resizable:
        return _one_by_one(lowering, inputs, output, f"{which}IMUM")
    size = math.prod(output.shape)
    flat = lowering.activation(output, "flat", (size,))
    moved = [on_grid(lowering, x, flat, output, index) for index, x in enumerate(inputs)]
    rows = [lowering.reshape(x, output, (1, size), f"row_{index}") for index, x in enumerate(moved)]
    params = params_of(flat)
    stack = join(lowering, rows, lowering.activation(output, "stack", (len(rows), size), params), output, axis=1)
    axes = lowering.ints(output, "axes", [1])
    lowering.operator(f"REDUCE_{which}", [stack, axes], flat, 2, (1, 14, 0), "ReducerOptions", keepDims=False)
    return lowering.reshape(flat, output, output.shape, "unstacked")


def _one_by_one(lowering, inputs, output, name):
    """By built-in kernels; stacked rows would hold the number of values."""
    y = lowering.activation(output)
    first, *others = [on_grid(lowering, x, y, output, index) for index, x in enumerate(inputs)]
    for index, x in enumerate(others, 1):
        made = y if index == len(others) else lowering.activation(output, f"of_{index + 1}")
        lowering.operator(name, [first, x], made, 2, (1, 14, 0), "MaximumMinimumOptions")
        first = made
    return first
