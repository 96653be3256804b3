"""The logarithm of a softmax is computed from what goes into the softmax."""

import dataclasses

import keras
import numpy as np
from keras import tree
from keras.src.ops import nn
from keras.src.ops import numpy as knp

from keras_quant.graph.expressions import array_of, trains
from keras_quant.graph.graph import Node, Value
from keras_quant.graph.weights import built

L = keras.layers
# Layers that may have a softmax inside, behind their kernel.
_WITH_KERNEL = (L.Dense, L.Conv1D, L.Conv2D)


def merge_logarithms(graph):
    """`log(softmax(x))` is `log_softmax(x)`, and with a number added before the logarithm its `logaddexp` with a constant.

        dense(softmax) → add(·, ε) → log      ⟹      dense → log_softmax → logaddexp(·, log ε)

    An int8 probability says no more than that it is less than 1/512, whose logarithm may be anything.
    """
    made = {value: node for node in graph.nodes for value in tree.flatten(node.outputs)}
    nodes, changed = list(graph.nodes), False
    for log in graph.nodes:
        if type(log.operation) is not knp.Log or log.policy.computes_in_float:
            continue
        probabilities, offset = _without_offset(log.inputs[0], made)
        softmax = made.get(probabilities)
        logits = None if softmax is None else _logits(softmax, nodes, graph)
        if logits is not None:
            changed = True
            place = nodes.index(log)
            nodes[place : place + 1] = _of_logits(log, logits, offset)
    return dataclasses.replace(graph, nodes=_read(nodes, graph)) if changed else graph


def _without_offset(value, made):
    """A tensor, and the positive number that is added to it, or 0."""
    node = made.get(value)
    if node is None or type(node.operation) is not knp.Add or len(node.inputs) != 1:
        return value, 0.0
    (constant,) = [x for x in node.args if not isinstance(x, Value)]
    array = array_of(constant)
    fixed = array.size == 1 and array.min() > 0 and not trains(constant)
    return (node.inputs[0], float(array.reshape(()))) if fixed else (value, 0.0)


def _logits(node, nodes, graph):
    """What goes into a softmax over the last axis, which a layer with a kernel is parted from first; or `None`."""
    operation, last = node.operation, len(node.output.shape) - 1
    if isinstance(operation, (L.Softmax, nn.Softmax)):
        plain = len(node.inputs) == 1 and [axis % (last + 1) for axis in tree.flatten(operation.axis)] == [last]
        return node.inputs[0] if plain else None
    if getattr(operation, "activation", None) is not keras.activations.softmax:
        return None
    if isinstance(operation, L.Activation):
        return node.inputs[0]
    parted = next((n for n in nodes if n.operation is operation), None)
    if parted is None:  # parted already, for another logarithm
        return next(n.inputs[0] for n in nodes if node.output in tree.flatten(n.outputs))
    if type(operation) not in _WITH_KERNEL or graph.calls()[id(operation)] > 1:
        return None
    config = {**operation.get_config(), "activation": "linear"}
    linear = type(operation).from_config(config)
    built(linear, node.inputs[0].shape, {name: getattr(operation, name) for name in ("kernel", "bias")})
    linear.trainable = operation.trainable
    logits = Value(node.output.shape, node.output.dtype, node.path)
    softmax = dataclasses.replace(node, operation=L.Softmax(), path=f"{node.path}/softmax", args=(logits,), kwargs={})
    place = nodes.index(node)
    nodes[place : place + 1] = [dataclasses.replace(node, operation=linear, outputs=logits), softmax]
    return logits


def _of_logits(log, logits, offset):
    if not offset:
        return [dataclasses.replace(log, operation=nn.LogSoftmax(-1), args=(logits,), kwargs={})]
    output = log.output
    between = Value(output.shape, output.dtype, f"{log.path}/log_softmax")
    first = Node(nn.LogSoftmax(-1), between.name, (logits,), {}, between, policy=log.policy, source=log.source)
    floor = np.float32(np.log(offset))
    return [first, dataclasses.replace(log, operation=knp.Logaddexp(), args=(between, floor), kwargs={})]


def _read(nodes, graph):
    """The nodes that something reads."""
    wanted, kept = set(tree.flatten(graph.outputs)), []
    for node in reversed(nodes):
        if wanted & set(tree.flatten(node.outputs)):
            kept.append(node)
            wanted.update(node.inputs)
    return kept[::-1]
