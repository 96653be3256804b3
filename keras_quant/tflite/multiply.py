"""Rule for products: MUL."""

from keras_quant.layers import QuantMultiply
from keras_quant.tflite.conv import fused_activation
from keras_quant.tflite.lower import lowers


@lowers(QuantMultiply)
def multiply(lowering, layer, inputs, output):
    y = lowering.activation(output)
    a, b = inputs
    lowering.check_ratio("MUL", a.scale * b.scale / y.scale, 2.0**-16, 2.0**8)
    activation = fused_activation(layer)
    lowering.operator("MUL", inputs, y, 2, (1, 14, 0), "MulOptions", fusedActivationFunction=activation)
    return y
