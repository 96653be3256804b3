"""Does the file compute what Keras computes? The runtime answers."""

import contextlib
import dataclasses

import keras
import numpy as np
from keras import ops, tree

from keras_quant import backend
from keras_quant import policy as policies
from keras_quant.data import input_batches, number_of_batches
from keras_quant.errors import CalibrationError, ModelFileError, QuantizationError
from keras_quant.graph import settle_halves, trace
from keras_quant.graph.graph import in_integers
from keras_quant.graph.kinds import is_real
from keras_quant.graph.operations import only_moves
from keras_quant.graph.picks import check_inputs
from keras_quant.graph.resized import Sizes
from keras_quant.graph.sizes import is_open_in, sizes_of
from keras_quant.integer import Quantized
from keras_quant.layers import QuantLayer, annotate, annotation
from keras_quant.layers.dynamic import DynamicWeighted
from keras_quant.policy import Policy
from keras_quant.settings import FLOAT
from keras_quant.tflite.aarch64 import Emulator
from keras_quant.tflite.file import read_model
from keras_quant.tflite.flatbuffer import one_signature, packed, repack, signature_names, text
from keras_quant.tflite.loop_parity import inner_comparisons
from keras_quant.tflite.lower import lower, without_rule
from keras_quant.tflite.runtime import Runtime, quantize_array
from keras_quant.tflite.streaming import STATEFUL
from keras_quant.tflite.streaming_parity import is_streaming, verify_stateful, verify_streaming


@dataclasses.dataclass
class TensorParity:
    """Attributes:
    name: of the output, or of the tensor inside.
    elements: how many were compared.
    mismatches: how many differ.
    largest: largest difference, in steps of the grid (LSB).
    tolerance: `None` for integers. Real numbers differ where they are further apart than this share of the largest.
    error: largest difference of real numbers, as a share of the largest of them.
    """

    name: str
    elements: int = 0
    mismatches: int = 0
    largest: int = 0
    tolerance: float | None = None
    error: float = 0.0

    def add(self, ours, theirs):
        if self.tolerance is not None:
            self._add_real(np.float64(ours), np.float64(theirs))
            return
        difference = np.abs(ours.astype(np.int64) - theirs.astype(np.int64))
        self.elements += difference.size
        self.mismatches += int(np.count_nonzero(difference))
        self.largest = max(self.largest, int(difference.max(initial=0)))

    def _add_real(self, ours, theirs):
        error = np.abs(ours - theirs) / max(np.abs(theirs).max(initial=0), 1e-30)
        self.elements += error.size
        self.mismatches += int(np.count_nonzero(~(error <= self.tolerance)))
        self.error = max(self.error, float(error.max(initial=0)))


@dataclasses.dataclass
class ParityReport:
    """Attributes:
    path: of the file.
    samples: how many inputs were run.
    outputs: `TensorParity` of each output.
    intermediates: `TensorParity` of each tensor inside, if asked for.
    """

    path: str
    samples: int
    outputs: list
    intermediates: list

    @property
    def elements(self):
        return sum(t.elements for t in self.outputs)

    @property
    def mismatches(self):
        return sum(t.mismatches for t in self.outputs)

    @property
    def largest(self):
        return max((t.largest for t in self.outputs), default=0)

    @property
    def equal(self):
        """Whether nothing differs, neither outputs nor, if compared, tensors inside."""
        return not any(t.mismatches for t in (*self.outputs, *self.intermediates))

    def __str__(self):
        text = f"{self.path}: {self.mismatches:,} of {self.elements:,} outputs differ"
        if self.mismatches:
            steps = [f"{self.largest} LSB"] if self.largest else []
            shares = [f"{t.error:.2g} of the largest" for t in self.outputs if t.tolerance is not None and t.mismatches]
            text += f", by up to {' and '.join([*steps, *shares[:1]])}"
        if self.intermediates:
            differ = sum(t.mismatches > 0 for t in self.intermediates)
            text += f"; {differ} of {len(self.intermediates)} tensors inside differ"
        return f"{text} ({self.samples:,} samples)"


