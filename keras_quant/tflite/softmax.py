"""Rules for softmaxes: the built-in SOFTMAX, and operators of XNNPACK on integers that float32 holds."""

import dataclasses

import numpy as np

from keras_quant.integer import QuantParams
from keras_quant.integer.params import INT8_MAX, INT8_MIN
from keras_quant.integer.softmax import exponentials
from keras_quant.layers import QuantInnerSoftmax, QuantSoftmax
from keras_quant.tflite.float_elementwise import binary
from keras_quant.tflite.lower import lowers, params_of
from keras_quant.tflite.writer import TensorType


@lowers(QuantSoftmax)
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


@lowers(QuantInnerSoftmax)
def inner_softmax(lowering, layer, x, output):
    """Exponentials by ELU, on a grid on which float32 adds them up exactly, in any order.

    REDUCE_MAX ► SUB ► ELU ► ADD 1 ► DEQUANTIZE ► MUL by 1 / SUM ► QUANTIZE
    """
    if layer.is_builtin(x.shape[-1]):
        return softmax(lowering, layer, x, output)
    row = (*x.shape[1:-1], 1)
    axis = lowering.ints(output, "axis", [len(x.shape) - 1])
    largest = lowering.activation(output, "largest", row, params_of(x))
    lowering.operator("REDUCE_MAX", [x, axis], largest, 2, (1, 14, 0), "ReducerOptions", keepDims=True)
    below = lowering.activation(output, "below", params=QuantParams(x.scale, INT8_MAX))
    lowering.operator("SUB", [x, largest], below, 2, (1, 14, 0), "SubOptions")
    terms = _exponentials(lowering, below, output)

    real = dataclasses.replace(output, params=None)
    total = lowering.activation(dataclasses.replace(real, shape=row), "total")
    lowering.operator("SUM", [terms, axis], total, 1, (1, 5, 0), "ReducerOptions", keepDims=True)
    inverse = binary(lowering, "DIV", 1.0, total, dataclasses.replace(real, shape=row), "inverse")
    return lowering.quantized(binary(lowering, "MUL", terms, inverse, real, "share"), lowering.activation(output))


def _exponentials(lowering, x, output):
    """The real exponentials of numbers up to 0."""
    grid, one = exponentials(x.shape[-1])
    less = lowering.activation(output, "less_1", params=grid)
    lowering.operator("ELU", [x], less, 1, (1, 14, 0))
    # Integers from -K to 0 become those from 0 to K.
    whole = lowering.activation(output, "exponentials", params=QuantParams(grid.scale, INT8_MIN))
    number = lowering.writer.constant(f"{output.name}/one", np.int8([INT8_MAX]), grid.scale, zero_point=INT8_MAX - one)
    lowering.operator("ADD", [less, number], whole, 2, (1, 14, 0), "AddOptions")
    return lowering.real(whole)
