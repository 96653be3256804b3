"""A recurrent layer becomes what is computed for all steps at once, and a loop over the rest."""

import dataclasses
import inspect

import keras
from keras import tree
from keras.src.ops import numpy as knp

from keras_quant.errors import UnsupportedLayerError
from keras_quant.graph.cells import STEPS, has_exact_state
from keras_quant.graph.expand import expands
from keras_quant.graph.graph import Node, Value
from keras_quant.graph.recurrence import Recurrence
from keras_quant.graph.trace import trace


@expands(keras.layers, "LSTM", "GRU", "SimpleRNN", "RNN")
def _recurrent(node):
    layer = node.operation
    bound = positional_by_name(node)
    x, first, mask = bound["sequences"], bound.get("initial_state"), bound.get("mask")
    first = [] if first is None else [v for v in tree.flatten(first)]
    exact = not node.policy.integer_only and has_exact_state(layer.cell)
    step, hidden = _float_step(layer, x, mask is not None, exact)
    graph = trace(step, follow_weights=True)
    inside = [dataclasses.replace(n, path=f"{node.path}/{n.path}", source=n.source or node.source) for n in graph.nodes]
    graph = dataclasses.replace(graph, nodes=inside)
    given = [x] + ([] if mask is None else [_column(node, mask)])
    before, graph, sequences = _hoisted(node, graph, [v.outputs if isinstance(v, Node) else v for v in given])
    nodes = [v for v in given if isinstance(v, Node)] + before
    arguments = {
        "sequences": len(sequences),
        "return_sequences": layer.return_sequences,
        "return_state": layer.return_state,
        "go_backwards": layer.go_backwards,
        "unroll": layer.unroll,
        "has_initial_state": bool(first),
        "hidden_states": hidden,
    }
    loop = Recurrence(graph, arguments, layer.name)
    return [*nodes, Node(loop, node.path, ([*sequences, *first],), {}, node.outputs)]


def positional_by_name(node):
    """What a layer's `call` is called with, by the names of its arguments."""
    bound = inspect.signature(node.operation.call).bind(*node.args, **node.kwargs)
    return bound.arguments


def _column(node, mask):
    """A mask `(batch, length)` as `(batch, length, 1)`."""
    shape = (*mask.shape, 1)
    return Node(knp.ExpandDims(-1), f"{node.path}/mask", (mask,), {}, Value(shape, mask.dtype, f"{node.path}/mask"))


def _float_step(layer, x, masked, exact):
    """One step of a recurrent layer as a Functional model, and how many of its states are not the layer's."""
    cell = layer.cell
    make = STEPS.get(type(cell))
    if make is None:
        raise UnsupportedLayerError(f"Layer '{layer.name}': cell {type(cell).__name__} is not supported yet.")
    inputs = keras.Input(x.shape[2:], name="x")
    states = [
        keras.Input((size,) if isinstance(size, int) else tuple(size), name=f"state_{i}")
        for i, size in enumerate(tree.flatten(cell.state_size))
    ]
    output, made = make(cell, inputs, states, exact)
    names, mask, hidden = [inputs], [], 0
    if masked:
        mask = [keras.Input((1,), dtype="bool", name="mask")]
        is_state = [output is m for m in made]
        made = [keras.ops.where(mask[0], new, old) for new, old in zip(made, states)]
        if any(is_state):
            output = made[is_state.index(True)]
        else:
            states.append(keras.Input(output.shape[1:], name="output_before"))
            output = keras.ops.where(mask[0], output, states[-1])
            made.append(output)
            hidden = 1
        if getattr(layer, "zero_output_for_mask", False):
            output = keras.ops.where(mask[0], output, 0.0)
    return keras.Model([*names, *mask, *states], [output, *made], name=layer.name), hidden


def _hoisted(node, graph, given):
    """A step's graph without what does not depend on the states.

    Args:
        node: of the recurrent layer.
        graph: of its step.
        given: `Value`s of the sequences outside: the step's first inputs.

    Returns:
        Nodes that are computed for all steps at once; the `Graph` of the rest; and the sequences that it reads.
    """
    count = len(given)
    outside, later, before = {}, [], []
    of_states = set(graph.inputs[count:])
    for value, sequence in zip(graph.inputs, given):
        outside[value] = sequence
    for n in graph.nodes:
        if any(v in of_states for v in n.inputs) or not n.inputs:
            later.append(n)
            of_states.update(tree.flatten(n.outputs))
            continue
        made = tree.map_structure(lambda v: _of_all_steps(v, node, given[0]), n.outputs)
        outside.update(zip(tree.flatten(n.outputs), tree.flatten(made)))
        fill = lambda x: outside[x] if isinstance(x, Value) else x
        args, kwargs = tree.map_structure(fill, (n.args, n.kwargs))
        before.append(dataclasses.replace(n, args=args, kwargs=kwargs, outputs=made))
    read = {v for n in later for v in n.inputs} | set(tree.flatten(graph.outputs))
    inputs = [v for v in outside if v in read]
    names = {v: v.name for v in inputs}
    rest = dataclasses.replace(
        graph,
        inputs=[*inputs, *graph.inputs[count:]],
        nodes=later,
        input_structure=[0] * (len(inputs) + len(graph.inputs) - count),
        paths={},
    )
    return before, rest, [outside[v] for v in inputs]


def _of_all_steps(value, node, x):
    return Value((value.shape[0], x.shape[1], *value.shape[1:]), value.dtype, f"{node.path}/{value.name}", rows=x.rows)
