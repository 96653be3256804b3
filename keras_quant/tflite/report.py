"""What a file holds and where its operators run."""

import dataclasses
import pathlib
import zlib

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_quant.tflite.cost import constant_bytes, operator_macs
from keras_quant.tflite.flatbuffer import one_signature, operator_name, packed, signature_names, text
from keras_quant.tflite.reasons import explain, is_float
from keras_quant.tflite.runtime import Runtime

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
    macs: multiply-accumulates of one run at the file's batch size.
    """

    name: str
    layer: str
    on_xnnpack: bool
    is_float: bool = False
    reason: str = ""
    remedy: str = ""
    bytes: int = 0
    macs: int = 0


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
    operators: `OperatorInfo`s in order of execution.
    partitions: number of pieces that XNNPACK runs.
    tensors: `TensorInfo`s, with every tensor's quantization.
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


def describe(path, content, model, layers=None, of_integers=()):
    """Describe a file by loading it.

    Args:
        path: of the file.
        content: its bytes.
        model: its `schema.ModelT`.
        layers: for each signature, a dict from the name of each operator's output to the path of its Keras layer; by default
            that name, which `export` derives from the path.
        of_integers: paths of the layers that compute on integers.

    Returns:
        `ExportReport`.
    """
    names, layers = signature_names(model), layers or {}
    if len(names) < 2:
        return _described(path, content, model, next(iter(layers.values()), None), of_integers)
    reports = {}
    for name in names:
        alone = one_signature(model, name)
        reports[name] = _described(path, packed(alone), alone, layers.get(name), of_integers)
    Runtime(content, path)
    return dataclasses.replace(reports[names[0]], bytes=len(content), signatures=reports)


def _described(path, content, model, layers, of_integers):
    graph = model.subgraphs[0]
    runtime = Runtime(content, path)
    partitions = runtime.partitions()
    taken = runtime.unused().union(*partitions)
    tensors = tuple(_tensor(t, model) for t in graph.tensors)
    held, names = constant_bytes(model), [_name(operator, model) for operator in graph.operators]
    outputs = [_named_by(operator, graph) for operator in graph.operators]
    paths, operators = [(layers or {}).get(output, output) for output in outputs], []
    for index, (operator, name, layer) in enumerate(zip(graph.operators, names, paths)):
        dtypes = _activation_dtypes(operator, tensors)
        shapes = [tensors[i].shape for i in operator.inputs if i >= 0]
        integer, on_xnnpack, why = not is_float(dtypes), index in taken, ("", "")
        if not (integer and on_xnnpack) and shapes:
            beside = [other for other, path in zip(names, paths) if path == layer]
            why = explain(name, dtypes, shapes[0], beside, layer in of_integers)
        cost = held[index], operator_macs(name, shapes, tensors[operator.outputs[0]].shape) if len(operator.outputs) else 0
        operators.append(OperatorInfo(name, layer, on_xnnpack, not integer, *why, *cost))
    return ExportReport(str(path), len(content), tuple(operators), len(partitions), tensors)


def _named_by(operator, graph):
    """The name of the tensor that an operator makes, or else keeps."""
    tensors = [*operator.outputs, *operator.inputs]
    return text(graph.tensors[tensors[0]].name) if tensors else ""


def _name(operator, model):
    code = model.operatorCodes[operator.opcodeIndex]
    return operator_name(max(code.builtinCode, code.deprecatedBuiltinCode))


def _activation_dtypes(operator, tensors):
    """Dtypes of what an operator computes from and to, constants aside."""
    indices = [int(i) for i in (*operator.inputs, *operator.outputs) if i >= 0]
    return {tensors[i].dtype for i in indices if not tensors[i].constant}


def _tensor(tensor, model):
    q = tensor.quantization
    scales = () if q is None or q.scale is None else tuple(np.asarray(q.scale, float).tolist())
    if q is not None and q.detailsType == schema.QuantizationDetails.BlockwiseQuantization:
        stored = model.buffers[model.subgraphs[0].tensors[q.details.scales].buffer].data
        scales = tuple(np.frombuffer(bytes(stored), np.float16).astype(float).tolist())
    zero_point = int(q.zeroPoint[0]) if scales and q.zeroPoint is not None else 0
    constant = model.buffers[tensor.buffer].data is not None
    return TensorInfo(text(tensor.name), tuple(map(int, tensor.shape)), _TYPES[tensor.type], scales, zero_point, constant)