def verify_tflite(qmodel, path, data, steps=None, intermediates=False, verbose="auto", target="host"):
    """Compare a file with the model it was exported from; see `keras_quant.verify`."""
    content, model = read_model(path)
    options = steps, intermediates, verbose, target
    names = signature_names(model)
    own = qmodel.model if isinstance(qmodel, Sizes) else qmodel
    if text(model.description or b"") == STATEFUL:
        at_size, graph, data, _ = _at_size_of_file(qmodel, model, data)
        return verify_stateful(at_size, graph, path, content, data, options)
    if is_streaming(own, model):
        return verify_streaming(own, path, content, model, data, options)
    if len(names) < 2:
        return _verified(qmodel, path, content, model, data, *options)
    if not isinstance(data, dict) or set(data) != set(names):
        received = sorted(data) if isinstance(data, dict) else type(data).__name__
        raise CalibrationError(
            f"'{path}' has the signatures {names}. Pass a dict with the data of each by its name, {{'{names[0]}': x, ...}}. "
            f"Received: {received}"
        )
    reports = {}
    for name in names:
        alone = one_signature(model, name)
        # The emulator knows no signatures.
        signature = name if target == "host" else None
        own = content if signature else packed(one_signature(model, name))
        reports[name] = _verified(qmodel, path, own, alone, data[name], *options, signature)
    named = lambda kind: [
        dataclasses.replace(t, name=f"{name}/{t.name}") for name, report in reports.items() for t in getattr(report, kind)
    ]
    return ParityReport(str(path), sum(r.samples for r in reports.values()), named("outputs"), named("intermediates"))


def _verified(qmodel, path, content, model, data, steps, intermediates, verbose, target, signature=None):
    """`verify_tflite` of one signature.

    Args:
        content: bytes of the file.
        model: `schema.ModelT` of the signature alone.
        signature: its name, of a file that has several.
    """
    qmodel, graph, data, resizable = _at_size_of_file(qmodel, model, data)
    graph = graph.with_calls_apart()
    converted = bool(without_rule(graph))
    if intermediates and converted:
        raise ModelFileError(
            f"'{path}' was made by TFLiteConverter, whose tensors inside are not the model's. Leave out `intermediates`."
        )
    inputs, outputs = _signature(qmodel, graph, path, model)
    edges = [] if converted else leaving_float(graph)
    rounded = [] if converted else read_dynamically(graph)
    names = _tensors_inside(qmodel, model, resizable) if intermediates or edges or rounded else {}
    given = {path: names[path] for path in (*edges, *rounded) if path in names}
    inside = {path: name for path, name in names.items() if path not in edges} if intermediates else {}
    if names:
        content, signature = repack(model, extra_outputs=sorted({*inside.values(), *given.values()})), None
    progress = keras.utils.Progbar(number_of_batches(data, graph.inputs, steps), unit_name="batch") if verbose else None
    with _runtimes(path, target) as load:
        loops = inner_comparisons(graph, load) if intermediates else []
        side = keras_side(qmodel, graph, list(inside), list(given), [loop.node for loop in loops])
        compare = Comparison(outputs, inside, given, side, load(content, signature), loops)
        compare.tolerate(graph)
        for arrays in input_batches(data, graph.inputs, steps):
            check_inputs(graph, arrays)
            compare.add(dict(zip(inputs, arrays)))
            if progress is not None:
                progress.add(1)
    return ParityReport(str(path), compare.samples, [r for _, r in compare.outputs], compare.reports_inside(graph))


@contextlib.contextmanager
def _runtimes(path, target):
    """A function (bytes of a file, signature or `None`) → its `Runtime` on a target; `path` is for messages."""
    if target == "host":
        yield lambda content, signature=None: Runtime(content, path, signature=signature)
    elif isinstance(target, Emulator):
        yield lambda content, signature=None: target.runtime(content, path)
    elif target == "aarch64":
        with Emulator() as emulator:
            yield lambda content, signature=None: emulator.runtime(content, path)
    else:
        raise QuantizationError(f"A file runs on 'host', on 'aarch64' or on an `Emulator`. Received: target={target!r}")


