"""The first and the last layers of a model, which often want to be kept wider."""

import dataclasses

import keras
from keras import tree

from keras_quant import policy as policies


def widen_ends(graph, policy):
    """Give the first and last layers with weights another policy, where the map does not name one for them.

        conv (int4) → conv_1 (int4) → dense (int4)      ⟹      conv (int16) → conv_1 (int4) → dense (int16)

    First are those that a model's input reaches without passing another layer with weights, last those that reach an output.

    Args:
        graph: `Graph` of a float model, with policies.
        policy: name or `Policy`.
    """
    wide = policies.get(policy)
    ends = _reached(graph.nodes, graph.inputs, lambda node: node.inputs, lambda node: tree.flatten(node.outputs))
    outputs = tree.flatten(graph.outputs)
    ends |= _reached(graph.nodes[::-1], outputs, lambda node: tree.flatten(node.outputs), lambda node: node.inputs)
    change = lambda node: dataclasses.replace(node, policy=wide, named=True) if id(node) in ends and not node.named else node
    return dataclasses.replace(graph, nodes=[change(node) for node in graph.nodes])


def _reached(nodes, values, entries, exits):
    """Ids of the layers with weights that are the first on a way from `values`."""
    open_values, found = set(values), set()
    for node in nodes:
        if not open_values.intersection(entries(node)):
            continue
        if _has_kernel(node.operation):
            found.add(id(node))
        else:
            open_values.update(exits(node))
    return found


def _has_kernel(operation):
    return isinstance(operation, keras.layers.Layer) and any(len(weight.shape) > 1 for weight in operation.weights)
