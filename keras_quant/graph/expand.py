"""Operations that other operations amount to become those, each with one output."""

import dataclasses
import math

import keras
import numpy as np
from keras import tree
from keras.src.activations import activations
from keras.src.ops import core, image, linalg, nn, numpy

from keras_quant.graph.expressions import array_of, expression_of, is_expression
from keras_quant.graph.graph import Node, Value
from keras_quant.graph.operations import is_meant
from keras_quant.graph.steps import Steps

EXPANSIONS = {}


def expand(graph, expansions=EXPANSIONS):
    """An operation of several outputs, or one that other operations amount to, becomes those.

        split → conv2d, add      ⟹      split/0 (x[:, :4]) → conv2d, split/1 (x[:, 4:]) → add
        stack([a, b])            ⟹      concatenate([stack/0 (expand_dims(a)), stack/1 (expand_dims(b))])

    Every later step has nodes of one output to deal with.

    Args:
        graph: `Graph`.
        expansions: dict from classes of operations to what `expands` decorates.
    """
    nodes = []
    for node in graph.nodes:
        for n in _expanded(node, expansions):
            own = n.policy is not None
            given = {"policy": node.policy, "named": is_meant(n, node), "source": node.source}
            nodes.append(n if own else dataclasses.replace(n, **given))
    return dataclasses.replace(graph, nodes=nodes)


def _expanded(node, expansions):
    """The nodes that a node amounts to, each with one output and no expansion of its own that changes it."""
    expansion = _expansion(node.operation, expansions)
    made = [node] if expansion is None else expansion(node)
    return made if made == [node] else [n for part in made for n in _expanded(part, expansions)]


def _expansion(operation, expansions):
    known = expansions.get(type(operation))
    if known is None and isinstance(operation, INHERITED) and all(map(_is_of_keras, _computing(type(operation)))):
        return next((expansions[cls] for cls in type(operation).__mro__ if cls in expansions), None)
    return known


# Layers of which a subclass that computes as they do, with a cell of its own for instance, becomes what they become.
INHERITED = (keras.layers.RNN,)


def _computing(cls):
    return cls.call, cls.inner_loop


def _is_of_keras(method):
    return method.__module__.startswith("keras.")


def is_expanded(operation):
    """Whether a layer or operation becomes others here."""
    return _expansion(operation, EXPANSIONS) is not None


def expands(module, *names, into=EXPANSIONS):
    """Decorator: the function turns a node of these operations, where this Keras has them, into a list of nodes.

    Args:
        module: that holds the operations.
        names: of their classes.
        into: dict of expansions; those of another one are for a pass of its own.
    """

    def decorate(expansion):
        for name in names:
            operation = getattr(module, name, None)
            if operation is not None:
                into[operation] = expansion
        return expansion

    return decorate


@expands(numpy, "Split", "ArraySplit")
def _split(node):
    """One slice for each piece, as long as its output is."""
    axis = node.operation.axis % len(node.inputs[0].shape)
    outputs, nodes, begin = tree.flatten(node.outputs), [], 0
    if axis == 0:
        return _refused(node)
    for index, output in enumerate(outputs):
        end = begin + output.shape[axis]
        nodes.append(_get(node, index, [slice(None)] * axis + [slice(begin, end)], output))
        begin = end
    return nodes


@expands(core, "Unstack")
def _unstack(node):
    axis = node.operation.axis % len(node.inputs[0].shape)
    if axis == 0:
        return _refused(node)
    return [_get(node, i, [slice(None)] * axis + [i], output) for i, output in enumerate(tree.flatten(node.outputs))]


def _get(node, index, key, output):
    return Node(numpy.GetItem(), f"{node.path}/{index}", (node.inputs[0], tuple(key)), {}, output)


def _refused(node):
    """A slice of the batch, which has no quantized form; its error says so."""
    cut = node.inputs[0], (slice(0, 1),)
    return [Node(numpy.GetItem(), node.path, cut, {}, output) for output in tree.flatten(node.outputs)]


@expands(numpy, "Stack")
def _stack(node):
    axis = node.operation.axis % (len(node.inputs[0].shape) + 1)
    return _join_expanded(node, axis)


@expands(numpy, "Dstack")
def _dstack(node):
    rank = len(node.inputs[0].shape)
    return _join_expanded(node, 2) if rank == 2 else [_join(node, node.inputs, 2)]


