"""Rules for arithmetic of tensors and with constants, and for functions of one value."""

import numpy as np
from keras import ops

from keras_quant.integer import Quantized, QuantParams
from keras_quant.integer.softmax import EXPONENTIALS
from keras_quant.layers import (
    QuantAbsolute,
    QuantAdd,
    QuantAddConstant,
    QuantClip,
    QuantELU,
    QuantGELU,
    QuantInnerSoftmax,
    Quantize,
    QuantLeakyReLU,
    QuantMaximum,
    QuantMinimum,
    QuantMultiply,
    QuantMultiplyConstant,
    QuantReLU,
    QuantSigmoid,
    QuantSoftmax,
    QuantSquare,
    QuantSubtract,
    QuantTanh,
)
from keras_quant.layers.dropout import QuantIdentityInInference
from keras_quant.layers.matmul import _BatchMatmul
from keras_quant.layers.table import _Tabulated
from keras_quant.onnx.builder import DTYPES
from keras_quant.onnx.lower import lowers
from keras_quant.onnx.lowering import Made
from keras_quant.onnx.pooling import reduced

_BINARY = {
    QuantAdd: "Add",
    QuantSubtract: "Sub",
    QuantMultiply: "Mul",
    QuantMaximum: "Max",
    QuantMinimum: "Min",
}
# Operator, and its attributes as functions of the layer.
_UNARY = {
    QuantSigmoid: ("Sigmoid", {}),
    QuantTanh: ("Tanh", {}),
    QuantAbsolute: ("Abs", {}),
    QuantLeakyReLU: ("LeakyRelu", {"alpha": lambda layer: float(layer.negative_slope)}),
    # The slope is another layer's, which follows.
    QuantELU: ("Elu", {}),
}
GELU_SINCE = 20


@lowers(QuantIdentityInInference)
def identity(lowering, layer, x, output):
    return x


@lowers(*_BINARY)
def binary(lowering, layer, inputs, output):
    names, first = lowering.alike(inputs)
    operator = next(name for cls, name in _BINARY.items() if isinstance(layer, cls))
    return lowering.activate(lowering.node(operator, names), layer.bounds, output, first)


@lowers(QuantSquare)
def square(lowering, layer, x, output):
    return Made(lowering.node("Mul", [lowering.real(x)] * 2), x.first)


@lowers(*_UNARY)
def unary(lowering, layer, x, output):
    operator, attributes = next(form for cls, form in _UNARY.items() if isinstance(layer, cls))
    made = {name: value(layer) for name, value in attributes.items()}
    return Made(lowering.node(operator, [lowering.real(x)], **made), x.first)


@lowers(Quantize)
def quantize(lowering, layer, x, output):
    if x.params is not None and _same(x.params, output.params):
        return x
    return Made(lowering.real(x), x.first)


def _same(a, b):
    return (float(a.scale), float(a.zero_point), a.type) == (float(b.scale), float(b.zero_point), b.type)


@lowers(QuantClip)
def clip(lowering, layer, x, output):
    limits = (
        "" if v is None else lowering.constant(n, np.float32(v)) for n, v in (("low", layer.low), ("high", layer.high))
    )
    return Made(lowering.node("Clip", [lowering.real(x), *limits]), x.first)


@lowers(QuantReLU)
def relu(lowering, layer, x, output):
    """An upper bound is the end of the output's grid."""
    if layer.negative_slope:
        return Made(lowering.node("LeakyRelu", [lowering.real(x)], alpha=float(layer.negative_slope)), x.first)
    return Made(lowering.node("Relu", [lowering.real(x)]), x.first)


@lowers(QuantSoftmax)
def softmax(lowering, layer, x, output):
    return Made(lowering.node("Softmax", [lowering.real(x, False)], axis=-1))


@lowers(QuantInnerSoftmax)
def inner_softmax(lowering, layer, x, output):
    """Exponentials of 8 bits, as `integer.exact_softmax` has them."""
    if layer.is_builtin(x.shape[-1]):
        return softmax(lowering, layer, x, output)
    last = [len(x.shape)]
    x = lowering.real(x, False)
    below = lowering.node("Sub", [x, reduced(lowering, "ReduceMax", x, last)])
    steps = lowering.constant("steps", 1.0 / EXPONENTIALS.scale)
    terms = lowering.node("Round", [lowering.node("Mul", [lowering.node("Exp", [below]), steps])])
    return Made(lowering.node("Div", [terms, reduced(lowering, "ReduceSum", terms, last)]))


@lowers(QuantGELU)
def gelu(lowering, layer, x, output):
    if lowering.opset < GELU_SINCE:
        return table(lowering, layer, x, output)
    kind = "tanh" if layer.approximate else "none"
    return Made(lowering.node("Gelu", [lowering.real(x)], approximate=kind), x.first)


@lowers(_Tabulated)
def table(lowering, layer, x, output):
    """Gather from the layer's 256 outputs, by the integers themselves: exact."""
    params = QuantParams(x.params.scale, x.params.zero_point)
    centred = ops.arange(256, dtype="float32") + params.low
    entries = ops.convert_to_numpy(layer.integer_call(Quantized(centred, params), output.params))
    entries = entries + ops.convert_to_numpy(output.params.zero_point)
    index = lowering.node("Cast", [lowering.integers(x)], "index", to=DTYPES["int32"])
    if lowering.storage == "uint8":
        entries = entries + 128
    else:
        index = lowering.node("Add", [index, lowering.constant("first", np.int32(128))])
    entries = lowering.constant("table", entries.astype(lowering.storage))
    return Made(lowering.node("Gather", [entries, index], axis=0), x.first, integers=True)


@lowers(QuantAddConstant)
def add_constant(lowering, layer, x, output):
    return _with_constant(lowering, layer, x, output, "Add")


@lowers(QuantMultiplyConstant)
def multiply_constant(lowering, layer, x, output):
    return _with_constant(lowering, layer, x, output, "Mul")


def _with_constant(lowering, layer, x, output, operator):
    held = layer.quantized_constant()
    integers = ops.convert_to_numpy(held.integers).astype(np.int8)
    first = x.first and integers.ndim in (0, x.rank)
    if first and integers.ndim:
        integers = np.moveaxis(integers, -1, 1)
    constant = lowering.dequantized("constant", integers, np.float32(ops.convert_to_numpy(held.params.scale)))
    y = lowering.node(operator, [lowering.real(x, first), constant])
    return lowering.activate(y, layer.bounds, output, first)


@lowers(_BatchMatmul)
def matmul(lowering, layer, inputs, output):
    a, b = (lowering.real(x, False) for x in inputs)
    if layer.transpose_b:
        rank = len(inputs[1].shape) + 1
        b = lowering.node("Transpose", [b], perm=[*range(rank - 2), rank - 1, rank - 2])
    product = lowering.node("MatMul", [a, b])
    if layer.input_scale != 1:
        product = lowering.node("Mul", [product, lowering.constant("input_scale", np.float32(layer.input_scale))])
    return Made(product)
