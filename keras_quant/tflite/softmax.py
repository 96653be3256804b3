"""Rules for softmaxes: the built-in SOFTMAX, and operators of XNNPACK on integers that float32 holds."""

import dataclasses

import numpy as np

from keras_quant.errors import ExportError
from keras_quant.integer import QuantParams
from keras_quant.integer.params import INT8_MAX, INT8_MIN
from keras_quant.integer.softmax import EXPONENTIALS, MOST_TERMS, ONE, TERMS_AS_THEY_ARE
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
        if lowering.resizable and not layer.policy.integer_only:
            raise _too_long(lowering, x)
        return softmax(lowering, layer, x, output)
    row = (*x.shape[1:-1], 1)
    axis = lowering.ints(output, "axis", [len(x.shape) - 1])
    largest = lowering.activation(output, "largest", row, params_of(x))
    lowering.operator("REDUCE_MAX", [x, axis], largest, 2, (1, 14, 0), "ReducerOptions", keepDims=True)
    below = lowering.activation(output, "below", params=QuantParams(x.scale, INT8_MAX))
    lowering.operator("SUB", [x, largest], below, 2, (1, 14, 0), "SubOptions")
    terms = _exponentials(lowering, below, output)

    real = dataclasses.replace(output, params=None)
    total = _total(lowering, terms, axis, real, dataclasses.replace(real, shape=row))
    inverse = binary(lowering, "DIV", 1.0, total, dataclasses.replace(real, shape=row), "inverse")
    return lowering.quantized(binary(lowering, "MUL", terms, inverse, real, "share"), lowering.activation(output))


def _too_long(lowering, x):
    return ExportError(
        f"Layer '{lowering.path}' is a softmax of {x.shape[-1]} terms. Rows of more than {MOST_TERMS} are another kernel's, "
        "so no file that may be resized is exact at each size. Give `input_shape` without `None`, write a signature for "
        "each size, `signatures={name: shape, ...}`, or quantize with `integer_only=True`."
    )


def _exponentials(lowering, x, output):
    """The real exponentials of numbers up to 0."""
    grid = EXPONENTIALS
    less = lowering.activation(output, "less_1", params=grid)
    lowering.operator("ELU", [x], less, 1, (1, 14, 0))
    # Integers from -K to 0 become those from 0 to K.
    whole = lowering.activation(output, "exponentials", params=QuantParams(grid.scale, INT8_MIN))
    number = lowering.writer.constant(f"{output.name}/one", np.int8([INT8_MAX]), grid.scale, zero_point=INT8_MAX - ONE)
    lowering.operator("ADD", [less, number], whole, 2, (1, 14, 0), "AddOptions")
    return lowering.real(whole)


def _total(lowering, terms, axis, real, row):
    """The sum of a row, rounded to float32 once, whatever its length.

    Of long rows it is that of the exponentials' integers: 256 / 257 makes of each multiple of 257 / 2^16 one of 1 / 2^8.
    """
    is_long = lowering.resizable or terms.shape[-1] > TERMS_AS_THEY_ARE
    if is_long:
        terms = binary(lowering, "MUL", terms, 256 / 257, real, "whole")
    total = lowering.activation(row, "total")
    lowering.operator("SUM", [terms, axis], total, 1, (1, 5, 0), "ReducerOptions", keepDims=True)
    return binary(lowering, "MUL", total, 257 / 256, row, "rescaled") if is_long else total
