"""Constants where a layer takes tensors: learned queries, tables of positions, a mask of numbers."""

import dataclasses

import keras
from keras import tree
from keras.src.ops import nn
from keras.src.ops import numpy as knp

from keras_quant import layers
from keras_quant.graph.expressions import hold, trains
from keras_quant.graph.graph import Node, Value
from keras_quant.graph.weights import takes_weights


def constants_to_tensors(graph):
    """A constant among the tensors that a layer is called with becomes a tensor of the model.

    attention([queries, x])      ⟹      constant(x) → attention([·, x])
    """
    nodes = []
    for node in graph.nodes:
        nodes.extend([node] if node.policy.computes_in_float else _with_tensors(node))
    return dataclasses.replace(graph, nodes=nodes)


# Operations of which no other pass makes a layer with the constant in it.
_OPERATIONS = {knp.Concatenate, getattr(nn, "DotProductAttention", None)}


def _with_tensors(node):
    constants = [x for x in tree.flatten(node.args) if _is_constant(x)]
    if not constants or not node.inputs or not _takes_tensors(node.operation):
        return [node]
    made = {}
    for x in constants:
        if id(x) not in made:
            rank = max(len(value.shape) for value in node.inputs)
            shape = (1,) * (rank - len(x.shape)) + tuple(x.shape)
            if shape[0] != 1:
                return [node]
            made[id(x)] = constant_node(node, f"constant_{len(made)}", node.inputs[0], shape, x)
    fill = lambda x: made[id(x)].output if id(x) in made else x
    return [*made.values(), dataclasses.replace(node, args=tree.map_structure(fill, node.args))]


def _is_constant(x):
    return not isinstance(x, (Value, bool, int, float, str)) and getattr(x, "ndim", 0) > 0 and "float" in str(x.dtype)


def _takes_tensors(operation):
    return isinstance(operation, keras.layers.Layer) or type(operation) in _OPERATIONS or takes_weights(operation)


def constant_node(node, name, value, shape, constant):
    """A node that makes a constant of a shape `(1, ...)` a tensor, with the batch of `value`, on the way to `node`.

    It trains if the constant, or what it is computed from, does.
    """
    path = f"{node.path}/{name}"
    layer = layers.QuantConstant(shape)
    hold(layer, "constant", constant)
    layer.trainable = trains(constant)
    output = Value((value.shape[0], *shape[1:]), "float32", path, rows=value.rows)
    made = Node(layer, path, (value,), {}, output, source=node.source)
    return dataclasses.replace(made, policy=node.policy, named=node.named)
