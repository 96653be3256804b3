"""Rule for products: MUL."""

from keras_quant.layers import QuantMultiply, QuantSquare
from keras_quant.tflite.conv import fused_activation
from keras_quant.tflite.lower import lowers


@lowers(QuantMultiply)
def multiply(lowering, layer, inputs, output):
    y = lowering.activation(output)
    a, b = inputs
    ratio = a.scale * b.scale / y.scale
    lowering.check_ratio("MUL", ratio, 2.0**-16, 2.0**8)
    activation = fused_activation(layer)
    version, since = (3, (1, 15, 0)) if ratio >= 1 else (2, (1, 14, 0))
    lowering.operator("MUL", inputs, y, version, since, "MulOptions", fusedActivationFunction=activation)
    return y


@lowers(QuantSquare)
def square(lowering, layer, x, output):
    y = lowering.activation(output)
    lowering.check_ratio("MUL", x.scale * x.scale / y.scale, 2.0**-16, 2.0**8)
    lowering.operator("MUL", [x, x], y, 2, (1, 14, 0), "MulOptions")
    return y
