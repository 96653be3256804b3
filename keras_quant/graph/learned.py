"""Constants where a layer takes tensors: learned queries, tables of positions, a mask of numbers."""

import dataclasses

import keras
import numpy as np
from keras import tree
from keras.src.ops import nn
from keras.src.ops import numpy as knp

from keras_quant import layers
from keras_quant.graph.constants import array_of
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
            array = array_of(x)
            rank = max(len(value.shape) for value in node.inputs)
            array = array.reshape((1,) * (rank - array.ndim) + array.shape)
            if array.shape[0] != 1:
                return [node]
            made[id(x)] = constant_node(node, f"constant_{len(made)}", node.inputs[0], array, x)
    fill = lambda x: made[id(x)].output if id(x) in made else x
    return [*made.values(), dataclasses.replace(node, args=tree.map_structure(fill, node.args))]


def _is_constant(x):
    return not isinstance(x, (Value, bool, int, float, str)) and getattr(x, "ndim", 0) > 0 and "float" in str(x.dtype)


def _takes_tensors(operation):
    return isinstance(operation, keras.layers.Layer) or type(operation) in _OPERATIONS or takes_weights(operation)


def constant_node(node, name, value, array, source):
    """A node that makes an array `(1, ...)` a tensor, with the batch of `value`, on the way to `node`.

    It trains if `source`, what the array came from, is a variable that does.
    """
    path = f"{node.path}/{name}"
    layer = layers.QuantConstant(array.shape)
    layer.constant.assign(np.asarray(array, "float32"))
    layer.trainable = isinstance(source, keras.Variable) and source.trainable
    output = Value((value.shape[0], *array.shape[1:]), "float32", path, rows=value.rows)
    made = Node(layer, path, (value,), {}, output, source=node.source)
    return dataclasses.replace(made, policy=node.policy, named=node.named)
