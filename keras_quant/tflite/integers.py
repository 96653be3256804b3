"""Rules for what makes integers and booleans: comparisons, logic, casts, integer arithmetic.

These operators are LiteRT's built-in kernels. They compute what Keras does, so that nothing can differ.
"""

import dataclasses

import keras
import numpy as np
from keras.src.ops import core
from keras.src.ops import numpy as knp

from keras_quant.errors import ExportError
from keras_quant.layers import QuantBooleans, QuantTopK
from keras_quant.layers.reshape import axes_of
from keras_quant.layers.top_k import TopIndices, TopValues
from keras_quant.tflite.float_elementwise import classes
from keras_quant.tflite.lower import lowers, lowers_float, params_of, rule_of_float
from keras_quant.tflite.reduce import reduce
from keras_quant.tflite.writer import KINDS, Tensor, TensorType

# Operator and release that brought it.
_COMPARISONS = {
    **classes(knp, Equal="EQUAL", NotEqual="NOT_EQUAL", Less="LESS", LessEqual="LESS_EQUAL"),
    **classes(knp, Greater="GREATER", GreaterEqual="GREATER_EQUAL"),
}
_LOGIC = classes(knp, LogicalAnd="LOGICAL_AND", LogicalOr="LOGICAL_OR", BitwiseAnd="LOGICAL_AND", BitwiseOr="LOGICAL_OR")
_DIFFERENT = classes(knp, LogicalXor="NOT_EQUAL", BitwiseXor="NOT_EQUAL")
_NOT = classes(knp, LogicalNot=None, BitwiseNot=None, BitwiseInvert=None)
_CASTS = {**classes(core, Cast=None, SaturateCast=None)}


@lowers(QuantBooleans)
def booleans(lowering, layer, x, output):
    y = lowering.activation(output)
    lowering.operator("CAST", [x], y, 1, (1, 5, 0), "CastOptions", inDataType=TensorType.BOOL, outDataType=y.kind)
    return y


@lowers_float(*_COMPARISONS)
def comparison(lowering, operation, inputs, output):
    return _compare(lowering, _COMPARISONS[type(operation)], inputs, output)


def _compare(lowering, name, inputs, output):
    y = lowering.activation(output)
    lowering.operator(name, _alike(lowering, inputs, output), y, 1, (1, 14, 0))
    return y


def _alike(lowering, operands, output):
    """Two operands as tensors of one type."""
    kinds = [x.kind for x in operands if isinstance(x, Tensor)]
    kind = max(kinds, key=_WIDTH.index) if all(k in _WIDTH for k in kinds) else TensorType.FLOAT32
    if any(not isinstance(x, Tensor) and _is_fraction(x) for x in operands):
        kind = TensorType.FLOAT32
    if kind in (TensorType.UINT8, TensorType.INT8, TensorType.INT16, TensorType.UINT32):
        kind = TensorType.INT32
    made = [lowering.cast(x, kind) if isinstance(x, Tensor) else _constant(lowering, output, x, kind) for x in operands]
    return made


# From the narrowest to the widest.
_WIDTH = [getattr(TensorType, name) for name in ("BOOL", "UINT8", "INT8", "INT16", "INT32", "UINT32", "INT64", "FLOAT32")]
_DTYPES = {kind: np.dtype(name) for name, kind in KINDS.items()}


def _is_fraction(value):
    return np.asarray(keras.ops.convert_to_numpy(value)).dtype.kind == "f"


def _constant(lowering, output, value, kind):
    array = np.asarray(keras.ops.convert_to_numpy(value)).astype(_DTYPES[kind])
    return lowering.writer.constant(f"{output.name}/constant", array)


@lowers_float(*_LOGIC, *_DIFFERENT)
def logic(lowering, operation, inputs, output):
    if output.kind != TensorType.BOOL:
        raise ExportError(f"Operation '{output.name}' works on the bits of integers, which has no rule here. Use booleans.")
    operands = [
        lowering.cast(x, TensorType.BOOL) if isinstance(x, Tensor) else _constant(lowering, output, x, TensorType.BOOL)
        for x in inputs
    ]
    y = lowering.activation(output)
    if type(operation) in _DIFFERENT:
        lowering.operator("NOT_EQUAL", operands, y, 1, (1, 14, 0))
    else:
        lowering.operator(_LOGIC[type(operation)], operands, y, 1, (1, 11, 0))
    return y


@lowers_float(*_NOT)
def logical_not(lowering, operation, inputs, output):
    if output.kind != TensorType.BOOL:
        raise ExportError(f"Operation '{output.name}' works on the bits of integers, which has no rule here. Use booleans.")
    y = lowering.activation(output)
    lowering.operator("LOGICAL_NOT", [lowering.cast(inputs[0], TensorType.BOOL)], y, 1, (1, 11, 0))
    return y


@lowers_float(*_CASTS)
def cast(lowering, operation, inputs, output):
    """Between float types it is nothing, since the file's tensors are float32 throughout."""
    (x,) = inputs
    if x.kind == output.kind:
        return x
    if output.kind == TensorType.BOOL:
        return _compare(lowering, "NOT_EQUAL", [x, 0], output)
    y = lowering.activation(output)
    lowering.operator("CAST", [x], y, 1, (1, 5, 0), "CastOptions", inDataType=x.kind, outDataType=y.kind)
    return y


