"""Rules for activations that no kernel fuses: LOGISTIC, TANH, SOFTMAX."""

from keras_quant.integer import QuantParams
from keras_quant.layers import QuantInnerSoftmax, QuantSigmoid, QuantSoftmax, QuantTanh
from keras_quant.tflite.lower import lowers
from keras_quant.tflite.writer import TensorType


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


@lowers(QuantSoftmax, QuantInnerSoftmax)
def softmax(lowering, layer, x, output):
    """SOFTMAX from int8 to int16, and QUANTIZE, which only moves the zero point and clamps 256 to 255.

    From int8 to int8 LiteRT computes SOFTMAX on 64-bit Arm with a table of 16-bit integers instead of float32, and a few
    outputs come out a step apart. To int16 it has one kernel for all processors, with any scale. TensorFlow 2.3 has it, for
    all we know.
    """
    y = lowering.activation(output)
    wide = lowering.activation(output, "int16", params=QuantParams(y.scale, 0), kind=TensorType.INT16)
    lowering.operator("SOFTMAX", [x], wide, 2, (2, 3, 0), "SoftmaxOptions", beta=1.0)
    lowering.operator("QUANTIZE", [wide], y, 1, (1, 14, 0), "QuantizeOptions")
    return y
