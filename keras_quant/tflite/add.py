"""Rules for sums and differences: ADD, SUB."""

import numpy as np

from keras_quant.integer.add import LARGEST_RATIO, SMALLEST_RATIO
from keras_quant.layers import QuantAdd, QuantSubtract
from keras_quant.tflite.conv import fused_activation
from keras_quant.tflite.lower import lowers
from keras_quant.tflite.writer import TensorType


@lowers(QuantAdd)
def add(lowering, layer, inputs, output):
    return _binary(lowering, layer, inputs, output, "ADD", "AddOptions", 2, (1, 14, 0))


@lowers(QuantSubtract)
def subtract(lowering, layer, inputs, output):
    return _binary(lowering, layer, inputs, output, "SUB", "SubOptions", 2, (1, 14, 0))


def _binary(lowering, layer, inputs, output, name, options, version, since):
    y = lowering.activation(output)
    if y.kind == TensorType.INT16:
        version, fields = (
            (3 if name == "ADD" else 5),
            {"potScaleInt16": False, "fusedActivationFunction": fused_activation(layer)},
        )
        lowering.operator(name, inputs, y, version, (2, 4, 0), options, **fields)
        return y
    for x in inputs:
        lowering.check_ratio(name, x.scale / y.scale, 0.0, LARGEST_RATIO)
    kept = max(inputs, key=lambda x: x.scale)
    inputs = [x if x.scale / y.scale >= SMALLEST_RATIO else _zeros_like(lowering, x, kept, output) for x in inputs]
    activation = fused_activation(layer)
    lowering.operator(name, inputs, y, version, since, options, fusedActivationFunction=activation)
    return y


def _zeros_like(lowering, x, other, output):
    """A constant zero in place of an input too small to count, see `integer.add`."""
    shape = (1,) * len(x.shape) if x.shape[1:] == other.shape[1:] else (1, *x.shape[1:])
    return lowering.writer.constant(f"{output.name}/zero", np.zeros(shape, np.int8), other.scale)
