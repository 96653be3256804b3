"""A recurrent layer becomes what is computed for all steps at once, and a loop over the rest."""

import dataclasses
import inspect

import keras
from keras import tree
from keras.src.ops import numpy as knp

from keras_quant.errors import UnsupportedLayerError
from keras_quant.graph.call import counts_anew, operations_numbered_by
from keras_quant.graph.cells import first_states, step_of
from keras_quant.graph.expand import expands
from keras_quant.graph.explain import location
from keras_quant.graph.graph import Node, Value
from keras_quant.graph.recurrence import Recurrence
from keras_quant.graph.states import with_exact_states
from keras_quant.graph.trace import trace

LAYERS = "LSTM", "GRU", "SimpleRNN", "RNN", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"
# What acts on each step of a sequence as on any other axis before the last.
_ROWWISE = keras.layers.Dense, keras.layers.Activation, keras.layers.Add, keras.layers.Multiply, keras.layers.Dropout


@expands(keras.layers, *LAYERS)
def _recurrent(node):
    """The nodes of a recurrent layer, the last of which is its loop."""
    try:
        return _nodes(node)
    except UnsupportedLayerError as error:
        return [node] if node.refusal else [dataclasses.replace(node, refusal=str(error))]


def _nodes(node):
    layer, given = node.operation, _arguments(node)
    x, mask = given["sequences"], given.get("mask")
    first = [v for v in tree.flatten(given.get("initial_state")) if v is not None]
    exact = not node.policy.integer_only
    with operations_numbered_by(counts_anew()):
        step, hidden = _float_step(node, x, mask is not None, exact)
    graph = trace(step, keep_float=node.policy.computes_in_float, follow_weights=True)
    inside = [dataclasses.replace(n, path=f"{node.path}/{n.path}", source=n.source or node.source) for n in graph.nodes]
    graph = dataclasses.replace(graph, nodes=inside)
    sequences, nodes = [x], _dropped(layer, node, x)
    sequences[0] = nodes[-1].outputs if nodes else x
    if mask is not None:
        nodes.append(_column(node, mask))
        sequences.append(nodes[-1].outputs)
    early, before, graph, sequences = _hoisted(node, graph, sequences)
    graph = with_exact_states(graph, len(sequences)) if exact else graph
    arguments = {
        "sequences": len(sequences),
        "return_sequences": layer.return_sequences,
        "return_state": layer.return_state,
        "go_backwards": layer.go_backwards,
        "unroll": layer.unroll,
        "hidden_states": hidden,
        "stateful": layer.stateful,
        "batch_size": tree.flatten(layer.states)[0].shape[0] if layer.stateful else None,
    }
    loop = Recurrence(graph, arguments, layer, node, [n.operation for n in early])
    return [*nodes, *before, Node(loop, node.path, ([*sequences, *first],), {}, node.outputs)]


def _arguments(node):
    """What a recurrent layer is called with, by the names of its arguments."""
    given = inspect.signature(node.operation.call).bind(*node.args, **node.kwargs).arguments
    if not isinstance(given["sequences"], Value):
        raise UnsupportedLayerError(
            f"Layer '{node.path}' ({type(node.operation).__name__}){location(node)} takes several sequences. Concatenate "
            "them along their last axis, and part them in the cell."
        )
    return given


def _column(node, mask):
    """A mask `(batch, length)` as `(batch, length, 1)`."""
    if len(mask.shape) != 2:
        raise UnsupportedLayerError(
            f"Layer '{node.path}' ({type(node.operation).__name__}){location(node)} takes a mask with one entry a step, "
            f"`(batch, {node.inputs[0].shape[1]})`. Call it with one, such as `mask=keras.ops.any(mask, axis=-1)`. "
            f"Received: shape {('batch', *mask.shape[1:])}"
        )
    path = f"{node.path}/mask"
    return Node(knp.ExpandDims(-1), path, (mask,), {}, Value((*mask.shape, 1), mask.dtype, path, rows=mask.rows))


def _dropped(layer, node, x):
    """What training leaves out of a sequence, the same in all steps."""
    rate = getattr(layer.cell, "dropout", 0)
    if not rate or not hasattr(layer.cell, "recurrent_kernel"):
        return []
    shape = (None, 1, *x.shape[2:])
    dropout = keras.layers.Dropout(rate, noise_shape=shape, seed=getattr(layer.cell, "seed", None), name="dropout")
    path = f"{node.path}/dropout"
    return [Node(dropout, path, (x,), {}, Value(x.shape, x.dtype, path, rows=x.rows))]