class Comparison:
    """Runs both sides batch by batch and counts.

    Args:
        outputs: dict from output names to tensor names in the file.
        inside: dict from layer paths to tensor names in the file.
        given: likewise, of what follows float layers or is quantized by the kernel that reads it, which the Keras side gets
            from the runtime.
        compute: the Keras side: inputs, values given → (real outputs, values inside), and what the steps of loops take.
        runtime: `Runtime`.
        loops: list of `LoopComparison`s of the graph's loops.
    """

    def __init__(self, outputs, inside, given, compute, runtime, loops=()):
        self.outputs = [(tensor, TensorParity(name)) for name, tensor in outputs.items()]  # one may have two names
        self.inside = {path: TensorParity(path) for path in inside}
        self.tensors_inside, self.given, self.compute, self.runtime = inside, given, compute, runtime
        self.loops, self.samples = loops, 0

    def reports_inside(self, graph):
        """`TensorParity` of each tensor inside, those of a loop's steps before its own."""
        found, own = [], dict(self.inside)
        for node in graph.nodes:
            found += [report for loop in self.loops if loop.node is node for report in loop.reports]
            found += [own.pop(path) for path in node.named_outputs() if path in own]
        return found

    def tolerate(self, graph):
        """Set the tolerance of the tensors that hold real numbers."""
        tolerance = max((_tolerance(node) for node in graph.nodes), default=0.0)
        real = {d["name"] for d in self.runtime.outputs if d["dtype"] == np.float32}
        for name, report in self.outputs:
            report.tolerance = tolerance if name in real else None
        for path, report in self.inside.items():
            report.tolerance = tolerance if self.tensors_inside[path] in real else None

    def add(self, arrays):
        """Compare one batch, given as a dict from the file's input tensors to real values."""
        self.samples += len(next(iter(arrays.values())))
        fed = [quantize_array(arrays[detail["name"]], detail) for detail in self.runtime.inputs]
        theirs = dict(zip((d["name"] for d in self.runtime.outputs), self.runtime.run(fed)))
        grids = {d["name"]: d for d in self.runtime.outputs}
        given = {path: ops.convert_to_tensor(np.float32(theirs[name])) for path, name in self.given.items()}
        ours, ours_inside, *steps = self.compute(given, *map(ops.convert_to_tensor, arrays.values()))
        for (tensor, report), values in zip(self.outputs, ours):
            report.add(quantize_array(np.asarray(values), grids[tensor]), theirs[tensor])
        for (path, report), integers in zip(self.inside.items(), ours_inside):
            report.add(np.asarray(integers), theirs[self.tensors_inside[path]])
        for loop, taken in zip(self.loops, *steps):
            loop.add(taken)


# How far real numbers may be apart, as a share of the largest: sums are added in another order; half arithmetic has
# 11 bits; a value on the border of two steps of 8 bits falls to either.
TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "dynamic": 1e-2}


def _tolerance(node):
    operation = node.operation
    if isinstance(operation, QuantLayer) or _is_exact(node):
        return 0.0
    policy = getattr(operation, "policy", None)
    own = policy.activations if isinstance(policy, Policy) else getattr(operation, "compute_dtype", "float32")
    return TOLERANCES.get(own, TOLERANCES["float32"])


def leaving_float(graph):
    """Paths of the nodes that quantize what was computed in float; where halves are allowed, so may a file's input be."""
    halves = any(getattr(n.operation, "compute_dtype", "") == "float16" for n in graph.nodes)
    exact, found = set() if halves else set(graph.inputs), []
    for node in graph.nodes:
        is_quantized, real = isinstance(node.operation, QuantLayer), [value for value in node.inputs if is_real(value)]
        if is_quantized and real and all(value.note is None and value not in exact for value in node.inputs):
            found.append(node.path)
        if is_quantized or (_is_exact(node) and exact.issuperset(real)):
            exact.update(tree.flatten(node.outputs))
    return found


def read_dynamically(graph):
    """Paths of the layers whose real outputs a kernel quantizes as it runs.

    A value on the border of two steps falls to either, which is more than what sums in another order make of it.
    """
    read = {node.inputs[0] for node in graph.nodes if isinstance(node.operation, DynamicWeighted)}
    in_float = [node for node in graph.nodes if not isinstance(node.operation, QuantLayer)]
    return [node.path for node in in_float if any(value in read for value in tree.flatten(node.outputs))]


def _is_exact(node):
    """Whether no order of sums changes what a node makes of exact numbers: single sums, integers, what only moves."""
    real = [value for value in tree.flatten(node.outputs) if is_real(value)]
    if not real or getattr(node.operation, "is_exact", False):
        return True
    dtypes = {getattr(node.operation, "compute_dtype", FLOAT), *(value.dtype for value in real)}
    return dtypes == {FLOAT} and only_moves(node, policies.get("int8"))


