"""Rules for sums and products with a constant tensor, and for constants on their own: ADD, MUL."""

import numpy as np
from keras import ops

from keras_quant import integer
from keras_quant.integer.add import LARGEST_RATIO, SMALLEST_RATIO
from keras_quant.layers import QuantAddConstant, QuantConstant, QuantMultiplyConstant
from keras_quant.tflite.conv import fused_activation
from keras_quant.tflite.lower import Output, lowers, params_of
from keras_quant.tflite.reshape import cut


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


@lowers(QuantConstant)
def constant(lowering, layer, x, output):
    """One value of the input, times zero, plus the constant on the output's own grid, which the sum leaves as it is."""
    y = lowering.activation(output)
    one = Output(f"{output.name}/one", (1,) * (len(x.shape) - 1), params_of(x))
    one = lowering.reshape(cut(lowering, x, one, [(0, 1)] * len(one.shape)), one, (1,) * (len(y.shape) - 1))
    zeros = np.zeros((1,) * len(y.shape), np.int8)
    # A ratio of scales that the kernel takes, whatever the input's is.
    factor = lowering.writer.constant(f"{output.name}/zeros", zeros, np.float32(y.scale / (2 * x.scale)))
    params = integer.QuantParams(ops.convert_to_tensor(y.scale), ops.zeros((), "float32"))
    zero = lowering.activation(output, "zero", zeros.shape[1:], params)
    lowering.operator("MUL", [one, factor], zero, 2, (1, 14, 0), "MulOptions", fusedActivationFunction=0)
    held = ops.convert_to_numpy(integer.to_grid(layer.constant, output.params) + output.params.zero_point)
    held = lowering.writer.constant(f"{output.name}/constant", held.astype(np.int8), y.scale, zero_point=y.zero_point)
    lowering.operator("ADD", [zero, held], y, 2, (1, 14, 0), "AddOptions", fusedActivationFunction=0)
    return y