@expands(numpy, "Hstack")
def _hstack(node):
    return [_join(node, node.inputs, 1)]


@expands(numpy, "Concatenate")
def _concatenate(node):
    """Of a single tensor it is that tensor; constants, such as a class token, are added to the room that padding makes."""
    operands, axis = tree.flatten(node.args), node.operation.axis
    constants = [x for x in operands if not isinstance(x, Value)]
    if not constants:
        return [node] if len(operands) > 1 else [_join(node, node.inputs, axis)]
    if axis % len(node.output.shape) == 0 or any(x.shape[0] != 1 for x in constants):
        return [node]
    first = next(i for i, x in enumerate(operands) if isinstance(x, Value))
    steps, values, group = Steps(node), [], operands[:first]
    for x, following in zip(operands[first:], [*operands[first + 1 :], None]):
        group.append(x)
        if following is None or isinstance(following, Value):
            values.append(_padded(steps, group, axis, len(values)) if len(group) > 1 else x)
            group = []
    return [*steps.nodes, _join(node, values, axis)]


def _padded(steps, group, axis, index):
    """One tensor and constants before and behind it, as a padded tensor and a sum."""
    place, x = next((i, operand) for i, operand in enumerate(group) if isinstance(operand, Value))
    rank = len(x.shape)
    parts = [np.zeros((1, *x.shape[1:]), "float32") if operand is x else expression_of(operand) for operand in group]
    widths = [[0, 0] for _ in range(rank)]
    widths[axis % rank] = [sum(a.shape[axis] for a in part) for part in (parts[:place], parts[place + 1 :])]
    room = steps(numpy.Pad(widths), x, name=f"room_{index}")
    if any(map(is_expression, parts)):
        constant = keras.ops.concatenate(parts, axis)
    else:
        constant = np.concatenate([array_of(part) for part in parts], axis)
    return steps(numpy.Add(), room, constant, name=f"with_constants_{index}")


def _join_expanded(node, axis):
    nodes, values = [], []
    for index, x in enumerate(tree.flatten(node.args)):
        if not isinstance(x, Value):
            values.append(keras.ops.expand_dims(expression_of(x), axis))
            continue
        path, shape = f"{node.path}/{index}", (*x.shape[:axis], 1, *x.shape[axis:])
        output = Value(shape, x.dtype, path, rows=x.rows)
        nodes.append(Node(numpy.ExpandDims(axis), path, (x,), {}, output))
        values.append(output)
    joined = _join(node, values, axis)
    return [*nodes, *(_concatenate(joined) if len(values) > 1 else [joined])]


def _join(node, values, axis):
    if len(values) == 1:
        return Node(numpy.GetItem(), node.path, (values[0], (Ellipsis,)), {}, node.output)
    return Node(numpy.Concatenate(axis), node.path, (values,), {}, node.output)


@expands(numpy, "Var")
def _variance(node):
    """The mean of the squared distances from the mean."""
    x, operation, steps = node.inputs[0], node.operation, Steps(node)
    axes = list(range(len(x.shape))) if operation.axis is None else operation.axis
    mean = steps(numpy.Mean(axes, keepdims=True), x, name="mean")
    centered = steps(numpy.Subtract(), x, mean, name="centered")
    square = steps(numpy.Square(), centered, name="square")
    return steps.end(steps(numpy.Mean(axes, keepdims=operation.keepdims), square))


@expands(numpy, "Std")
def _deviation(node):
    steps = Steps(node)
    variance = steps(numpy.Var(node.operation.axis, node.operation.keepdims), node.inputs[0], name="variance")
    return steps.end(steps(numpy.Sqrt(), variance))


@expands(nn, "Moments")
def _moments(node):
    """Mean and variance."""
    mean, variance = tree.flatten(node.outputs)
    axes, keepdims, x = node.operation.axes, node.operation.keepdims, node.inputs[0]
    axes = [axes] if isinstance(axes, int) else list(axes)
    first = Node(numpy.Mean(axes, keepdims), f"{node.path}/mean", (x,), {}, mean)
    return [first, *_variance(Node(numpy.Var(axes, keepdims), f"{node.path}/variance", (x,), {}, variance))]


@expands(numpy, "Multiply")
def _product(node):
    """Of a tensor with itself it is the square."""
    a, b = node.args
    return [dataclasses.replace(node, operation=numpy.Square(), args=(a,))] if a is b and isinstance(a, Value) else [node]