_REDUCTIONS = {
    **classes(knp, Sum=("SUM", 1, (1, 6, 0)), Max=("REDUCE_MAX", 1, (1, 11, 0)), Amax=("REDUCE_MAX", 1, (1, 11, 0))),
    **classes(knp, Min=("REDUCE_MIN", 1, (1, 11, 0)), Amin=("REDUCE_MIN", 1, (1, 11, 0))),
    **classes(knp, Any=("REDUCE_ANY", 1, (1, 11, 0)), All=("REDUCE_ALL", 1, (2, 12, 0))),
}


@lowers_float(*_REDUCTIONS)
def reduction(lowering, operation, inputs, output):
    axes = axes_of(operation.axis, len(inputs[0].shape), output.name)
    x = lowering.cast(inputs[0], output.kind)
    return reduce(lowering, x, output, *_REDUCTIONS[type(operation)], axes, operation.keepdims)


@lowers_float(*classes(knp, CountNonzero=None))
def count(lowering, operation, inputs, output):
    axes = axes_of(operation.axis, len(inputs[0].shape), output.name)
    (x,) = inputs
    if x.kind != TensorType.BOOL:
        nonzero = lowering.activation(output, "nonzero", x.shape[1:], kind=TensorType.BOOL)
        lowering.operator("NOT_EQUAL", _alike(lowering, [x, 0], output), nonzero, 1, (1, 14, 0))
        x = nonzero
    return reduce(lowering, lowering.cast(x, output.kind), output, "SUM", 1, (1, 6, 0), axes, False)


@lowers_float(*classes(knp, Cumsum=None))
def cumsum(lowering, operation, inputs, output):
    (axis,) = axes_of(operation.axis, len(inputs[0].shape), output.name)
    y = lowering.activation(output)
    operands = [lowering.cast(inputs[0], output.kind), lowering.writer.constant(f"{output.name}/axis", np.int32(axis))]
    lowering.operator("CUMSUM", operands, y, 1, (2, 4, 0), "CumsumOptions", exclusive=False, reverse=False)
    return y


_DIVISIONS = classes(knp, FloorDivide=("FLOOR_DIV", 1, (1, 13, 0)), Mod=("FLOOR_MOD", 1, (1, 13, 0)))


@lowers_float(*_DIVISIONS)
def division(lowering, operation, inputs, output):
    name, version, since = _DIVISIONS[type(operation)]
    y = lowering.activation(output)
    lowering.operator(name, _alike(lowering, inputs, output), y, version, since)
    return y


@lowers_float(*classes(knp, Negative=None))
def negative(lowering, operation, inputs, output):
    y = lowering.activation(output)
    lowering.operator("NEG", inputs, y, 1, (1, 9, 0))
    return y


@lowers_float(*classes(knp, Abs=None, Absolute=None))
def absolute(lowering, operation, inputs, output):
    x = inputs[0]
    y = lowering.activation(output)
    opposite = lowering.activation(output, "opposite")
    lowering.operator("NEG", [x], opposite, 1, (1, 9, 0))
    lowering.operator("MAXIMUM", [x, opposite], y, 1, (1, 8, 0), "MaximumMinimumOptions")
    return y


_ARGUMENTS = classes(knp, Argmax=("ARG_MAX", "ArgMaxOptions"), Argmin=("ARG_MIN", "ArgMinOptions"))


@lowers_float(*_ARGUMENTS, takes_grids=True)
def argument(lowering, operation, inputs, output):
    """The place of the largest value; the integers of a grid are in the same order as what they stand for."""
    (x,), (name, options) = inputs, _ARGUMENTS[type(operation)]
    (axis,) = axes_of(operation.axis, len(x.shape), output.name)
    shape = (*x.shape[1:axis], *x.shape[axis + 1 :])
    y = lowering.activation(output, "place" if operation.keepdims else None, shape)
    operands = [x, lowering.writer.constant(f"{output.name}/axis", np.int32(axis))]
    lowering.operator(name, operands, y, 2 if x.kind == TensorType.INT8 else 1, (1, 14, 0), options, outputType=y.kind)
    return lowering.reshape(y, output, output.shape)


def computes(operation_class):
    """Whether a rule of this file lowers the operations of a class."""
    rule = rule_of_float(operation_class)
    return rule is not None and rule.__module__ == __name__


@lowers(QuantTopK)
def top_k(lowering, layer, x, output):
    y = lowering.activation(output)
    indices = lowering.activation(dataclasses.replace(output, params=None), "indices", kind=TensorType.INT32)
    _largest(lowering, layer, x, output, [y, indices])
    return y


@lowers_float(TopValues)
def top_values(lowering, operation, inputs, output):
    y = lowering.activation(output)
    indices = lowering.activation(output, "indices", kind=TensorType.INT32)
    _largest(lowering, operation, *inputs, output, [y, indices])
    return y


@lowers_float(TopIndices, takes_grids=True)
def top_indices(lowering, operation, inputs, output):
    (x,) = inputs
    like = dataclasses.replace(output, params=params_of(x))
    y = lowering.activation(output)
    _largest(lowering, operation, x, output, [lowering.activation(like, "values", kind=x.kind), y])
    return y


def _largest(lowering, operation, x, output, made):
    operands = [x, lowering.writer.constant(f"{output.name}/k", np.int32(operation.k))]
    lowering.operator("TOPK_V2", operands, made, 2 if x.kind == TensorType.INT8 else 1, (1, 14, 0), "TopKV2Options")