def keras_side(qmodel, graph, paths, given, loops=()):
    """Compiled: inputs → outputs as `predict` gives them, what the layers in `paths` make, and, where there are `loops`,
    what the steps of these nodes take.

    What the layers in `given` make is handed in: float arithmetic is not exact, all behind it that rounds is. Integers
    stand for the layer's own; real numbers are what the layers read that quantize them.
    """
    wanted = {path: value for node in graph.nodes for path, value in node.named_outputs().items() if path in paths}
    makers = {tree.flatten(node.outputs)[0]: node.path for node in graph.nodes}

    def step(handed, *inputs):
        if not paths and not given:
            structured = tree.pack_sequence_as(graph.input_structure, list(inputs))
            return tree.flatten(qmodel(structured, training=False)), []
        taken = {}

        def compute(node, args, kwargs):
            if node in loops:
                taken[node] = node.operation.integer_steps(*args)
            return _computed(node, args, kwargs, handed, makers)

        values = graph.run(inputs, compute)
        outputs = [values[value] for value in tree.flatten(graph.outputs)]
        inside = [_integers(values[wanted[path]]) for path in paths]
        return (outputs, inside, [taken[node] for node in loops]) if loops else (outputs, inside)

    return backend.compiled_for_batches(step)


def _computed(node, args, kwargs, given, makers):
    layer = node.operation
    if isinstance(layer, DynamicWeighted):
        return in_integers(node, (given.get(makers.get(node.inputs[0]), args[0]),), kwargs)
    if node.path in given and isinstance(layer, QuantLayer):
        params = layer.output_quantizer.params()
        centred = given[node.path] - params.stored.zero_point
        return annotate(centred * params.scale, layer.output_quantizer, Quantized(centred, params))
    return in_integers(node, args, kwargs)


def _integers(x):
    """The integers of a tensor as the file holds them, or its real numbers."""
    note = annotation(x)
    if note is None:
        return ops.cast(x, "float32")
    return ops.cast(note.quantized.integers + note.quantized.params.stored.zero_point, "int32")


def _signature(qmodel, graph, path, model):
    """Tensor names in the file of the model's inputs, in order, and of its outputs by name."""
    signatures = model.signatureDefs or []
    if not signatures:
        raise ModelFileError(f"'{path}' has no signature. Pass a file written by `keras_quant.export`.")
    tensors = model.subgraphs[0].tensors
    inputs, outputs = (
        {text(entry.name): text(tensors[entry.tensorIndex].name) for entry in entries}
        for entries in (signatures[0].inputs, signatures[0].outputs)
    )
    wanted = [value.name for value in graph.inputs]
    if set(inputs) != set(wanted) or set(outputs) != set(graph.output_names):
        raise ModelFileError(
            f"'{path}' was exported from another model than '{qmodel.name}': it has inputs {sorted(inputs)} and outputs "
            f"{sorted(outputs)}, the model {sorted(wanted)} and {sorted(graph.output_names)}. Export this model, or pass "
            "the other."
        )
    return [inputs[name] for name in wanted], {name: outputs[name] for name in graph.output_names}


def _at_size_of_file(qmodel, model, data):
    """The model for the size that a file was exported for, or that of the data where the file leaves it open.

    Returns:
        The model, its ranges as `export` leaves them; its `Graph`; the data, none of it used up; whether a size is open.
    """
    entries = model.signatureDefs[0].inputs if model.signatureDefs else []
    tensors = {text(entry.name): model.subgraphs[0].tensors[entry.tensorIndex] for entry in entries}
    sizes = {name: tuple(map(int, tensor.shape))[1:] for name, tensor in tensors.items()}
    models = qmodel if isinstance(qmodel, Sizes) else Sizes(qmodel)
    qmodel = models.of_file(sizes)
    # As export does: the model may have been saved before it.
    graph = trace(qmodel, keep_float=True)
    settle_halves(graph)
    signatures = {name: sizes[name] if t.shapeSignature is None else t.shapeSignature[1:] for name, t in tensors.items()}
    known = {name: tuple(None if size == -1 else int(size) for size in shape) for name, shape in signatures.items()}
    if not is_open_in(known.values()):
        return qmodel, graph, data, False
    sizes, data = sizes_of(data, known, qmodel)
    resized = Sizes(qmodel, models.make).of_file(sizes)
    return resized, graph if resized is qmodel else trace(resized, keep_float=True), data, True


def _tensors_inside(qmodel, model, resizable=False):
    """For each layer path the name of the tensor it makes in the file."""
    lowering, graph = lower(qmodel, resizable=resizable)
    entrances = {tensor.name for tensor in lowering.inputs.values()}
    nodes = graph.with_calls_apart().nodes
    made = {path: lowering.tensors[value].name for node in nodes for path, value in node.named_outputs().items()}
    names = {layer: name for layer, name in made.items() if name not in entrances}
    present = {text(tensor.name) for tensor in model.subgraphs[0].tensors}
    # A layer whose output nothing reads, or counts as zero, leaves no tensor behind.
    return {layer: name for layer, name in names.items() if name in present}
