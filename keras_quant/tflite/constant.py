"""Rules for sums and products with a constant tensor: ADD, MUL."""

import numpy as np
from keras import ops

from keras_quant.integer.add import LARGEST_RATIO, SMALLEST_RATIO
from keras_quant.layers import QuantAddConstant, QuantMultiplyConstant
from keras_quant.tflite.conv import fused_activation
from keras_quant.tflite.lower import lowers


def _constant(lowering, output, integers, scale):
    return lowering.writer.constant(f"{output.name}/constant", ops.convert_to_numpy(integers).astype(np.int8), scale)


@lowers(QuantAddConstant)
def add_constant(lowering, layer, x, output):
    y = lowering.activation(output)
    held = layer.quantized_constant()
    integers, scale = held.integers, np.float32(held.params.scale)
    for ratio in (x.scale / y.scale, scale / y.scale):
        lowering.check_ratio("ADD", ratio, 0.0, LARGEST_RATIO)
    lowering.check_ratio("ADD", x.scale / y.scale, SMALLEST_RATIO, LARGEST_RATIO)
    if scale / y.scale < SMALLEST_RATIO:
        integers, scale = ops.zeros_like(integers), y.scale
    inputs = [x, _constant(lowering, output, integers, scale)]
    lowering.operator("ADD", inputs, y, 2, (1, 14, 0), "AddOptions", fusedActivationFunction=fused_activation(layer))
    return y


@lowers(QuantMultiplyConstant)
def multiply_constant(lowering, layer, x, output):
    y = lowering.activation(output)
    held = layer.quantized_constant()
    scale = np.float32(held.params.scale)
    lowering.check_ratio("MUL", x.scale * scale / y.scale, 2.0**-16, 2.0**8)
    inputs = [x, _constant(lowering, output, held.integers, scale)]
    lowering.operator("MUL", inputs, y, 2, (1, 14, 0), "MulOptions", fusedActivationFunction=fused_activation(layer))
    return y
