"""Rule for products: MUL."""

import numpy as np

from keras_quant.integer import QuantParams
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
    lowering.operator("MUL", inputs, y, *_version(ratio), "MulOptions", fusedActivationFunction=activation)
    return y


def _version(ratio):
    """Of MUL, and the release that brought it, by what the kernel multiplies by."""
    return (3, (1, 15, 0)) if ratio >= 1 else (2, (1, 14, 0))


def relabelled(lowering, x, output, scale, name):
    """The same integers on a grid of another scale: MUL by the integer 1, of the only operators that take two scales the one
    that rounds nothing."""
    grid = QuantParams(scale, x.zero_point)
    y = lowering.activation(output, name, x.shape[1:], grid)
    one = np.float32(scale / x.scale)
    constant = lowering.writer.constant(f"{output.name}/one", np.ones(1, np.int8), one)
    lowering.operator("MUL", [x, constant], y, *_version(x.scale * one / scale), "MulOptions")
    return y


@lowers(QuantSquare)
def square(lowering, layer, x, output):
    y = lowering.activation(output)
    lowering.check_ratio("MUL", x.scale * x.scale / y.scale, 2.0**-16, 2.0**8)
    lowering.operator("MUL", [x, x], y, 2, (1, 14, 0), "MulOptions")
    return y
