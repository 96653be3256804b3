"""What an `.onnx` file holds, and which of it ONNX Runtime computes in integers."""

import collections
import dataclasses

import onnx
from onnx import TensorProto

from keras_quant.onnx.builder import bodies_of, nodes_within, opset_of
from keras_quant.onnx.file import read_model
from keras_quant.onnx.runtime import optimized
from keras_quant.tflite.report import TensorInfo

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "FusedConv", "FusedGemm", "FusedMatMul")
_PAIRS = ("QuantizeLinear", "DequantizeLinear")


@dataclasses.dataclass(frozen=True)
class OnnxOperator:
    """Attributes:
    name: of the operator, "Conv".
    layer: path of the Keras layer it comes from.
    node: the node's name.
    runs_as: what ONNX Runtime runs it as, "QLinearConv"; empty where it is part of another node, or nothing.
    """

    name: str
    layer: str
    node: str
    runs_as: str


@dataclasses.dataclass(frozen=True)
class OnnxReport:
    """Attributes:
    path: of the file.
    bytes: its size, that of weights in a file of their own included.
    opset: version of the operator set.
    operators: `OnnxOperator`s in order, without QuantizeLinear and DequantizeLinear.
    tensors: `TensorInfo`s of everything that has a grid: values, kernels, biases.
    runs: dict from the names of the operators that ONNX Runtime runs to how many there are of each.
    unfused: `OnnxOperator`s with weights between quantized tensors that ONNX Runtime nevertheless computes in float.
    """

    path: str
    bytes: int
    opset: int
    operators: tuple
    tensors: tuple
    runs: dict
    unfused: tuple

    def __str__(self):
        line = f"{self.path}: {self.bytes:,} bytes, opset {self.opset}, {len(self.operators)} operators"
        if not self.unfused:
            return line
        notes = [f"  {op.layer}: {op.name} has no integer kernel in ONNX Runtime" for op in self.unfused]
        return "\n".join([f"{line}; in float on ONNX Runtime:", *notes])


def describe(path, total=None, paths=None):
    """Describe a file by loading it.

    Args:
        path: of the file.
        total: its bytes, with those of other files that belong to it.
        paths: dict from node names to layer paths; by default what stands before the last "/" of the name.

    Returns:
        `OnnxReport`.
    """
    model = read_model(path)
    made = optimized(path, model)
    nodes, ran = list(nodes_within(model.graph)), list(nodes_within(made.graph))
    names = {node.name for node in nodes}
    run = {_origin(node.name, names): node.op_type for node in reversed(ran)}
    layer = lambda node: (paths or {}).get(node.name, node.name.rpartition("/")[0])
    operators = tuple(
        OnnxOperator(node.op_type, layer(node), node.name, run.get(node.name, ""))
        for node in nodes
        if node.op_type not in _PAIRS
    )
    runs = dict(collections.Counter(node.op_type for node in ran))
    left = {_origin(name, names) for name in _unfused(ran)}
    unfused = tuple(op for op in operators if op.node in left)
    total = total if total is not None else model.ByteSize()
    return OnnxReport(str(path), total, opset_of(model), operators, tuple(_tensors(model)), runs, unfused)


def _origin(name, names):
    """The node that one of ONNX Runtime's was made from: it puts "_nchwc", "_token_1" and the like behind the name."""
    found = name
    while found not in names and "_" in found:
        found = found.rpartition("_")[0]
    return found if found in names else name


def _unfused(nodes):
    """Names of the nodes with weights that read a DequantizeLinear or are read by a QuantizeLinear."""
    makers = {name: node for node in nodes for name in node.output}
    quantized = {name for node in nodes if node.op_type == "QuantizeLinear" for name in node.input[:1]}
    left = set()
    for node in nodes:
        if node.op_type not in WEIGHTED:
            continue
        read = [makers[name].op_type for name in node.input if name in makers]
        if "DequantizeLinear" in read or quantized.intersection(node.output):
            left.add(node.name)
    return left


def _tensors(model):
    constants = {t.name: t for t in model.graph.initializer}
    shapes = {info.name: info for info in _values(onnx.shape_inference.infer_shapes(_light(model)).graph)}
    nodes, seen = list(nodes_within(model.graph)), set()
    casts = {node.output[0]: node.input[0] for node in nodes if node.op_type == "Cast"}
    for node in nodes:
        if node.op_type not in _PAIRS or node.input[1] not in constants:
            continue
        name = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]
        name = casts.get(name, name) if casts.get(name) in constants else name
        if name not in seen:
            seen.add(name)
            yield _tensor(name, node, constants, shapes)


def _values(graph):
    """What is known of the values of a graph, those in bodies included."""
    yield from (*graph.value_info, *graph.input, *graph.output)
    for body in (body for node in graph.node for body in bodies_of(node)):
        yield from _values(body)


def _tensor(name, node, constants, shapes):
    scale = tuple(onnx.numpy_helper.to_array(constants[node.input[1]]).ravel().tolist())
    zero_point = constants.get(node.input[2]) if len(node.input) > 2 else None
    zero = 0 if zero_point is None else int(onnx.numpy_helper.to_array(zero_point).ravel()[0])
    if name in constants:
        held = constants[name]
        return TensorInfo(name, tuple(held.dims), _type(held.data_type), scale, zero, True)
    dims = shapes[name].type.tensor_type.shape.dim if name in shapes else ()
    shape = tuple(dim.dim_value or None for dim in dims)
    kind = zero_point.data_type if zero_point is not None else TensorProto.UINT8
    return TensorInfo(name, shape, _type(kind), scale, zero, False)


def _type(number):
    return TensorProto.DataType.Name(number).lower().replace("float", "float32" if number == TensorProto.FLOAT else "float")


def _light(model):
    """The model without its large constants, which shapes do not depend on."""
    light = onnx.ModelProto()
    light.CopyFrom(model)
    kept = [t for t in light.graph.initializer if t.ByteSize() < 4096]
    for t in light.graph.initializer:
        if t.ByteSize() >= 4096:
            light.graph.input.append(onnx.helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)))
    del light.graph.initializer[:]
    light.graph.initializer.extend(kept)
    return light
