"""Functions of `keras.ops` that only move values, and are what other movements amount to."""

import math

import keras
import numpy as np
from keras.src.ops import core, nn, numpy

from keras_quant.graph.expand import expands
from keras_quant.graph.graph import Value
from keras_quant.graph.steps import Steps


@expands(numpy, "Hsplit", "Dsplit")
def _split(node):
    axis = 1 if isinstance(node.operation, numpy.Hsplit) else 2
    return [_replaced(node, numpy.Split(node.operation.indices_or_sections, axis))]


def _replaced(node, operation):
    return type(node)(operation, node.path, node.args, {}, node.outputs)


@expands(numpy, "Append")
def _append(node):
    operation = node.operation
    if operation.axis is None or len(node.inputs) < 2:
        return [node]
    steps = Steps(node)
    return steps.end(steps(numpy.Concatenate(operation.axis), list(node.inputs)))


@expands(numpy, "BroadcastTo")
def _broadcast(node):
    """In float; its own shape holds the batch that the model was traced with. As a layer of integers it stays as it is."""
    (x,), wanted = node.inputs, node.output.shape
    fits = len(x.shape) == len(wanted) and all(a in (1, b) for a, b in zip(x.shape[1:], wanted[1:]))
    if not fits or node.policy is None or not node.policy.computes_in_float:
        return [node]
    steps = Steps(node)
    return steps.end(steps(numpy.Tile((1, *(b // a for a, b in zip(x.shape[1:], wanted[1:])))), x))


@expands(numpy, "Fliplr")
def _flip(node):
    steps = Steps(node)
    return steps.end(steps(numpy.Flip(1), node.inputs[0]))


@expands(numpy, "Rot90")
def _turned(node):
    """A flip and a transpose, which of them depends on how often it is turned."""
    x, steps = node.inputs[0], Steps(node)
    rank, times = len(x.shape), node.operation.k % 4
    first, second = (axis % rank for axis in node.operation.axes)
    if 0 in (first, second):
        return [node]
    order = list(range(rank))
    order[first], order[second] = second, first
    if times == 2:
        x = steps(numpy.Flip(second), steps(numpy.Flip(first), x))
    elif times:
        x = steps(numpy.Transpose(order), steps(numpy.Flip(second), x) if times == 1 else x)
        x = x if times == 1 else steps(numpy.Flip(second), x)
    return steps.end(x)


@expands(numpy, "Diagonal")
def _diagonal(node):
    steps = Steps(node)
    diagonal = _taken_diagonal(node, steps)
    return [node] if diagonal is None else steps.end(diagonal)


@expands(numpy, "Trace")
def _trace(node):
    steps = Steps(node)
    diagonal = _taken_diagonal(node, steps)
    return [node] if diagonal is None else steps.end(steps(numpy.Sum(-1), diagonal))


def _taken_diagonal(node, steps):
    """The two axes are made one, in which the diagonal is every so many values."""
    x, operation = node.inputs[0], node.operation
    rank = len(x.shape)
    first, second = operation.axis1 % rank, operation.axis2 % rank
    if 0 in (first, second):
        return None
    rows, columns = x.shape[first], x.shape[second]
    rows_at, columns_at = np.nonzero(np.eye(rows, columns, operation.offset))
    if not len(rows_at):
        return None
    others = [axis for axis in range(rank) if axis not in (first, second)]
    order = [*others, first, second]
    moved = x if order == list(range(rank)) else steps(numpy.Transpose(order), x)
    flat = steps(numpy.Reshape((-1, *(x.shape[axis] for axis in others[1:]), rows * columns)), moved)
    places = rows_at * columns + columns_at
    step = columns + 1
    return steps.cut(flat, len(others), int(places[0]), int(places[-1]) + 1, step)


@expands(numpy, "TakeAlongAxis")
def _taken_along(node):
    """By constant places, the same in each sample: `take` from the whole sample. By computed places: a product with ones."""
    x, places = node.args[0], node.args[1] if len(node.args) > 1 else node.kwargs.get("indices")
    axis, shape = node.operation.axis, x.shape
    if isinstance(places, Value) and isinstance(x, Value) and axis is not None:
        if len(shape) == 3 and axis % 3 == 1 and places.shape[-1] == 1:
            return _rows_taken(node, x, places)
        if axis % len(shape) and _but(axis, shape) == _but(axis, places.shape):
            return _values_taken(node, x, places, axis % len(shape))
    places = None if isinstance(places, Value) else np.asarray(keras.ops.convert_to_numpy(places))
    if places is None or axis is None or axis % len(shape) == 0 or len(places) != 1:
        return [node]
    axis, steps = axis % len(shape), Steps(node)
    grid = np.indices(node.output.shape[1:], sparse=True)
    picked = [*grid[: axis - 1], places[0] % shape[axis], *grid[axis:]]
    flat = np.ravel_multi_index(np.broadcast_arrays(*picked), shape[1:]).reshape(-1)
    return steps.end(steps(numpy.Take(1), steps(numpy.Reshape((-1, math.prod(shape[1:]))), x), flat))


def _rows_taken(node, x, places):
    """Rows of each sample, as of the tokens that a text ends with: a product with a one at each place."""
    steps, count = Steps(node), places.shape[1]
    ones = _ones_at(steps, steps(numpy.Reshape((-1, count)), places), x.shape[1])
    return steps.end(steps(numpy.Matmul(), ones, x))


def _values_taken(node, x, places, axis):
    """Values of each row along an axis: the row is a column of rows with one value each."""
    steps, rank = Steps(node), len(x.shape)
    order = list(range(rank))
    order[axis], order[-1] = order[-1], axis
    turned = lambda y: steps(numpy.Transpose(order), y) if axis < rank - 1 else y
    x, places = turned(x), turned(places)
    column = steps(numpy.Reshape((-1, *x.shape[1:], 1)), x)
    taken = steps(numpy.Matmul(), _ones_at(steps, places, x.shape[-1]), column)
    return steps.end(turned(steps(numpy.Reshape((-1, *places.shape[1:])), taken)))


def _but(axis, shape):
    """The sizes of a sample without that of an axis."""
    sizes = list(shape)
    del sizes[axis]
    return sizes[1:]


def _ones_at(steps, places, length):
    """A row of zeros with a one for each place; a negative one counts from the end."""
    return steps(nn.OneHot(length), steps(numpy.Mod(), places, length))


@expands(core, "Slice")
def _slice(node):
    """From constant places on."""
    x, start = node.args
    sizes = node.operation.shape
    if start is None or any(hasattr(i, "note") for i in start):
        return [node]
    start = [int(i) for i in start]
    key = [slice(None)] + [slice(begin, begin + size) for begin, size in zip(start[1:], sizes[1:])]
    steps = Steps(node)
    return [node] if start[0] else steps.end(steps(numpy.GetItem(), x, tuple(key)))


@expands(core, "StopGradient")
def _forwards(node):
    return Steps(node).end(node.inputs[0])
