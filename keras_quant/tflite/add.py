"""Rules for sums and differences: ADD, SUB."""

from keras_quant.layers import QuantAdd, QuantSubtract
from keras_quant.tflite.conv import fused_activation
from keras_quant.tflite.lower import lowers


@lowers(QuantAdd)
def add(lowering, layer, inputs, output):
    return _binary(lowering, layer, inputs, output, "ADD", "AddOptions", 2, (1, 14, 0))


@lowers(QuantSubtract)
def subtract(lowering, layer, inputs, output):
    return _binary(lowering, layer, inputs, output, "SUB", "SubOptions", 2, (1, 14, 0))


def _binary(lowering, layer, inputs, output, name, options, version, since):
    y = lowering.activation(output)
    activation = fused_activation(layer)
    lowering.operator(name, inputs, y, version, since, options, fusedActivationFunction=activation)
    return y