def _float_step(node, x, masked, exact):
    """One step of a recurrent layer as a Functional model, and how many of its states are not the layer's."""
    layer = node.operation
    try:
        shapes = [state.shape[1:] for state in tree.flatten(first_states(layer.cell))]
    except ValueError as error:
        raise UnsupportedLayerError(
            f"Layer '{node.path}' ({type(layer).__name__}){location(node)}: its cell begins with states that are not zero. "
            "Pass them to the layer as `initial_state`."
        ) from error
    inputs = keras.Input(x.shape[2:], dtype=x.dtype, name="x")
    states = [keras.Input(shape, name=f"before_{index}") for index, shape in enumerate(shapes)]
    output, made = step_of(layer.cell, inputs, states, exact)
    if not masked:
        return keras.Model([inputs, *states], [output, *made], name=layer.name), 0
    mask, hidden = keras.Input((1,), dtype="bool", name="mask"), 0
    place = next((index for index, new in enumerate(made) if new is output), None)
    made = [_chosen(mask, new, old) for new, old in zip(made, states)]
    if place is None:
        # Keras hands on the output of the step before.
        states.append(keras.Input(output.shape[1:], name="output_before"))
        made.append(_chosen(mask, output, states[-1]))
        place, hidden = -1, 1
    output = made[place]
    if getattr(layer, "zero_output_for_mask", False):
        output = _chosen(mask, output, 0.0)
    return keras.Model([inputs, mask, *states], [output, *made], name=layer.name), hidden


def _chosen(mask, new, old):
    rank = len(new.shape)
    mask = mask if rank == 2 else keras.ops.reshape(mask, (-1, *(1,) * (rank - 1)))
    return keras.ops.where(mask, new, old)


def _hoisted(node, graph, given):
    """A step's graph without what does not depend on the states.

    Args:
        node: of the recurrent layer.
        graph: of its step.
        given: `Value`s of the sequences outside: the step's first inputs.

    Returns:
        The step's nodes that are computed for all steps at once; the nodes that do so; the `Graph` of the rest; and the
        sequences that it reads.
    """
    count = len(given)
    of_states, early, later = set(graph.inputs[1:]), [], []
    for n in graph.nodes:
        waits = any(v in of_states for v in n.inputs) or not n.inputs
        (later if waits else early).append(n)
        of_states.update(tree.flatten(n.outputs) if waits else [])
    hoist = _Hoist(node, given[0], rowwise=all(isinstance(n.operation, _ROWWISE) for n in early))
    outside = dict(zip(graph.inputs, given))
    outside.update(hoist.nodes_of(early, graph.inputs[0]))
    read = {v for n in later for v in n.inputs} | set(tree.flatten(graph.outputs))
    inputs = [v for v in outside if v in read]
    sequences = [hoist.back(outside[v]) for v in inputs]
    inputs += graph.inputs[count:]
    rest = dataclasses.replace(graph, inputs=inputs, nodes=later, input_structure=[0] * len(inputs), paths={})
    return early, hoist.nodes, rest, sequences


class _Hoist:
    """Nodes for all steps at once: as they are, or with the steps in the batch.

    Args:
        node: of the recurrent layer.
        x: its sequence.
        rowwise: whether the nodes take the steps as an axis of their own.
    """

    def __init__(self, node, x, rowwise):
        self.node, self.x, self.rowwise, self.nodes, self.parted = node, x, rowwise, [], {}

    def nodes_of(self, early, step):
        """Write the nodes; returns a dict from the step's `Value`s to those of all steps."""
        x = self.x if self.rowwise or not early else self._reshaped(self.x, (-1, *self.x.shape[2:]), "rows", self._rows)
        outside = {step: x}
        for n in early:
            made = tree.map_structure(self._of_all_steps, n.outputs)
            outside.update(zip(tree.flatten(n.outputs), tree.flatten(made)))
            fill = lambda v: outside[v] if isinstance(v, Value) else v
            args, kwargs = tree.map_structure(fill, (n.args, n.kwargs))
            self.nodes.append(dataclasses.replace(n, args=args, kwargs=kwargs, outputs=made))
        return {value: made for value, made in outside.items() if value is not step}

    @property
    def _rows(self):
        return self.x.rows * self.x.shape[1]

    def _of_all_steps(self, value):
        if self.rowwise:
            return Value((self.x.shape[0], self.x.shape[1], *value.shape[1:]), value.dtype, value.name, rows=self.x.rows)
        return Value(value.shape, value.dtype, value.name, rows=self._rows)

    def back(self, value):
        """A value with the steps as an axis of their own again."""
        if self.rowwise or value.rows != self._rows:
            return value
        return self._reshaped(value, (-1, self.x.shape[1], *value.shape[1:]), "steps", self.x.rows)

    def _reshaped(self, x, shape, name, rows):
        path = f"{self.node.path}/{name}_{len(self.nodes)}" if name == "steps" else f"{self.node.path}/{name}"
        made = Value((x.shape[0], *shape[1:]), x.dtype, path, rows=rows)
        self.nodes.append(Node(knp.Reshape(shape), path, (x,), {}, made))
        return made
