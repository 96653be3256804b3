"""Does the file compute what Keras computes? The runtime answers."""

import contextlib
import dataclasses

import keras
import numpy as np
from keras import ops, tree

from keras_quant import backend
from keras_quant.data import input_batches, number_of_batches
from keras_quant.errors import ModelFileError, QuantizationError
from keras_quant.graph import trace
from keras_quant.layers import annotation
from keras_quant.tflite.aarch64 import Emulator
from keras_quant.tflite.file import read_model
from keras_quant.tflite.lower import lower, without_rule
from keras_quant.tflite.report import text
from keras_quant.tflite.runtime import Runtime, quantize_array
from keras_quant.tflite.writer import repack


@dataclasses.dataclass
class TensorParity:
    """Attributes:
    name: of the output, or of the tensor inside.
    elements: how many were compared.
    mismatches: how many differ.
    largest: largest difference, in steps of the grid (LSB).
    """

    name: str
    elements: int = 0
    mismatches: int = 0
    largest: int = 0

    def add(self, ours, theirs):
        difference = np.abs(ours.astype(np.int64) - theirs.astype(np.int64))
        self.elements += difference.size
        self.mismatches += int(np.count_nonzero(difference))
        self.largest = max(self.largest, int(difference.max(initial=0)))


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
            text += f", by up to {self.largest} LSB"
        if self.intermediates:
            differ = sum(t.mismatches > 0 for t in self.intermediates)
            text += f"; {differ} of {len(self.intermediates)} tensors inside differ"
        return f"{text} ({self.samples:,} samples)"


def verify_tflite(qmodel, path, data, steps=None, intermediates=False, verbose="auto", target="host"):
    """Compare a file with the model it was exported from; see `keras_quant.verify`."""
    content, model = read_model(path)
    graph = trace(qmodel, keep_float=True)
    if intermediates and without_rule(graph):
        raise ModelFileError(
            f"'{path}' was made by TFLiteConverter, whose tensors inside are not the model's. Leave out `intermediates`."
        )
    inputs, outputs = _signature(qmodel, graph, path, model)
    inside = _tensors_inside(qmodel, model) if intermediates else {}
    if inside:
        content = repack(model, extra_outputs=sorted(set(inside.values())))
    progress = keras.utils.Progbar(number_of_batches(data, steps), unit_name="batch") if verbose else None
    with _runtime(content, path, target) as runtime:
        compare = _Comparison(outputs, inside, _keras_side(qmodel, graph, list(inside)), runtime)
        for arrays in input_batches(data, graph.inputs, steps):
            compare.add(dict(zip(inputs, arrays)))
            if progress is not None:
                progress.add(1)
    return ParityReport(str(path), compare.samples, list(compare.outputs.values()), list(compare.inside.values()))


@contextlib.contextmanager
def _runtime(content, path, target):
    """The `Runtime` of a file's bytes on a target."""
    if target == "host":
        yield Runtime(content, path)
    elif isinstance(target, Emulator):
        yield target.runtime(content, path)
    elif target == "aarch64":
        with Emulator() as emulator:
            yield emulator.runtime(content, path)
    else:
        raise QuantizationError(f"A file runs on 'host', on 'aarch64' or on an `Emulator`. Received: target={target!r}")


class _Comparison:
    """Runs both sides batch by batch and counts.

    Args:
        outputs: dict from output names to tensor names in the file.
        inside: dict from layer paths to tensor names in the file.
        compute: the Keras side: inputs → (real outputs, integers inside).
        runtime: `Runtime`.
    """

    def __init__(self, outputs, inside, compute, runtime):
        self.outputs = {tensor: TensorParity(name) for name, tensor in outputs.items()}
        self.inside = {path: TensorParity(path) for path in inside}
        self.tensors_inside, self.compute, self.runtime = inside, compute, runtime
        self.samples = 0

    def add(self, arrays):
        """Compare one batch, given as a dict from the file's input tensors to real values."""
        self.samples += len(next(iter(arrays.values())))
        fed = [quantize_array(arrays[detail["name"]], detail) for detail in self.runtime.inputs]
        theirs = dict(zip((d["name"] for d in self.runtime.outputs), self.runtime.run(fed)))
        grids = {d["name"]: d for d in self.runtime.outputs}
        ours, ours_inside = self.compute(*map(ops.convert_to_tensor, arrays.values()))
        for (tensor, report), values in zip(self.outputs.items(), ours):
            report.add(quantize_array(np.asarray(values), grids[tensor]), theirs[tensor])
        for (path, report), integers in zip(self.inside.items(), ours_inside):
            report.add(np.asarray(integers), theirs[self.tensors_inside[path]])


def _keras_side(qmodel, graph, paths):
    """Compiled: inputs → outputs as `predict` gives them, and the integers that the layers in `paths` make."""
    wanted = {node.path: node.output for node in graph.nodes}

    def step(*inputs):
        structured = tree.pack_sequence_as(graph.input_structure, list(inputs))
        outputs = tree.flatten(qmodel(structured, training=False))
        if not paths:
            return outputs, []
        values = graph.run(inputs, lambda node, args, kwargs: node.operation.main_call(*args, training=False))
        notes = [annotation(values[wanted[path]]).quantized for path in paths]
        return outputs, [ops.cast(n.integers + n.params.zero_point, "int32") for n in notes]

    return backend.compiled(step)


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
            f"'{path}' was exported from another model than '{qmodel.name}'. "
            f"It has inputs {sorted(inputs)} and outputs {sorted(outputs)}, the model {sorted(wanted)} and "
            f"{sorted(graph.output_names)}."
        )
    return [inputs[name] for name in wanted], {name: outputs[name] for name in graph.output_names}


def _tensors_inside(qmodel, model):
    """For each layer path the name of the tensor it makes in the file."""
    lowering, graph = lower(qmodel)
    entrances = {tensor.name for tensor in lowering.inputs.values()}
    made = {node.path: lowering.tensors[node.output].name for node in graph.nodes}
    names = {layer: name for layer, name in made.items() if name not in entrances}
    present = {text(tensor.name) for tensor in model.subgraphs[0].tensors}
    # A layer whose output nothing reads, or counts as zero, leaves no tensor behind.
    return {layer: name for layer, name in names.items() if name in present}
