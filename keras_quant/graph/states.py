"""States of cells of one's own that decay: products and sums of gates and the state before become one `StateUpdate`."""

import dataclasses

import keras
import numpy as np
from keras import tree
from keras.src.ops import nn
from keras.src.ops import numpy as knp

from keras_quant.graph.graph import Node, Value, without_unread
from keras_quant.layers.state import FIXED_GRIDS, StateUpdate, has_table

_ARITHMETIC = {
    "multiply": (knp.Multiply, keras.layers.Multiply),
    "add": (knp.Add, keras.layers.Add),
    "subtract": (knp.Subtract, keras.layers.Subtract),
}
_OF_OPERATIONS = {nn.Sigmoid: keras.activations.sigmoid, knp.Tanh: keras.activations.tanh}
_MOVES = knp.GetItem, knp.Reshape, keras.layers.Reshape, keras.layers.Dropout


def with_exact_states(graph, sequences):
    """The graph of a step in which states that are updated by gates alone are real numbers on a fixed-point grid.

        multiply(f, c) → add(·, multiply(i, a))      ⟹      StateUpdate(c, f, i, a)

    Args:
        graph: `Graph` of a step.
        sequences: how many of its inputs are sequences.
    """
    makers = {v: node for node in graph.nodes for v in tree.flatten(node.outputs)}
    states, made = graph.inputs[sequences:], tree.flatten(graph.outputs)[1:]
    for before, after in zip(states, made):
        node = makers.get(after)
        while node is not None and isinstance(node.operation, knp.Where):
            after = next((x for x in node.inputs if x in makers and x is not before), None)
            node = makers.get(after)
        update = _update(before, after, makers) if node is not None else None
        if update is not None:
            nodes = [update if n is node else n for n in graph.nodes]
            graph = without_unread(dataclasses.replace(graph, nodes=nodes))
    return graph


def _update(before, after, makers):
    """The node that makes a state out of the one before, or `None` where it is more than products and sums of gates."""
    inputs, program = [before], []

    def operand(x):
        """The index of a value among inputs and results, or a constant; raises `LookupError` for anything else."""
        if not isinstance(x, Value):
            return _number(x)
        if x in inputs:
            return ("input", inputs.index(x))
        node = makers.get(x)
        kind = None if node is None else _kind(node)
        if kind is not None and len(node.args[0] if isinstance(node.args[0], (list, tuple)) else node.args) == 2:
            left, right = map(operand, tree.flatten(node.args))
            program.append((kind, left, right))
            return ("result", len(program) - 1)
        if _grid(x, makers) is None or x.shape != before.shape:
            raise LookupError(x.name)
        inputs.append(x)
        return ("input", len(inputs) - 1)

    try:
        operand(after)
    except LookupError:
        return None
    index = lambda x: x if isinstance(x, float) else x[1] + (len(inputs) if x[0] == "result" else 0)
    program = [(kind, index(left), index(right)) for kind, left, right in program]
    reads = any(0 in step[1:] for step in program)
    gates = tuple(_grid(x, makers) for x in inputs[1:])
    if not reads or len(gates) > MOST_GATES or not has_table(len(inputs), program, gates):
        return None
    node = makers[after]
    layer = StateUpdate(len(inputs), program, name=node.operation.name)
    return Node(layer, node.path, (inputs,), {}, node.outputs, source=node.source)


# All corners of what gates can be are looked at.
MOST_GATES = 6


def _kind(node):
    found = (kind for kind, classes in _ARITHMETIC.items() if isinstance(node.operation, classes))
    return next(found, None) if node.activation is None else None


def _number(x):
    array = np.asarray(x) if not hasattr(x, "numpy") else np.asarray(keras.ops.convert_to_numpy(x))
    if array.ndim or not np.isfinite(array):
        raise LookupError(str(x))
    return float(array)


def _grid(value, makers):
    """The grid that the format prescribes for a value, scale and zero point, or `None`."""
    node = makers.get(value)
    while node is not None and isinstance(node.operation, _MOVES):
        node = makers.get(node.inputs[0])
    if node is None:
        return None
    operation = node.operation
    function = getattr(operation, "activation", None) if isinstance(operation, keras.layers.Activation) else None
    return FIXED_GRIDS.get(function or _OF_OPERATIONS.get(type(operation)))
