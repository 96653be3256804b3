"""Any int8 `.tflite` in comparable form: for each operator its weights, its bias, its grids, by role instead of by index."""

import dataclasses

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_quant.tflite.flatbuffer import parse

NAMES = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
KERNELS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
NO_QUANTIZATION = schema.QuantizationParametersT()


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of a file.

    Attributes:
        name: in the file.
        shape: tuple.
        scale: float32 array, one value or one a channel; empty for a tensor without quantization.
        zero_point: int array alike.
        axis: that the scales run along.
        values: array of a constant, else `None`.
    """

    name: str
    shape: tuple
    scale: np.ndarray
    zero_point: np.ndarray
    axis: int
    values: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Operator:
    """An operator of a file.

    Attributes:
        name: of the `BuiltinOperator`.
        roles: dict from "input", "input_1", ..., "weights", "bias", "output" to `Tensor`.
        options: dict of the scalar fields of its options table.
    """

    name: str
    roles: dict
    options: dict


def operators(content):
    """The operators of a file's bytes, each behind those that it reads: branches in the order of their operands.

    The order in the file is no part of a judgement: the converter's own varies from run to run between branches.
    """
    model = parse(content)
    graph = model.subgraphs[0]
    tensors = [_tensor(tensor, model.buffers[tensor.buffer]) for tensor in graph.tensors]
    made = []
    for op in _by_operands(graph):
        code = model.operatorCodes[op.opcodeIndex]
        name = NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)]
        (output,) = op.outputs
        inputs = [tensors[index] if index >= 0 else None for index in op.inputs]
        made.append(
            Operator(name, {**_roles(name, inputs), "output": tensors[output]}, _options(op, len(tensors[output].shape)))
        )
    return made


def _by_operands(graph):
    maker = {output: op for op in graph.operators for output in op.outputs}
    ordered = {}

    def visit(tensor):
        op = maker.get(tensor)
        if op is not None and id(op) not in ordered:
            for operand in op.inputs:
                visit(operand)
            ordered[id(op)] = op

    for tensor in graph.outputs:
        visit(tensor)
    return list(ordered.values())


def _roles(name, inputs):
    if name in KERNELS:
        named = dict(zip(("input", "weights", "bias"), inputs))
        return {role: tensor for role, tensor in named.items() if tensor is not None}
    graded = [tensor for tensor in inputs if tensor.scale.size or tensor.values is None]
    return {f"input_{i}" if i else "input": tensor for i, tensor in enumerate(graded)}


def _tensor(tensor, buffer):
    kind = {schema.TensorType.INT8: np.int8, schema.TensorType.INT32: np.int32, schema.TensorType.FLOAT32: np.float32}
    shape = tuple(int(size) for size in ([] if tensor.shape is None else tensor.shape))
    q = tensor.quantization or NO_QUANTIZATION
    scale, zero = (np.array([] if v is None else v) for v in (q.scale, q.zeroPoint))
    values = None
    if buffer.data is not None and len(buffer.data):
        values = np.frombuffer(bytes(buffer.data), kind[tensor.type]).reshape(shape)
    return Tensor(tensor.name.decode(), shape, scale.astype(np.float32), zero.astype(int), int(q.quantizedDimension), values)


def _options(op, rank):
    """The numbers of the options table, an axis counted from the front; without what says how a tensor is stored."""
    fields = dict(vars(op.builtinOptions)) if op.builtinOptions is not None else {}
    if "axis" in fields:
        fields["axis"] %= rank
    skipped = ("newShape", "quantizedBiasType", "potScaleInt16", "asymmetricQuantizeInputs")
    return {name: value for name, value in fields.items() if name not in skipped}


def kernels(ops):
    """The roles of the operators that have weights."""
    return [op.roles for op in ops if "weights" in op.roles]


def differences(ours, theirs):
    """Where two lists of operators of equal kinds part.

    Args:
        ours, theirs: lists of `Operator`; the same operators in the same order, or an `AssertionError` is raised.

    Returns:
        Dict from `(position, operator name, role, what)` to how far: for "scale" in float32 steps, for "zero_point" and
        "values" in integers, the largest each; for anything that cannot be subtracted, the pair. Empty: all agree.
    """
    assert [op.name for op in ours] == [op.name for op in theirs]
    found = {}
    for place, (our, their) in enumerate(zip(ours, theirs)):
        if our.options != their.options:
            found[place, our.name, "", "options"] = (our.options, their.options)
        for role in our.roles | their.roles:
            for what, distance in _between(our.roles.get(role), their.roles.get(role)).items():
                found[place, our.name, role, what] = distance
    return found


def within(found, allowed):
    """Those of `differences` that are not explained.

    Args:
        found: dict from `differences`.
        allowed: dict from `(role, what)` to the largest distance.
    """
    limit = lambda key: allowed.get(key[2:])
    return {key: distance for key, distance in found.items() if limit(key) is None or distance > limit(key)}


def _between(ours, theirs):
    if ours is None or theirs is None:
        return {"present": (ours is not None, theirs is not None)}
    pairs = {
        "shape": (ours.shape, theirs.shape),
        "channels": ((len(ours.scale), ours.axis), (len(theirs.scale), theirs.axis)) if len(ours.scale) > 1 else (0, 0),
    }
    found = {what: pair for what, pair in pairs.items() if pair[0] != pair[1]}
    if not found:
        steps = {
            "scale": ulps(ours.scale, theirs.scale),
            "zero_point": ours.zero_point - theirs.zero_point,
            "values": 0 if ours.values is None else ours.values.astype(int) - theirs.values,
        }
        found = {what: int(np.max(np.abs(gap))) for what, gap in steps.items() if np.any(gap)}
    return found


def ulps(a, b):
    """How many float32 numbers lie from `a` to `b`, both positive."""
    return np.asarray(a, np.float32).view(np.int32).astype(int) - np.asarray(b, np.float32).view(np.int32)
