"""Rule for ELU."""

from keras_quant.layers.elu import QuantELU
from keras_quant.tflite.lower import lowers


@lowers(QuantELU)
def elu(lowering, layer, x, output):
    y = lowering.activation(output)
    lowering.operator("ELU", [x], y, 1, (1, 14, 0))
    return y
