"""Tensors and operators of a subgraph, through the published schema's own objects."""

import dataclasses
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_quant.tflite.flatbuffer import SIGNATURE, AlignedBuffer, finish

TensorType, BuiltinOperator, BuiltinOptions = schema.TensorType, schema.BuiltinOperator, schema.BuiltinOptions
KINDS = {
    name: getattr(TensorType, name.upper())
    for name in ("int8", "uint8", "int16", "int32", "int64", "uint32", "bool", "float16", "float32")
}
_NARROW = {2: TensorType.INT2, 4: TensorType.INT4}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of the file.

    Attributes:
        index: in the subgraph.
        name: unique in the file.
        shape: with the exported batch size.
        scale, zero_point: NumPy float32 and int of a tensor on a grid; a scale of `None` for other ones.
        kind: `TensorType`.
    """

    index: int
    name: str
    shape: tuple
    scale: Any = None
    zero_point: int = 0
    kind: int = TensorType.INT8

    @property
    def is_real(self):
        """Whether it holds real numbers."""
        return self.kind == TensorType.FLOAT32


class Writer:
    """Collects tensors and operators of one subgraph and packs them.

    Args:
        batch_size: first dimension of every activation; `None` marks it as resizable at run time (and writes 1).

    Attributes:
        layers: dict from names of tensors to paths of layers, of the `Lowering` that writes here.
        shares_weights: whether constants with scales that are there already are not written again, either.
        inner: list of pairs of an operator and the subgraphs that it runs: a dict from the name of the field of its options
            that holds a subgraph's place to `(writer, inputs, outputs)`.
    """

    def __init__(self, batch_size=1):
        self.batch_size = batch_size
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.buffers = [schema.BufferT()]
        self.codes = {}
        self.min_version = (1, 14, 0)
        self.names, self.operands = set(), {}
        self.metadata = {}
        self.layers = {}
        self.shares_weights = False
        self.inner = []

    def activation(self, name, shape, scale, zero_point, kind=TensorType.INT8, rows=1):
        """Add a tensor of integers that is computed at run time; `shape` without the batch.

        Args:
            name: wanted name; made unique.
            shape: without the batch dimension.
            scale, zero_point: of its grid.
            kind: `TensorType` of the integers.
            rows: how many places of the first dimension a sample takes.

        Returns:
            `Tensor`.
        """
        scale, zero_point = np.float32(scale), int(zero_point)
        index, name, full = self._computed(name, shape, kind, [scale], [zero_point], rows)
        return Tensor(index, name, full, scale, zero_point, kind)

    def real(self, name, shape, rows=1):
        """Add a float32 tensor that is computed at run time; args and return value as of `activation`."""
        return Tensor(*self._computed(name, shape, TensorType.FLOAT32, None, None, rows), kind=TensorType.FLOAT32)

    def unpacked(self, name, shape):
        """Add a float32 tensor that an operator makes of a constant; `shape` is whole."""
        index, name = self._tensor(name, shape, TensorType.FLOAT32, 0, None, None)
        return Tensor(index, name, tuple(shape), kind=TensorType.FLOAT32)

    def integers(self, name, shape, kind=TensorType.INT32, rows=1):
        """Add a tensor of integers or booleans on no grid; args and return value as of `activation`."""
        return Tensor(*self._computed(name, shape, kind, None, None, rows), kind=kind)

    def _computed(self, name, shape, kind, scales, zero_points, rows=1):
        full = ((self.batch_size or 1) * rows, *shape)
        index, name = self._tensor(name, full, kind, 0, scales, zero_points)
        if self.batch_size is None:
            self.graph.tensors[index].shapeSignature = [-1, *shape]
        return index, name, full

    def constant(self, name, array, scale=None, axis=0, zero_point=0):
        """Add a constant array, with one scale a channel of `axis` if it has scales; returns its index.

        An operand without scales (a shape, a padding) that is there already is not written again.
        """
        array = np.ascontiguousarray(array)
        add = lambda: self._constant(name, array, KINDS[array.dtype.name], array.shape, scale, axis, zero_point)
        if scale is not None and not self.shares_weights:
            return add()
        key = array.dtype.name, array.shape, array.tobytes(), axis, zero_point
        key += () if scale is None else (np.asarray(scale, np.float32).tobytes(),)
        if key not in self.operands:
            self.operands[key] = add()
        return self.operands[key]

    def narrow_constant(self, name, array, scale, bits):
        """Add a constant of integers of 2 or 4 bits, four or two a byte, the first lowest; args as of `constant`."""
        places = np.arange(0, 8, bits, np.uint8)
        digits = array.reshape(-1, len(places)).astype(np.uint8) & (2**bits - 1)
        stored = np.bitwise_or.reduce(digits << places, axis=1)
        return self._constant(name, stored, _NARROW[bits], array.shape, scale, 0, 0)

    def grouped_constant(self, name, array, scales, size):
        """Add a constant `(channels, inputs)` of integers of 4 bits with a scale for each `size` inputs.

        The scales, `(channels, groups)`, are a tensor of float16 of their own, as the format has it.
        """
        index = self.narrow_constant(name, array, None, 4)
        quantization = schema.QuantizationParametersT()
        quantization.detailsType = schema.QuantizationDetails.BlockwiseQuantization
        quantization.details = schema.BlockwiseQuantizationT(
            scales=self.constant(f"{name}_scales", scales.astype(np.float16)), zeroPoints=-1, blockSize=size
        )
        self.graph.tensors[index].quantization = quantization
        return index

    def _constant(self, name, stored, kind, shape, scale, axis, zero_point):
        self.buffers.append(AlignedBuffer(stored))
        scales = None if scale is None else np.atleast_1d(np.asarray(scale, np.float32))
        zeros = None if scale is None else np.full(len(scales), zero_point, np.int64)
        buffer = len(self.buffers) - 1
        return self._tensor(name, shape, kind, buffer, scales, zeros, axis)[0]

    def _tensor(self, name, shape, kind, buffer, scales, zero_points, axis=0):
        tensor = schema.TensorT()
        unique, count = name, 0
        while unique in self.names:
            count += 1
            unique = f"{name}_{count}"
        self.names.add(unique)
        tensor.name, tensor.shape, tensor.type, tensor.buffer = unique, list(shape), kind, buffer
        if scales is not None:
            q = schema.QuantizationParametersT()
            q.scale = np.asarray(scales, np.float32)
            q.zeroPoint = np.asarray(zero_points, np.int64)
            q.quantizedDimension = axis
            tensor.quantization = q
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1, unique

    def operator(self, name, inputs, output, version, since, options=None, **fields):
        """Add an operator.

        Args:
            name: of the `BuiltinOperator`.
            inputs: `Tensor`s or indices of constants; -1 for an optional input left out.
            output: `Tensor`, or a list of them.
            version: lowest operator version that has what is used.
            since: TensorFlow release that brought this version, as a tuple.
            options: name of the options table, with `fields` set.
        """
        code = getattr(BuiltinOperator, name)
        op = schema.OperatorT()
        op.opcodeIndex = self.codes.setdefault((code, version), len(self.codes))
        op.inputs = [x.index if isinstance(x, Tensor) else x for x in inputs]
        op.outputs = [x.index for x in (output if isinstance(output, list) else [output])]
        if options is not None:
            op.builtinOptionsType = getattr(BuiltinOptions, options)
            op.builtinOptions = getattr(schema, options + "T")()
            for field, value in fields.items():
                setattr(op.builtinOptions, field, value)
        self.graph.operators.append(op)
        self.min_version = max(self.min_version, since)

    def loop(self, first, last, test, body):
        """Add a WHILE.

        Args:
            first, last: lists of `Tensor`s or constants that enter, and that leave.
            test, body: `(writer, inputs, outputs)` of the subgraphs, the latter two lists of `Tensor`s.
        """
        parts = {"condSubgraphIndex": test, "bodySubgraphIndex": body}
        self.operator("WHILE", first, last, 1, (1, 15, 0), "WhileOptions", **dict.fromkeys(parts, 0))
        self.inner.append((self.graph.operators[-1], parts))

    def call_once(self, part):
        """Add a CALL_ONCE of a subgraph, `(writer, [], [])`."""
        self.operator("CALL_ONCE", [], [], 1, (2, 5, 0), "CallOnceOptions", initSubgraphIndex=0)
        self.inner.append((self.graph.operators[-1], {"initSubgraphIndex": part}))

    def inner_layers(self):
        """`layers` of the subgraphs that are run inside of this one, by their places in the file, once that is written."""
        found = {}
        for operator, parts in self.inner:
            for field, (writer, _, _) in parts.items():
                found |= {getattr(operator.builtinOptions, field): writer.layers, **writer.inner_layers()}
        return found

    def finish(self, inputs, outputs, description):
        """The file.

        Args:
            inputs, outputs: dicts from signature names to `Tensor`s.
            description: text kept in the file.

        Returns:
            bytes.
        """
        return finish({SIGNATURE: (self, inputs, outputs)}, description)

    def close(self, inputs, outputs):
        """Leave out what no output needs, and note the subgraph's ends.

        Args:
            inputs, outputs: as of `finish`.

        Returns:
            They, as dicts from names to indices of tensors.
        """
        self.skip_reshapes()
        self.drop_unread_operators(outputs)
        inputs, outputs = ({name: t.index for name, t in tensors.items()} for tensors in (inputs, outputs))
        place = self._drop_unread_tensors({*inputs.values(), *outputs.values()})
        inputs, outputs = ({name: place[index] for name, index in tensors.items()} for tensors in (inputs, outputs))
        self.graph.inputs, self.graph.outputs = list(inputs.values()), list(outputs.values())
        return inputs, outputs

    def skip_reshapes(self):
        """Let a RESHAPE of what another one made read what that one reads, and others what two that cancel have read.

        Each copies its tensor. Those that nothing reads any more fall away.
        """
        reshapes = {index for (code, _), index in self.codes.items() if code == BuiltinOperator.RESHAPE}
        sources, same = {}, {}
        for operator in self.graph.operators:
            operator.inputs = [same.get(index, index) for index in operator.inputs]
            if operator.opcodeIndex in reshapes:
                source, made = operator.inputs[0], operator.outputs[0]
                operator.inputs[0] = sources[made] = source = sources.get(source, source)
                if self._alike(source, made):
                    same[made] = source

    def _alike(self, *indices):
        """Whether tensors have one shape, at every size that the runtime may give them, and one grid."""
        first, second = (self.graph.tensors[index] for index in indices)
        if _grid(first) != _grid(second):
            return False
        opened = [t.shapeSignature is not None and -1 in list(t.shapeSignature)[1:] for t in (first, second)]
        return list(first.shape) == list(second.shape) and not any(opened)

    def drop_unread_operators(self, outputs):
        """Leave out operators whose results nothing reads; `outputs` as of `finish`."""
        kept, read = [], {tensor.index for tensor in outputs.values()}
        for operator in reversed(self.graph.operators):
            # Without results, it keeps something for the next call.
            if not operator.outputs or read.intersection(operator.outputs):
                kept.append(operator)
                read.update(operator.inputs)
        self.graph.operators = kept[::-1]

    def _drop_unread_tensors(self, ends):
        """Leave out what no operator uses; returns the new index of each tensor that stays."""
        used = set(ends).union(*((*op.inputs, *op.outputs) for op in self.graph.operators))
        grouped = [t.quantization.details for t in map(self.graph.tensors.__getitem__, used - {-1}) if _has_groups(t)]
        used.update(details.scales for details in grouped)
        kept = [index for index in range(len(self.graph.tensors)) if index in used]
        place = {index: new for new, index in enumerate(kept)} | {-1: -1}
        self.graph.tensors = [self.graph.tensors[index] for index in kept]
        for operator in self.graph.operators:
            operator.inputs = [place[index] for index in operator.inputs]
            operator.outputs = [place[index] for index in operator.outputs]
        for details in grouped:
            details.scales = place[details.scales]
        buffers = [0, *sorted({tensor.buffer for tensor in self.graph.tensors} - {0})]
        position = {index: new for new, index in enumerate(buffers)}
        for tensor in self.graph.tensors:
            tensor.buffer = position[tensor.buffer]
        self.buffers = [self.buffers[index] for index in buffers]
        return place


def _grid(tensor):
    q = tensor.quantization
    return None if q is None or q.scale is None else (q.scale.tolist(), q.zeroPoint.tolist())


def _has_groups(tensor):
    return tensor.quantization is not None and tensor.quantization.details is not None
