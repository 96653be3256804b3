"""The flatbuffer of a file: subgraphs under their signatures put together, taken apart and packed."""

import copy

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

SIGNATURE = "serving_default"
# The format wants constants aligned to 16 bytes; kernels load them with vector instructions.
ALIGNMENT = 16
_OPERATORS = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}


def finish(parts, description):
    """The file of one subgraph or several, each under its signature; constants that several have are there once.

    Args:
        parts: dict from names of signatures to `(writer, inputs, outputs)`, as `Writer.finish` takes them.
        description: text kept in the file.

    Returns:
        bytes.
    """
    model = schema.ModelT()
    model.version, model.description = 3, description
    model.subgraphs, model.buffers, model.signatureDefs = [], [schema.BufferT()], []
    codes, min_version, metadata, inner = {}, (1, 14, 0), {}, []
    for place, (name, (writer, inputs, outputs)) in enumerate(parts.items()):
        ends = _add_subgraph(model, codes, name if len(parts) > 1 else "main", writer, inputs, outputs)
        model.signatureDefs.append(_signature(*ends, name, place))
        min_version, metadata = max(min_version, writer.min_version), {**metadata, **writer.metadata}
        inner += writer.inner
    while inner:
        operator, fields = inner.pop(0)
        for field, (writer, inputs, outputs) in fields.items():
            setattr(operator.builtinOptions, field, len(model.subgraphs))
            by_place = [dict(enumerate(ends)) for ends in (inputs, outputs)]
            _add_subgraph(model, codes, f"inner_{len(model.subgraphs)}", writer, *by_place)
            min_version = max(min_version, writer.min_version)
            inner += writer.inner
    model.operatorCodes = [_operator_code(*key) for key in codes]
    _add_metadata(model, {"min_runtime_version": ".".join(map(str, min_version)).encode().ljust(16, b"\0"), **metadata})
    return _pack(model)


def _add_subgraph(model, codes, name, writer, inputs, outputs):
    """Add what a `Writer` collected; returns its ends, see `Writer.close`."""
    ends, graph = writer.close(inputs, outputs), writer.graph
    graph.name = name.encode()
    kept = [codes.setdefault(key, len(codes)) for key in writer.codes]
    for operator in graph.operators:
        operator.opcodeIndex = kept[operator.opcodeIndex]
    _move_buffers(graph, writer.buffers, model.buffers)
    model.subgraphs.append(graph)
    return ends


def _move_buffers(graph, own, shared):
    """Add a subgraph's buffers to those of the file, but for those that are there from a subgraph before it."""
    known = {buffer.data.tobytes(): index for index, buffer in enumerate(shared) if buffer.data is not None}
    place = {0: 0}
    for index, buffer in enumerate(own[1:], 1):
        place[index] = known.get(buffer.data.tobytes(), len(shared))
        if place[index] == len(shared):
            shared.append(buffer)
    for tensor in graph.tensors:
        tensor.buffer = place[tensor.buffer]


def _add_metadata(model, metadata):
    model.metadata = []
    for name, value in metadata.items():
        model.buffers.append(AlignedBuffer(np.frombuffer(value, np.uint8)))
        entry = schema.MetadataT()
        entry.name, entry.buffer = name, len(model.buffers) - 1
        model.metadata.append(entry)


def parse(content):
    """The `schema.ModelT` of a file's bytes."""
    return schema.ModelT.InitFromPackedBuf(content)


def repack(model, extra_outputs=()):
    """The bytes of a parsed model, with more of its tensors as outputs.

    Args:
        model: `schema.ModelT`; it is changed.
        extra_outputs: names of tensors.
    """
    graph = model.subgraphs[0]
    index = {tensor.name.decode(): i for i, tensor in enumerate(graph.tensors)}
    held = set(map(int, graph.outputs)) | set(map(int, graph.inputs))
    extra = [index[name] for name in extra_outputs if index[name] not in held]
    graph.outputs = [*map(int, graph.outputs), *extra]
    model.signatureDefs = []
    return packed(model)


def one_signature(model, name):
    """The parsed model of one signature of a file alone, with the operators and tensors that it has there.

    Args:
        model: `schema.ModelT`; it stays as it is.
        name: of the signature.

    Returns:
        `schema.ModelT`.
    """
    (chosen,) = [s for s in model.signatureDefs if text(s.signatureKey) == name]
    alone, signature = one_subgraph(model, chosen.subgraphIndex), copy.copy(chosen)
    if len(model.subgraphs) == len(model.signatureDefs):
        del alone.subgraphs[1:]
    alone.signatureDefs, signature.subgraphIndex = [signature], 0
    return alone


