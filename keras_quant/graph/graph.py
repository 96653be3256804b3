"""The leaf graph: what tracing makes of any model and every later step reads."""

import collections
import dataclasses
import inspect
import math
from typing import Any

import keras
import numpy as np
from keras import tree

# Layers that join one, at most: bias, batch normalization, activation, rescalings.
MOST_JOINED = 8


@dataclasses.dataclass(eq=False)
class Value:
    """A tensor of the graph.

    Attributes:
        shape: with `None` for the batch.
        dtype: name of the dtype.
        name: of the input, or the path of the node that makes it.
        note: `layers.annotation.Annotation` with the quantizer whose grid the values lie on, or `None`.
        rows: how many rows of the first dimension there are for each sample of the model: windows or frames that were
            merged into the batch.
        batch_axis: the axis of the batch; `None` where there is none. Behind `graph.front` it is 0.
    """

    shape: tuple
    dtype: str
    name: str
    note: Any = None
    rows: int = 1
    batch_axis: int | None = 0


@dataclasses.dataclass(eq=False)
class Node:
    """One call of a leaf.

    Attributes:
        operation: a Keras layer, a quantized layer (meaning its `main_call`) or a `keras.ops` operation.
        path: readable place in the model: names of nested models and layers, joined by "/".
        args, kwargs: what it is called with; tensors are `Value`s, in the structure that the operation takes.
        outputs: `Value`s, in the structure that the operation returns.
        batch_norm: a `BatchNormalization` layer that joins this one, or `None`.
        activation: an activation function that joins this one, or `None`.
        input_scale: a factor of its input that joins this one.
        training: the `training` that it, or a layer around it, is called with whatever the caller says, or `None`.
        source: file and line of the `call` that holds it, or `None` where that is Keras's.
        policy: `Policy`, of a float model's node once policies are given out.
        named: whether a key of the `PolicyMap` matched it, rather than the default.
        refusal: why it has no quantized form, where a pass found that out; or `None`.
    """

    operation: Any
    path: str
    args: tuple
    kwargs: dict
    outputs: Any
    batch_norm: Any = None
    activation: Any = None
    input_scale: float = 1.0
    training: Any = None
    source: str | None = None
    policy: Any = None
    named: bool = False
    refusal: str | None = None

    @property
    def inputs(self):
        """The tensors it is called with."""
        return [x for x in tree.flatten((self.args, self.kwargs)) if isinstance(x, Value)]

    def named_outputs(self):
        """Its outputs by a path: its own for the first, or only, one; with their numbers the others."""
        flat = tree.flatten(self.outputs)
        return {f"{self.path}/{index}" if index else self.path: value for index, value in enumerate(flat)}

    @property
    def output(self):
        """Its only output."""
        (output,) = tree.flatten(self.outputs)
        return output


@dataclasses.dataclass
class Graph:
    """Nodes in an order in which they can be computed.

    Attributes:
        inputs: `Value`s in the order of the model's inputs; their names are the Keras names.
        outputs: `Value`s in the structure that the model returns.
        output_names: Keras names, in flattened order.
        nodes: `Node`s.
        input_structure: that of the inputs that the model is called with.
        paths: dict from the path of each layer to its output, and those that nothing but it leads to, one behind the other;
            layers with one output only.
        output_masks: for each output, in flattened order, the `Value` of its Keras mask, or `None`.
        sized: paths of operations whose numbers may have been computed from the size of the inputs.
        weights: dict from the `id` of each variable that several layers' weights are computed from to its `Weight`.
    """

    inputs: list
    outputs: Any
    output_names: list
    nodes: list
    input_structure: Any = None
    paths: dict = dataclasses.field(default_factory=dict)
    output_masks: list = dataclasses.field(default_factory=list)
    sized: list = dataclasses.field(default_factory=list)
    weights: dict = dataclasses.field(default_factory=dict)

    def with_policies(self, policies):
        """The graph with each node's policy in it.

        Args:
            policies: `PolicyMap`.
        """
        return dataclasses.replace(self, nodes=[_with_policy(node, policies) for node in self.nodes])

    def with_calls_apart(self):
        """The graph with a path of its own for each node: the second call of a layer "dense" is "dense:1"."""
        counts, nodes = collections.Counter(), []
        for node in self.nodes:
            count = counts[node.path]
            counts[node.path] += 1
            nodes.append(dataclasses.replace(node, path=f"{node.path}:{count}") if count else node)
        return dataclasses.replace(self, nodes=nodes)

    def consumers(self):
        """For each value, the nodes that read it; a model's output counts as one more reader, `None`."""
        readers = {}
        for node in self.nodes:
            for value in node.inputs:
                readers.setdefault(value, []).append(node)
        for value in tree.flatten(self.outputs):
            readers.setdefault(value, []).append(None)
        return readers

    def with_paths(self, outputs):
        """The graph with `paths`.

        Args:
            outputs: dict from the path of each layer to its output.
        """
        readers, ahead = self.consumers(), {}
        for node in reversed(self.nodes):
            for value in node.inputs:
                alone = readers[value] == [node] and isinstance(node.outputs, Value)
                ahead[value] = (node.outputs, *ahead.get(node.outputs, ())[:MOST_JOINED]) if alone else ()
        paths = {path: (value, *ahead.get(value, ())) for path, value in outputs.items()}
        return dataclasses.replace(self, paths=paths)

    def calls(self):
        """For the `id` of each operation, how many nodes call it."""
        return collections.Counter(id(node.operation) for node in self.nodes)

    def run(self, inputs, compute, release=False):
        """Compute the graph.

        Args:
            inputs: tensors in the order of `self.inputs`.
            compute: function (node, args, kwargs) → output tensors.
            release: whether to let go of each tensor once all its readers have had it; `most_held` says how many there are.

        Returns:
            Dict from every `Value` to its tensor; with `release`, from those of the outputs alone.
        """
        values, unread = dict(zip(self.inputs, inputs)), self._readers()
        fill = lambda x: values[x] if isinstance(x, Value) else x
        for node in self.nodes:
            outputs = compute(node, *tree.map_structure(fill, (node.args, node.kwargs)))
            values.update(zip(tree.flatten(node.outputs), tree.flatten(outputs)))
            if release:
                for value in _read_last(node, unread):
                    del values[value]
        return values

    def most_held(self, ways=1, making=1):
        """How many numbers of one sample `run` holds at a time, at most, if it releases what was read.

        Args:
            ways: in how many ways each tensor is held, for instance 2 in float and in integers.
            making: how many tensors there are for each that is being made, results and what leads to them.
        """
        unread = self._readers()
        held = most = ways * sum(map(_size, self.inputs))
        for node in self.nodes:
            made = sum(map(_size, tree.flatten(node.outputs)))
            traced = getattr(node.operation, "traced", None)
            if traced is not None:  # a loop, all of whose steps are gone through as samples
                steps = node.inputs[0].rows * node.inputs[0].shape[1]
                most = max(most, held + steps * traced.graph.most_held(ways, making))
            most, held = max(most, held + making * made), held + ways * made
            held -= ways * sum(map(_size, _read_last(node, unread)))
        return most

    def _readers(self):
        return {value: len(readers) for value, readers in self.consumers().items()}


