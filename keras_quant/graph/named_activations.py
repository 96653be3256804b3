"""Activations of layers that a `PolicyMap` names by themselves."""

import dataclasses

import keras

from keras_quant.graph.graph import Node, Value
from keras_quant.layers.functions import FUSED_ACTIVATIONS


def part_named_activations(graph, policies):
    """An activation that no kernel fuses, and that a key of its own names, becomes a node behind its layer.

        dense (int8, gelu)      ⟹      dense (int8) → dense/gelu (float32)

    Args:
        graph: `Graph` of a float model, with policies.
        policies: `PolicyMap`; the path of an activation is its layer's and the function's name.
    """
    nodes = [part for node in graph.nodes for part in _parted(node, policies) or [node]]
    return dataclasses.replace(graph, nodes=nodes)


def _parted(node, policies):
    layer = node.operation
    function = getattr(layer, "activation", None)
    inside = isinstance(layer, keras.layers.Layer) and not isinstance(layer, keras.layers.Activation)
    if not inside or function in (None, *FUSED_ACTIVATIONS) or node.policy.computes_in_float:
        return None
    path = f"{node.path}/{getattr(function, '__name__', type(function).__name__)}"
    key = policies.key_for(path)
    if key is None or key == policies.key_for(node.path):
        return None
    between = Value(node.output.shape, node.output.dtype, node.path, rows=node.output.rows)
    own = dataclasses.replace(node, outputs=between, activation=keras.activations.linear)
    activation = keras.layers.Activation(function)
    return [own, Node(activation, path, (between,), {}, node.outputs, source=node.source, policy=policies[path], named=True)]
