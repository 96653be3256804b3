"""An ONNX graph being written: nodes, constants, unique names."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

PRODUCER = "keras_quant"
# Bytes of a constant that goes into a file of its own where the model has one; scales stay in the model.
SMALLEST_APART = 2**16
DTYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
}


class Builder:
    """Collects what a model holds.

    Attributes:
        opset: version of the operator set.
        batch_size: of the inputs; `None` leaves it open.
        nodes: `NodeProto`s in order.
        initializers: dict from names to `TensorProto`s.
        paths: dict from node names to the layer paths that they come from.
    """

    def __init__(self, opset, batch_size=None):
        self.opset, self.batch_size = opset, batch_size
        self.nodes, self.initializers, self.paths = [], {}, {}
        self.inputs, self.outputs, self.functions = [], [], []
        self._taken = set()

    def inside(self, batch_size):
        """A `Builder` of a loop's body: the constants are the model's, and no name is taken twice."""
        made = Builder(self.opset, batch_size)
        made.initializers, made.paths, made._taken = self.initializers, self.paths, self._taken
        return made

    def unique(self, name):
        """The name, or, if it is taken, one made of it."""
        made, count = name, 0
        while made in self._taken:
            count += 1
            made = f"{name}_{count}"
        self._taken.add(made)
        return made

    def constant(self, name, array):
        """Add an array; returns its name."""
        name = self.unique(name)
        self.initializers[name] = numpy_helper.from_array(np.asarray(array, order="C"), name)
        return name

    def constant_int4(self, name, array):
        """Add integers of 4 bits, two a byte, the first in the lower half."""
        name, flat = self.unique(name), np.ravel(array).astype(np.int8)
        low, high = np.append(flat, np.zeros(len(flat) % 2, np.int8)).reshape(-1, 2).T & 15
        packed = (low | high << 4).astype(np.uint8).tobytes()
        self.initializers[name] = helper.make_tensor(name, TensorProto.INT4, array.shape, packed, raw=True)
        return name

    def node(self, operator, inputs, path, value=None, **attributes):
        """Add a node with one output.

        Args:
            operator: name of the operator.
            inputs: names of values; "" for one left out.
            path: of the layer that it comes from.
            value: name wanted for the output.
            **attributes: of the operator.

        Returns:
            The output's name.
        """
        return self.node_of_many(operator, inputs, path, [value or f"{path}/{operator}:0"], **attributes)[0]

    def node_of_many(self, operator, inputs, path, values, **attributes):
        """As `node`, with a name for each of several outputs; returns their names."""
        made = [self.unique(value) for value in values]
        name = self.unique(f"{path}/{operator}")
        self.nodes.append(helper.make_node(operator, inputs, made, name=name, **attributes))
        self.paths[name] = path
        return made

    def input(self, name, shape, dtype):
        """Add an input of the model; shape without the batch."""
        self._taken.add(name)
        self.inputs.append(self._info(name, shape, dtype))
        return name

    def output(self, name, value, shape, dtype):
        """Add an output of the model: a value under a name of its own."""
        self.outputs.append(self._info(name, shape, dtype))
        if value != name:
            self.nodes.append(helper.make_node("Identity", [value], [name], name=self.unique(f"{name}/output")))

    def _info(self, name, shape, dtype):
        batch = "batch" if self.batch_size is None else self.batch_size
        return helper.make_tensor_value_info(name, DTYPES[dtype], [batch, *shape])

    def body(self, name):
        """The graph of a loop's body, without what reaches none of its outputs."""
        return helper.make_graph(_needed(self.nodes, self.outputs)[0], name, self.inputs, self.outputs)

    @property
    def bytes(self):
        """Of the constants that the outputs need."""
        self._prune()
        return sum(len(tensor.raw_data) for tensor in self.initializers.values())

    def finish(self, name, location=None):
        """The model, without what reaches no output.

        Args:
            name: of the graph.
            location: name of a file for the large constants; `None` to have them in the model.

        Returns:
            `ModelProto`, and the `TensorProto`s that go into that file, in order.
        """
        self._prune()
        tensors = self.initializers.values()
        apart = [] if location is None else [tensor for tensor in tensors if len(tensor.raw_data) >= SMALLEST_APART]
        held = [tensor for tensor in tensors if not any(tensor is other for other in apart)]
        graph = helper.make_graph(self.nodes, name, self.inputs, self.outputs, held + _references(apart, location))
        opsets = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=opsets, producer_name=PRODUCER)
        model.ir_version = helper.find_min_ir_version_for(opsets)
        return model, apart

    def _prune(self):
        self.nodes, used = _needed(self.nodes, self.outputs)
        self.initializers = {name: value for name, value in self.initializers.items() if name in used}


def _needed(nodes, outputs):
    """Those nodes that lead to outputs, and the names of all values that are read."""
    used, kept = {info.name for info in outputs}, []
    for node in reversed(nodes):
        if used.intersection(node.output):
            kept.append(node)
            used.update(_read(node))
    return kept[::-1], used


def _references(tensors, location):
    """What stands for constants that lie in a file of their own, one behind the other."""
    made, offset = [], 0
    for tensor in tensors:
        reference = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        reference.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", offset), ("length", len(tensor.raw_data))):
            reference.external_data.add(key=key, value=str(value))
        made.append(reference)
        offset += len(tensor.raw_data)
    return made


def _read(node):
    """Names of the values that a node reads, those in the bodies of loops and branches included."""
    yield from node.input
    for body in bodies_of(node):
        for inner in body.node:
            yield from _read(inner)


def bodies_of(node):
    """The graphs inside a node: bodies of loops, branches."""
    for attribute in node.attribute:
        yield from [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]


def nodes_within(graph):
    """All nodes of a graph, those in the bodies of loops and branches included."""
    for node in graph.node:
        yield node
        for body in bodies_of(node):
            yield from nodes_within(body)


def opset_of(model):
    """The version of the standard operator set that a `ModelProto` imports."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None)
