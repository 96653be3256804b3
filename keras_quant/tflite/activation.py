"""Rules for activations that no kernel fuses: LOGISTIC, TANH."""

from keras_quant.layers import QuantSigmoid, QuantTanh
from keras_quant.tflite.lower import lowers


@lowers(QuantSigmoid)
def logistic(lowering, layer, x, output):
    y = lowering.activation(output)
    lowering.operator("LOGISTIC", [x], y, 2, (1, 14, 0))
    return y


@lowers(QuantTanh)
def tanh(lowering, layer, x, output):
    y = lowering.activation(output)
    lowering.operator("TANH", [x], y, 2, (1, 14, 0))
    return y
