"""What a file holds and where its operators run."""

import dataclasses
import pathlib
import zlib

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_quant.graph.loops import inner_path
from keras_quant.tflite.cost import constant_bytes, operator_macs
from keras_quant.tflite.flatbuffer import one_signature, one_subgraph, packed, signature_names, text
from keras_quant.tflite.reasons import OF_LOOP, explain, is_float
from keras_quant.tflite.runtime import Runtime
from keras_quant.tflite.subgraphs import located_operators, named_by

try:
    import zstandard
except ImportError:
    zstandard = None

_TYPES = {v: k.lower() for k, v in vars(schema.TensorType).items() if isinstance(v, int)}


@dataclasses.dataclass(frozen=True)
class OperatorInfo:
    """Attributes:
    name: of the operator, "CONV_2D".
    layer: path of the Keras layer it comes from.
    on_xnnpack: whether XNNPACK takes it.
    is_float: whether it computes in float.
    reason: why it is off XNNPACK or computes in float; empty otherwise.
    remedy: the change to the model that would mend it, if one is known.
    bytes: of the constants that it is the first to read.
    macs: multiply-accumulates of one run of the file at its batch size.
    times: how often it is run then: more than once inside of a loop.
    """

    name: str
    layer: str
    on_xnnpack: bool
    is_float: bool = False
    reason: str = ""
    remedy: str = ""
    bytes: int = 0
    macs: int = 0
    times: int = 1


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """Attributes:
    name, shape, dtype: of the tensor; shape with the exported batch.
    scale: tuple of floats, one a channel for weights; empty where there is none.
    zero_point: integer.
    constant: whether its values are in the file.
    """

    name: str
    shape: tuple
    dtype: str
    scale: tuple
    zero_point: int
    constant: bool


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """Attributes:
    path: of the file.
    bytes: its size.
    operators: `OperatorInfo`s in order of execution; those inside of a loop stand before its WHILE.
    partitions: number of pieces that XNNPACK runs.
    tensors: `TensorInfo`s, with every tensor's quantization; behind the others those inside of loops.
    signatures: dict from names to the `ExportReport` of each, of a file that has several; operators, partitions and tensors
        are those of the first.
    """

    path: str
    bytes: int
    operators: tuple
    partitions: int
    tensors: tuple
    signatures: dict = dataclasses.field(default_factory=dict)

    def compressed(self):
        """Bytes of the file after general-purpose compression: a dict with "zlib" and, where it is installed, "zstd".

        At the levels 9 and 19. A kernel on a codebook takes few bits a weight then; in the file itself it has a byte each.
        """
        content = pathlib.Path(self.path).read_bytes()
        sizes = {"zlib": len(zlib.compress(content, 9))}
        if zstandard is not None:
            sizes["zstd"] = len(zstandard.ZstdCompressor(level=19).compress(content))
        return sizes

    @property
    def off_xnnpack(self):
        """The operators that built-in kernels run."""
        return tuple(op for op in self.operators if not op.on_xnnpack)

    @property
    def float_operators(self):
        """The operators that compute in float."""
        return tuple(op for op in self.operators if op.is_float)

    def __str__(self):
        head = f"{self.path}: {self.bytes:,} bytes, "
        if self.signatures:
            lines = [f"  {name}: {report._runs()}" for name, report in self.signatures.items()]
            return "\n".join([f"{head}{len(self.signatures)} signatures", *lines])
        return head + self._runs()

    def _runs(self):
        """Where the operators run."""
        taken, count = len(self.operators) - len(self.off_xnnpack), self.partitions
        line = f"{taken} of {len(self.operators)} operators on XNNPACK in {count} partition{'s' if count != 1 else ''}"
        off = {}
        for op in self.off_xnnpack:
            off.setdefault((op.layer, op.reason, op.remedy), []).append(op.name)
        notes = [f"  {layer}: {', '.join(names)}: {reason}. {remedy}" for (layer, reason, remedy), names in off.items()]
        return "\n".join([f"{line}; on built-in kernels:" if notes else line, *(note.rstrip() for note in notes)])


