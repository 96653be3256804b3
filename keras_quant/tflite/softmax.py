"""Rules for softmaxes: the built-in SOFTMAX, and operators of XNNPACK on integers that float32 holds."""

import dataclasses

import numpy as np

from keras_quant.integer import QuantParams
from keras_quant.integer.softmax import LARGEST_TERM, TERMS
from keras_quant.layers import QuantInnerSoftmax, QuantSoftmax
from keras_quant.tflite.float_elementwise import binary
from keras_quant.tflite.lower import lowers, params_of
from keras_quant.tflite.writer import TensorType

# Added to a number below 2^22 it leaves an integer: float32 has no fractions there.
ROUNDING = np.float32(1.5 * 2**23)


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
    """Exponentials by ELU, on a grid of 1/255; as integers they add up exactly, in any order.

    REDUCE_MAX ► SUB ► ELU ► DEQUANTIZE ► MUL 255 ► ADD, SUB: rounded ► SUM ► DIV ► QUANTIZE
    """
    terms = x.shape[-1]
    if layer.is_builtin(terms):
        return softmax(lowering, layer, x, output)
    row = (*x.shape[1:-1], 1)
    axis = lowering.ints(output, "axis", [len(x.shape) - 1])
    grid = QuantParams(x.scale, TERMS.zero_point)
    top = lowering.activation(output, "largest", row, params_of(x))
    lowering.operator("REDUCE_MAX", [x, axis], top, 2, (1, 14, 0), "ReducerOptions", keepDims=True)
    below = lowering.activation(output, "below", params=grid)
    lowering.operator("SUB", [x, top], below, 2, (1, 14, 0), "SubOptions")
    table = lowering.activation(output, "exponentials", params=TERMS)
    lowering.operator("ELU", [below], table, 1, (1, 14, 0))

    real = dataclasses.replace(output, params=None)
    scaled = binary(lowering, "MUL", lowering.real(table), LARGEST_TERM, real, "scaled")
    moved = binary(lowering, "ADD", scaled, ROUNDING + LARGEST_TERM, real, "moved")
    exponentials = binary(lowering, "SUB", moved, ROUNDING, real, "integers")
    total = lowering.activation(real, "total", row)
    lowering.operator("SUM", [exponentials, axis], total, 1, (1, 5, 0), "ReducerOptions", keepDims=True)
    return lowering.quantized(binary(lowering, "DIV", exponentials, total, real, "share"), lowering.activation(output))