@expands(numpy, "Clip")
def _clip(node):
    """Bounds with zero outside, or one a channel, are what `maximum` and `minimum` have forms for."""
    bounds = node.operation.x_min, node.operation.x_max
    low, high = (0.0 if bound is None else np.asarray(bound) for bound in bounds)
    if np.ndim(low) == np.ndim(high) == 0 and low <= 0 <= high:
        return [node]
    steps = [("low", numpy.Maximum(), bounds[0]), ("high", numpy.Minimum(), bounds[1])]
    return _chain(node, [step for step in steps if step[2] is not None], node.inputs[0])


@expands(linalg, "Norm")
def _norm(node):
    """The Euclidean one: the root of the sum of squares."""
    x, axes, order = node.inputs[0], node.operation.axis, node.operation.ord
    if axes is None or order not in ((None, 2) if len(axes) == 1 else (None, "fro")):
        return [node]
    total = numpy.Sum(axes, keepdims=node.operation.keepdims)
    return _chain(node, [("square", numpy.Square()), ("sum", total), ("root", numpy.Sqrt())], x)


@expands(nn, "Glu")
def _gated_linear_unit(node):
    """One half times the sigmoid of the other."""
    x = node.inputs[0]
    axis = node.operation.axis % len(x.shape)
    half = x.shape[axis] // 2
    key = lambda *bounds: (*[slice(None)] * axis, slice(*bounds))
    steps = Steps(node)
    value = steps(numpy.GetItem(), x, key(0, half), name="value")
    gate = steps(numpy.GetItem(), x, key(half, 2 * half), name="gate")
    return steps.end(steps(numpy.Multiply(), value, steps(nn.Sigmoid(), gate, name="sigmoid")))


@expands(nn, "Softmax")
@expands(keras.layers, "Softmax")
def _softmax(node):
    """Over axes that are not the last one, these are moved there and made one."""
    x, rank = node.inputs[0], len(node.inputs[0].shape)
    axes = [axis % rank for axis in tree.flatten(node.operation.axis)]
    if axes == [rank - 1] or 0 in axes or len(node.inputs) > 1:
        return [node]
    others = [axis for axis in range(1, rank) if axis not in axes]
    order = np.array([*others, *axes])
    kept, joined = ([x.shape[axis] for axis in chosen] for chosen in (others, axes))
    steps = [
        ("moved", keras.layers.Permute(order.tolist())),
        ("joined", keras.layers.Reshape((*kept, math.prod(joined)))),
        ("softmax", keras.layers.Softmax()),
        ("parted", keras.layers.Reshape((*kept, *joined))),
        ("moved_back", keras.layers.Permute((np.argsort(order) + 1).tolist())),
    ]
    idle = ["moved", "moved_back"] * (sorted(order) == order.tolist()) + ["joined", "parted"] * (len(axes) == 1)
    return _chain(node, [(name, layer) for name, layer in steps if name not in idle], x)


@expands(activations, "ReLU")
def _relu(node):
    """What `keras.activations.relu` is on a symbolic tensor."""
    operation = node.operation
    limits = operation.max_value, operation.negative_slope, operation.threshold
    return [dataclasses.replace(node, operation=keras.layers.ReLU(*limits))]


@expands(activations, "Mish")
def _mish(node):
    return [dataclasses.replace(node, operation=keras.layers.Activation("mish"))]


@expands(image, "CropImages")
def _crop_images(node):
    return [dataclasses.replace(node, operation=keras.layers.Cropping2D(_margins(node, "cropping")))]


@expands(image, "PadImages")
def _pad_images(node):
    return [dataclasses.replace(node, operation=keras.layers.ZeroPadding2D(_margins(node, "padding")))]


def _margins(node, what):
    """What is cut or added at either end of height and width, where one end of each is given."""
    margins = []
    for axis, first, last in ((1, "top", "bottom"), (2, "left", "right")):
        total = abs(node.inputs[0].shape[axis] - node.output.shape[axis])
        before, after = (getattr(node.operation, f"{end}_{what}") for end in (first, last))
        margins.append((total - after if before is None else before, total - before if before is not None else after))
    return margins


def _chain(node, chain, x):
    """Nodes of (name, operation, constants it also takes), each of the one before; the last makes what `node` makes."""
    steps = Steps(node)
    for name, operation, *constants in chain:
        x = steps(operation, x, *constants, name=name)
    return steps.end(x)
