"""Rules for quantized layers as parts of float ones: what they compute of real numbers."""

import dataclasses

import numpy as np
from keras import ops

from keras_quant.layers import (
    QuantAbsolute,
    QuantAddConstant,
    QuantBooleans,
    QuantClip,
    QuantConstant,
    QuantELU,
    QuantGELU,
    QuantInnerSoftmax,
    Quantize,
    QuantMaskedMean,
    QuantMax,
    QuantMean,
    QuantMin,
    QuantMultiplyConstant,
    QuantOneHot,
    QuantPower,
    QuantResize,
    QuantSigmoid,
    QuantSoftmax,
    QuantSquare,
    QuantSum,
    QuantTable,
    QuantTanh,
    QuantUpSampling2D,
    QuantWhere,
)
from keras_quant.layers.affine import QuantAffine, QuantHardSigmoid
from keras_quant.layers.matmul import _BatchMatmul
from keras_quant.layers.standardize import QuantExactStandardize
from keras_quant.tflite.float_elementwise import activate, binary, scale_and_shift
from keras_quant.tflite.float_functions import Values, compute, emit
from keras_quant.tflite.lower import lowers_real
from keras_quant.tflite.reduce import reduce
from keras_quant.tflite.reshape import cut
from keras_quant.tflite.upsampling import resize
from keras_quant.tflite.writer import Tensor, TensorType


@lowers_real(Quantize, QuantBooleans)
def entrance(lowering, layer, x, output):
    return x


# Of an ELU the slope, if it is not 1, is a layer behind it.
_FUNCTIONS = {QuantSigmoid: "sigmoid", QuantTanh: "tanh", QuantHardSigmoid: "hard_sigmoid", QuantELU: "elu"}


@lowers_real(*_FUNCTIONS)
def function(lowering, layer, x, output):
    return compute(lowering, x, output, next(name for cls, name in _FUNCTIONS.items() if isinstance(layer, cls)))


@lowers_real(QuantGELU)
def gelu(lowering, layer, x, output):
    return compute(lowering, x, output, "gelu", approximate=layer.approximate)


@lowers_real(QuantTable)
def table(lowering, layer, x, output):
    if layer.offset:
        x = binary(lowering, "ADD", x, layer.offset, output, "raised")
    return compute(lowering, x, output, layer.function_name, **layer.arguments)


@lowers_real(QuantPower)
def power(lowering, layer, x, output):
    x = Values(None, x)
    return emit(lowering, output, x * x if layer.exponent == 2 else x.to_the(layer.exponent))


@lowers_real(QuantAbsolute)
def absolute(lowering, layer, x, output):
    return emit(lowering, output, Values(None, x).abs())


@lowers_real(QuantSquare)
def square(lowering, layer, x, output):
    return binary(lowering, "MUL", x, x, output)


@lowers_real(QuantClip)
def clip(lowering, layer, x, output):
    x = Values(None, x)
    x = x if layer.low is None else x.max(layer.low)
    return emit(lowering, output, x if layer.high is None else x.min(layer.high))


@lowers_real(QuantAffine)
def affine(lowering, layer, x, output):
    inside = dataclasses.replace(output, name=f"{output.name}/shifted") if layer.bounds != (None, None) else output
    y = scale_and_shift(lowering, x, inside, *map(ops.convert_to_numpy, layer.gain_and_shift()))
    return y if inside is output else activate(lowering, y, output, layer.activation)


@lowers_real(QuantAddConstant)
def add_constant(lowering, layer, x, output):
    return _with_constant(lowering, layer, x, output, "ADD")


@lowers_real(QuantMultiplyConstant)
def multiply_constant(lowering, layer, x, output):
    return _with_constant(lowering, layer, x, output, "MUL")


def _with_constant(lowering, layer, x, output, name):
    if layer.bounds == (None, None):
        return binary(lowering, name, x, layer.constant, output)
    return activate(lowering, binary(lowering, name, x, layer.constant, output, "linear"), output, layer.activation)


@lowers_real(QuantConstant)
def constant(lowering, layer, x, output):
    """One value of the input, times zero, plus the constant."""
    one = dataclasses.replace(output, name=f"{output.name}/one", shape=(1,) * (len(x.shape) - 1))
    first = cut(lowering, x, one, [(0, 1)] * len(one.shape))
    first = lowering.reshape(first, one, (1,) * len(output.shape))
    zero = binary(lowering, "MUL", first, 0.0, dataclasses.replace(one, shape=(1,) * len(output.shape)), "zero")
    return binary(lowering, "ADD", zero, layer.constant, output)


@lowers_real(_BatchMatmul)
def batch_matmul(lowering, layer, inputs, output):
    a, b = inputs
    if layer.input_scale != 1:
        like = dataclasses.replace(output, shape=tuple(a.shape[1:]))
        a = binary(lowering, "MUL", a, layer.input_scale, like, "scaled")
    y = lowering.activation(output)
    lowering.operator("BATCH_MATMUL", [a, b], y, 1, (2, 3, 0), "BatchMatMulOptions", adjX=False, adjY=layer.transpose_b)
    return y