def one_subgraph(model, place):
    """The parsed model in which another subgraph is the first; args and return value as of `one_signature`.

    Loops name the subgraphs inside by their places, which stay.
    """
    alone, count = copy.copy(model), len(model.subgraphs)
    alone.subgraphs = [model.subgraphs[i] for i in (place, *(0 if i == place else i for i in range(1, count)))]
    alone.signatureDefs = []
    return alone


def packed(model):
    """The bytes of a parsed model."""
    model.buffers = [b if b.data is None else AlignedBuffer(b.data) for b in model.buffers]
    return _pack(model)


def signature_names(model):
    """Names of the signatures of a parsed model, in order."""
    return [text(signature.signatureKey) for signature in model.signatureDefs or ()]


def operator_name(code):
    """Name of a `BuiltinOperator`."""
    return _OPERATORS[code]


def text(name):
    """A name out of a file as a string."""
    return name.decode() if isinstance(name, bytes) else name


def name_signature(model, inputs, outputs):
    """The bytes of a parsed model under the signature `serving_default`, its inputs and outputs renamed.

    Args:
        model: `schema.ModelT` with one signature; it is changed.
        inputs, outputs: dicts from the names in the signature to those wanted, in the order wanted.
    """
    (signature,) = model.signatureDefs
    named = []
    for entries, names in ((signature.inputs, inputs), (signature.outputs, outputs)):
        index = {entry.name.decode(): int(entry.tensorIndex) for entry in entries}
        named.append({wanted: index[name] for name, wanted in names.items()})
    model.signatureDefs = [_signature(*named)]
    return packed(model)


def _pack(model):
    builder = _SharingBuilder(sum(b.data.nbytes for b in model.buffers if b.data is not None) + (1 << 16))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


class _SharingBuilder(flatbuffers.Builder):
    """Writes each vector of numbers once, however many tables hold it: the zero points of all channels, shapes.

    In a small model they are a tenth of the file and more.
    """

    def __init__(self, size):
        super().__init__(size)
        self._known, self._begun = {}, None

    def StartVector(self, elem_size, count, alignment):  # noqa: N802  the library's own name
        # Constants are seldom equal, and large.
        self._begun = None if alignment == ALIGNMENT else (self.head, elem_size, count, alignment)
        return super().StartVector(elem_size, count, alignment)

    def PrependUOffsetTRelative(self, offset):  # noqa: N802
        # Offsets count from where they stand.
        self._begun = None
        return super().PrependUOffsetTRelative(offset)

    def EndVector(self, *args):  # noqa: N802
        vector, begun, self._begun = super().EndVector(*args), self._begun, None
        if begun is None:
            return vector
        before, *sizes = begun
        first = self.head + 4  # the length lies before
        key = *sizes, bytes(self.Bytes[first : first + sizes[0] * sizes[1]])
        if key in self._known:
            self.head = before
        return self._known.setdefault(key, vector)


class AlignedBuffer(schema.BufferT):
    """The bytes of an array, where kernels may load them with vector instructions."""

    def __init__(self, array):
        super().__init__()
        self.data = np.frombuffer(array.tobytes(), np.uint8)

    def Pack(self, builder):  # noqa: N802  the schema's own name
        raw = self.data.tobytes()
        builder.StartVector(1, len(raw), ALIGNMENT)
        builder.head -= len(raw)
        builder.Bytes[builder.head : builder.head + len(raw)] = raw
        data = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, data)
        return schema.BufferEnd(builder)


def _operator_code(code, version):
    entry = schema.OperatorCodeT()
    entry.builtinCode, entry.version = code, version
    # Readers from before the enumeration passed 127 look here.
    entry.deprecatedBuiltinCode = min(code, schema.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES)
    return entry


def _signature(inputs, outputs, name=SIGNATURE, subgraph=0):
    def maps(tensors):
        made = []
        for name, tensor in tensors.items():
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = name, tensor
            made.append(entry)
        return made

    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = name, subgraph
    signature.inputs, signature.outputs = maps(inputs), maps(outputs)
    return signature
