"""Rules for stand-alone ReLU (QUANTIZE), LeakyReLU (LEAKY_RELU), and for a change of grid (QUANTIZE)."""

import numpy as np

from keras_quant.layers import QuantAbsolute, QuantClip, Quantize, QuantLeakyReLU, QuantReLU
from keras_quant.tflite.lower import lowers
from keras_quant.tflite.writer import TensorType


def requantize(lowering, x, y):
    """QUANTIZE `x` onto the grid of `y`."""
    if x.kind == y.kind == TensorType.INT8:
        lowering.check_ratio("QUANTIZE", x.scale / y.scale, 2.0**-8, 2.0**7)
    return lowering.quantized(x, y)


@lowers(Quantize, QuantClip)
def quantize(lowering, layer, x, output):
    return requantize(lowering, x, lowering.activation(output))


@lowers(QuantReLU)
def relu(lowering, layer, x, output):
    if layer.negative_slope:
        return leaky_relu(lowering, layer, x, output)
    if x.kind == TensorType.INT16:
        y = lowering.activation(output)
        lowering.operator("RELU", [x], y, 3, (2, 5, 0))
        return y
    return requantize(lowering, x, lowering.activation(output))


@lowers(QuantLeakyReLU, QuantAbsolute)
def leaky_relu(lowering, layer, x, output):
    y = lowering.activation(output)
    lowering.check_ratio("LEAKY_RELU", x.scale / y.scale, 2.0**-8, 2.0**7)
    alpha = float(np.float32(layer.negative_slope))
    lowering.check_ratio("LEAKY_RELU's negative side", x.scale / y.scale * abs(alpha), 2.0**-8, 2.0**7)
    lowering.operator("LEAKY_RELU", [x], y, 1, (1, 13, 1), "LeakyReluOptions", alpha=alpha)
    return y