def describe(path, content, model, layers=None, of_integers=(), inner=None):
    """Describe a file by loading it.

    Args:
        path: of the file.
        content: its bytes.
        model: its `schema.ModelT`.
        layers: for each signature, a dict from the name of each operator's output to the path of its Keras layer; by default
            that name, which `export` derives from the path.
        of_integers: paths of the layers that compute on integers.
        inner: as `layers`, of the subgraphs inside of loops, by their places.

    Returns:
        `ExportReport`.
    """
    names, layers, inner = signature_names(model), layers or {}, inner or {}
    if len(names) < 2:
        return _described(path, content, model, {**inner, 0: next(iter(layers.values()), {})}, of_integers)
    reports = {}
    for name in names:
        alone = one_signature(model, name)
        reports[name] = _described(path, packed(alone), alone, {**inner, 0: layers.get(name, {})}, of_integers)
    Runtime(content, path)
    return dataclasses.replace(reports[names[0]], bytes=len(content), signatures=reports)


def _described(path, content, model, layers, of_integers):
    """`describe` of one signature; `layers` by the places of subgraphs, of which the signature's is the first."""
    located = list(located_operators(model))
    # That of the signature first, those inside of a loop behind the one that has it.
    places = sorted({one.place: one for one in located}, key=lambda place: place != 0)
    runtimes = {p: Runtime(packed(one_subgraph(model, p)) if p else content, path) for p in places or [0]}
    partitions = {place: runtime.partitions() for place, runtime in runtimes.items()}
    taken = {place: runtime.unused().union(*partitions[place]) for place, runtime in runtimes.items()}
    tensors = {place: tensors_of(model, place) for place in runtimes}
    paths, counted, operators = _paths(located, model, layers), set(), []
    for one in located:
        own, layer = tensors[one.place], paths[one]
        dtypes, shapes = _activation_dtypes(one.operator, own), [own[i].shape for i in one.operator.inputs if i >= 0]
        integer, on_xnnpack, why = one.name == "WHILE" or not is_float(dtypes), one.index in taken[one.place], ("", "")
        if not (integer and on_xnnpack) and shapes:
            beside = [other.name for other in located if paths[other] == layer]
            own_of_loop = one.loop is not None and layer == paths[one.loop]
            why = OF_LOOP if own_of_loop else explain(one.name, dtypes, shapes[0], beside, layer in of_integers)
        made = own[one.operator.outputs[0]].shape if len(one.operator.outputs) else None
        macs = 0 if made is None else one.times * operator_macs(one.name, shapes, made)
        held = constant_bytes(model, one.operator, model.subgraphs[one.place], counted)
        operators.append(OperatorInfo(one.name, layer, on_xnnpack, not integer, *why, held, macs, one.times))
    whole = tuple(tensor for own in tensors.values() for tensor in own)
    return ExportReport(str(path), len(content), tuple(operators), sum(map(len, partitions.values())), whole)


def _paths(located, model, layers):
    """Dict from `Located` operators to the paths of their layers."""
    paths = {}
    for one in reversed(located):  # a loop before what is inside of it
        name = named_by(one, model)
        known = layers.get(one.place, {}).get(name)
        if one.loop is None:
            paths[one] = name if known is None else known
        else:
            loop = paths[one.loop]
            paths[one] = inner_path(loop, name, loop) if known is None else known or loop
    return paths


def _activation_dtypes(operator, tensors):
    """Dtypes of what an operator computes from and to, constants aside."""
    indices = [int(i) for i in (*operator.inputs, *operator.outputs) if i >= 0]
    return {tensors[i].dtype for i in indices if not tensors[i].constant}


def tensors_of(model, place):
    """`TensorInfo`s of a subgraph of a `schema.ModelT`."""
    return tuple(_tensor(tensor, model, place) for tensor in model.subgraphs[place].tensors)


def _tensor(tensor, model, place):
    q = tensor.quantization
    scales = () if q is None or q.scale is None else tuple(np.asarray(q.scale, float).tolist())
    if q is not None and q.detailsType == schema.QuantizationDetails.BlockwiseQuantization:
        stored = model.buffers[model.subgraphs[place].tensors[q.details.scales].buffer].data
        scales = tuple(np.frombuffer(bytes(stored), np.float16).astype(float).tolist())
    zero_point = int(q.zeroPoint[0]) if scales and q.zeroPoint is not None else 0
    constant = model.buffers[tensor.buffer].data is not None
    return TensorInfo(text(tensor.name), tuple(map(int, tensor.shape)), _TYPES[tensor.type], scales, zero_point, constant)