@lowers_real(QuantSoftmax, QuantInnerSoftmax)
def softmax(lowering, layer, x, output):
    y = lowering.activation(output)
    lowering.operator("SOFTMAX", [x], y, 1, (1, 5, 0), "SoftmaxOptions", beta=1.0)
    return y


_REDUCTIONS = {
    QuantMean: ("MEAN", 1, (1, 6, 0)),
    QuantSum: ("SUM", 1, (1, 6, 0)),
    QuantMin: ("REDUCE_MIN", 1, (1, 11, 0)),
    QuantMax: ("REDUCE_MAX", 1, (1, 11, 0)),
}


@lowers_real(*_REDUCTIONS)
def reduction(lowering, layer, x, output):
    arguments = next(value for cls, value in _REDUCTIONS.items() if isinstance(layer, cls))
    return reduce(lowering, x, output, *arguments, layer.axes, layer.keepdims)


@lowers_real(QuantExactStandardize)
def standardize(lowering, layer, x, output):
    """Moments by MEAN, or SUM, of the values less their mean; RSQRT."""
    whole = dataclasses.replace(output, shape=tuple(layer.whole))
    row = [1 if axis in layer.axes else size for axis, size in enumerate(layer.whole, 1)]
    rows = dataclasses.replace(output, shape=tuple(row))
    named = lambda like, part: dataclasses.replace(like, name=f"{output.name}/{part}")
    x = lowering.reshape(x, whole, whole.shape, "whole")
    if layer.center:
        mean = reduce(lowering, x, named(rows, "mean"), "MEAN", 1, (1, 6, 0), layer.axes, True)
        x = binary(lowering, "SUB", x, mean, whole, "centered")
    square = binary(lowering, "MUL", x, x, whole, "square")
    kind = "SUM" if layer.statistic == "sum" else "MEAN"
    variance = reduce(lowering, square, named(rows, "variance"), kind, 1, (1, 6, 0), layer.axes, True)
    inverse = emit(lowering, named(rows, "inverse"), (Values(None, variance) + layer.epsilon).rsqrt())
    steps = [("MUL", inverse), *((n, w) for n, w in zip(("MUL", "ADD"), layer.gain_and_shift()) if w is not None)]
    for index, (name, operand) in enumerate(steps):
        last = index == len(steps) - 1 and whole.shape == tuple(output.shape)
        x = binary(lowering, name, x, operand, whole, None if last else f"step_{index}")
    return lowering.reshape(x, output, output.shape)


@lowers_real(QuantUpSampling2D, QuantResize)
def resized(lowering, layer, x, output):
    return resize(lowering, layer, x, output)


@lowers_real(QuantOneHot)
def one_hot(lowering, layer, x, output):
    """Booleans as numbers."""
    y = lowering.activation(output)
    constant = lambda name, value: lowering.writer.constant(f"{output.name}/{name}", value)
    index = x if x.kind == TensorType.INT64 else lowering.cast(x, TensorType.INT32)
    operands = [index, constant("classes", np.int32(layer.num_classes)), constant("one", np.float32(1))]
    operands.append(constant("zero", np.float32(0)))
    axis = layer.axis % len(y.shape)
    axis = -1 if axis == len(y.shape) - 1 else axis
    lowering.operator("ONE_HOT", operands, y, 1, (1, 11, 0), "OneHotOptions", axis=axis)
    return y


@lowers_real(QuantWhere)
def where(lowering, layer, inputs, output):
    mask, operands = layer.parted(inputs)
    constant = lambda name, x: lowering.writer.constant(f"{output.name}/{name}", ops.convert_to_numpy(x))
    mask = mask if isinstance(mask, Tensor) else constant("mask", mask)
    values = {"array": layer.array}
    numbers = lambda x: np.atleast_1d(np.float32(ops.convert_to_numpy(values[x]) if isinstance(x, str) else x))
    chosen = [x if isinstance(x, Tensor) else constant("number", numbers(x)) for x in operands]
    y = lowering.activation(output)
    lowering.operator("SELECT_V2", [mask, *chosen], y, 1, (2, 2, 0), "SelectV2Options")
    return y


@lowers_real(QuantMaskedMean)
def masked_mean(lowering, layer, inputs, output):
    """MUL by the mask, SUM, DIV by how many it keeps."""
    x, mask = inputs
    steps = x.shape[1]
    named = lambda part, shape: dataclasses.replace(output, name=f"{output.name}/{part}", shape=tuple(shape))
    mask = lowering.reshape(lowering.real(mask), named("mask", (steps, 1)), (steps, 1))
    kept = binary(lowering, "MUL", x, mask, named("kept", x.shape[1:]))
    row = (1,) if layer.keepdims else ()
    total = reduce(lowering, kept, named("total", (*row, x.shape[2])), "SUM", 1, (1, 6, 0), (1,), layer.keepdims)
    count = reduce(lowering, mask, named("count", (*row, 1)), "SUM", 1, (1, 6, 0), (1,), layer.keepdims)
    count = binary(lowering, "MAXIMUM", count, 1.0, named("at_least_1", (*row, 1)))
    return binary(lowering, "DIV", total, count, output)
