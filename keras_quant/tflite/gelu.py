"""Rule for GELU."""

from keras_quant.layers.gelu import QuantGELU
from keras_quant.tflite.lower import lowers


@lowers(QuantGELU)
def gelu(lowering, layer, x, output):
    y = lowering.activation(output)
    lowering.operator("GELU", [x], y, 2, (2, 9, 0), "GeluOptions", approximate=layer.approximate)
    return y
