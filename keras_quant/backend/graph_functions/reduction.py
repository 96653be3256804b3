"""Reductions, products of matrices, and what sorts or counts."""

import numpy as np
from keras import ops
from keras.src.backend.common import KerasVariable

from keras_quant.backend.graph_functions.operator import is_symbolic, moved_variable, reads

_REDUCTIONS = {"Mean": "mean", "Sum": "sum", "Max": "max", "Min": "min", "Prod": "prod", "All": "all", "Any": "any"}


def _reduce_as(function):
    def rule(operator, x, axes):
        axes = tuple(axis % len(x.shape) for axis in operator.integers(axes, "axes"))
        return function(x, axis=axes, keepdims=operator.attribute("keep_dims")) if axes else x

    return rule


for _type, _name in _REDUCTIONS.items():
    reads(_type)(_reduce_as(getattr(ops, _name)))


def _segments_as(function):
    return lambda operator, x, ids, count: function(x, ids, operator.integer(count, "a number of segments"))


for _name in ("sum", "max", "min"):
    if hasattr(ops, f"segment_{_name}"):  # the last is new in Keras
        reads(f"UnsortedSegment{_name.title()}")(_segments_as(getattr(ops, f"segment_{_name}")))


@reads("ArgMax")
def _argmax(operator, x, axis):
    return _as_declared(operator, ops.argmax(x, operator.integer(axis, "an axis")))


@reads("ArgMin")
def _argmin(operator, x, axis):
    return _as_declared(operator, ops.argmin(x, operator.integer(axis, "an axis")))


def _as_declared(operator, x):
    return x if x.dtype == operator.output_dtype() else ops.cast(x, operator.output_dtype())


@reads("TopKV2")
def _top_k(operator, x, k):
    return list(ops.top_k(x, operator.integer(k, "a count"), sorted=operator.attribute("sorted")))


@reads("Cumsum")
def _cumulative_sum(operator, x, axis):
    return _cumulative(operator, ops.cumsum, x, axis)


@reads("Cumprod")
def _cumulative_product(operator, x, axis):
    return _cumulative(operator, ops.cumprod, x, axis)


def _cumulative(operator, function, x, axis):
    axis = operator.integer(axis, "an axis")
    if operator.attribute("exclusive"):
        operator.refuse("leaves out each value itself, `exclusive=True`. Leave it in, and subtract the value.")
    if operator.attribute("reverse"):
        return ops.flip(function(ops.flip(x, axis), axis), axis)
    return function(x, axis)


@reads("OneHot")
def _one_hot(operator, indices, depth, on, off):
    if (operator.constant(on, "a value"), operator.constant(off, "a value")) != (1, 0):
        operator.refuse("marks by other values than 1 and 0. Scale its result instead.")
    dtype = operator.output_dtype()
    return ops.one_hot(indices, operator.integer(depth, "a depth"), operator.attribute("axis"), dtype=dtype)


@reads("MatMul")
def _matmul(operator, x, y):
    return _product(x, y, operator.attribute("transpose_a"), operator.attribute("transpose_b"))


@reads("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")
def _batch_matmul(operator, x, y):
    return _product(x, y, operator.attribute("adj_x"), operator.attribute("adj_y"))


def _product(x, y, transpose_x, transpose_y):
    x, y = _transposed(x) if transpose_x else x, _transposed(y) if transpose_y else y
    return ops.matmul(x, y)


def _transposed(x):
    if is_symbolic(x):
        return ops.swapaxes(x, -1, -2)
    array = np.swapaxes(ops.convert_to_numpy(x), -1, -2)
    return moved_variable(x, array) if isinstance(x, KerasVariable) else array


@reads("Einsum")
def _einsum(operator, *operands):
    return ops.einsum(operator.attribute("equation"), *operands)
