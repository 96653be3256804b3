"""Operations that split, stack or join in other ways become slices and concatenations, each with one output."""

import dataclasses

from keras import tree
from keras.src.ops import core, numpy

from keras_quant.graph.graph import Node, Value

_EXPANSIONS = {}


def expand(graph):
    """An operation of several outputs, or one that other operations amount to, becomes those.

        split → conv2d, add      ⟹      split/0 (x[:, :4]) → conv2d, split/1 (x[:, 4:]) → add
        stack([a, b])            ⟹      concatenate([stack/0 (expand_dims(a)), stack/1 (expand_dims(b))])

    Every later step has nodes of one output to deal with.
    """
    nodes = []
    for node in graph.nodes:
        expansion = _EXPANSIONS.get(type(node.operation))
        made = [node] if expansion is None else expansion(node)
        nodes.extend(dataclasses.replace(n, policy=node.policy, named=node.named) for n in made)
    return dataclasses.replace(graph, nodes=nodes)


def _expands(module, *names):
    """Decorator: the function turns a node of these operations, where this Keras has them, into a list of nodes."""

    def decorate(expansion):
        for name in names:
            operation = getattr(module, name, None)
            if operation is not None:
                _EXPANSIONS[operation] = expansion
        return expansion

    return decorate


@_expands(numpy, "Split", "ArraySplit")
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


@_expands(core, "Unstack")
def _unstack(node):
    axis = node.operation.axis % len(node.inputs[0].shape)
    if axis == 0:
        return _refused(node)
    return [_get(node, i, [slice(None)] * axis + [i], output) for i, output in enumerate(tree.flatten(node.outputs))]


def _get(node, index, key, output):
    return Node(numpy.GetItem(), f"{node.path}/{index}", (node.inputs[0], tuple(key)), {}, output)


def _refused(node):
    """A slice of the batch, which has no quantized form; its error says so."""
    output = tree.flatten(node.outputs)[0]
    return [Node(numpy.GetItem(), node.path, (node.inputs[0], (slice(0, 1),)), {}, output)]


@_expands(numpy, "Stack")
def _stack(node):
    axis = node.operation.axis % (len(node.inputs[0].shape) + 1)
    return _join_expanded(node, axis)


@_expands(numpy, "Dstack")
def _dstack(node):
    rank = len(node.inputs[0].shape)
    return _join_expanded(node, 2) if rank == 2 else [_join(node, node.inputs, 2)]


@_expands(numpy, "Hstack")
def _hstack(node):
    return [_join(node, node.inputs, 1)]


@_expands(numpy, "Concatenate")
def _concatenate(node):
    """Of a single tensor it is that tensor."""
    return [node] if len(tree.flatten(node.args)) > 1 else [_join(node, node.inputs, node.operation.axis)]


def _join_expanded(node, axis):
    nodes = []
    for index, x in enumerate(tree.flatten(node.args)):
        if not isinstance(x, Value):
            return [node]
        path, shape = f"{node.path}/{index}", (*x.shape[:axis], 1, *x.shape[axis:])
        nodes.append(Node(numpy.ExpandDims(axis), path, (x,), {}, Value(shape, x.dtype, path)))
    return [*nodes, _join(node, [n.output for n in nodes], axis)]


def _join(node, values, axis):
    if len(values) == 1:
        return Node(numpy.GetItem(), node.path, (values[0], (Ellipsis,)), {}, node.output)
    return Node(numpy.Concatenate(axis), node.path, (values,), {}, node.output)