def _read_last(node, unread):
    """The tensors that nobody reads after a node: its inputs, and outputs of it that have no reader at all.

    Args:
        node: `Node`.
        unread: dict from values to how many readers are left; this one is counted off.
    """
    for value in node.inputs:
        unread[value] -= 1
    return {value for value in (*node.inputs, *tree.flatten(node.outputs)) if not unread.get(value)}


def _size(value):
    return value.rows * math.prod(dimension or 1 for dimension in value.shape[1:])


def in_inference(node, args, kwargs):
    """What a float layer or operation computes in inference; some layers, random ones, would train by default."""
    if "training" in inspect.signature(node.operation.call).parameters:
        kwargs = {**kwargs, "training": bool(node.training)}
    return node.operation(*args, **kwargs)


def in_float(node, args, kwargs):
    """What a node of a quantized model computes in float: `compute` of `Graph.run` for the float model."""
    layer = node.operation
    return layer.float_call(*args) if hasattr(layer, "float_call") else in_inference(node, args, kwargs)


def in_integers(node, args, kwargs):
    """What a node computes in inference, on tensors that lie on grids where it wants that."""
    layer = node.operation
    return layer.main_call(*args, training=False) if hasattr(layer, "main_call") else in_inference(node, args, kwargs)


class TracedStep:
    """The step of a `layers.Loop` as a graph.

    Args:
        graph: `Graph`.
    """

    def __init__(self, graph):
        self.graph = graph

    def in_float(self, inputs):
        """What the step computes in float: flat list → flat list."""
        values = self.graph.run(inputs, in_float)
        return [values[v] for v in tree.flatten(self.graph.outputs)]


def rows_of(arguments):
    """`Value.rows` of what an operation makes of these arguments: those of its first tensor."""
    return next((x.rows for x in tree.flatten(arguments) if isinstance(x, Value)), 1)


def _with_policy(node, policies):
    return dataclasses.replace(node, policy=policies[node.path], named=policies.key_for(node.path) is not None)


def without_unread(graph, candidates=lambda node: True):
    """The graph without nodes that nothing reads.

    Args:
        graph: `Graph`.
        candidates: function (node) → whether it may go.
    """
    read = {value for value in (*tree.flatten(graph.outputs), *graph.output_masks) if value is not None}
    nodes = []
    for node in reversed(graph.nodes):
        if not candidates(node) or any(value in read for value in tree.flatten(node.outputs)):
            nodes.append(node)
            read.update(node.inputs)
    return dataclasses.replace(graph, nodes=nodes[::-1])


def without_repeats(graph, candidates):
    """The graph in which what several nodes compute alike is computed once.

    Args:
        graph: `Graph`.
        candidates: function (node) → whether it may go.
    """
    known, same, nodes = {}, {}, []
    fill = lambda x: same.get(x, x) if isinstance(x, Value) else x
    for node in graph.nodes:
        args, kwargs = tree.map_structure(fill, (node.args, node.kwargs))
        node = dataclasses.replace(node, args=args, kwargs=kwargs)
        key = _computation(node) if candidates(node) else node
        if key in known:
            same.update(zip(tree.flatten(node.outputs), tree.flatten(known[key].outputs)))
        else:
            known[key] = node
            nodes.append(node)
    masks = [fill(x) for x in graph.output_masks]
    return dataclasses.replace(graph, nodes=nodes, outputs=tree.map_structure(fill, graph.outputs), output_masks=masks)


def _computation(node):
    """What tells a computation from others."""
    leaf = lambda x: x if isinstance(x, (Value, *_PLAIN)) else _identity(x)
    known = [
        leaf(x) if hasattr(x, "dtype") or isinstance(x, (Value, *_PLAIN)) else repr(x)
        for x in tree.flatten((node.args, node.kwargs))
    ]
    config = {key: value for key, value in node.operation.get_config().items() if key != "name"}
    return (type(node.operation), repr(config), repr(tree.map_structure(lambda _: 0, (node.args, node.kwargs))), *known)


def _identity(x):
    return id(x) if isinstance(x, keras.KerasTensor) else (str(x.dtype), np.asarray(x).tobytes(), np.shape(x))


_PLAIN = (bool, int, float, str, type(None), type(Ellipsis))
