"""The verb `report`: what each layer of a quantized model costs, and what it loses."""

import contextlib
import dataclasses
import os
import pathlib

import numpy as np
from keras import ops, tree

from keras_quant.errors import ExportError, QuantizationError
from keras_quant.graph import trace
from keras_quant.graph.loops import everywhere, inner_graph
from keras_quant.graph.macs import macs
from keras_quant.layers import QuantLayer, is_quantized
from keras_quant.policy import policy_name
from keras_quant.quantizers import ActivationQuantizer
from keras_quant.report.file import report_file
from keras_quant.report.histogram import weight_histogram
from keras_quant.report.layer import LayerReport
from keras_quant.report.measure import measure
from keras_quant.report.model import ModelReport
from keras_quant.settings import float32
from keras_quant.tflite import export_in_memory


@float32()
def report(model, data=None, steps=None, float_model=None, history=None, refined=None):
    """Report on a quantized model, layer by layer: precision, range, size, cost, error, and where it runs.

    The model is exported in memory, for its bytes and for where its operators run, and stays as it is. Layers that were
    fused (batch normalization, activations) are part of the one that they joined; a layer of several operators has a line
    for each. `print` it, `sort` it, turn it into a data frame (`to_pandas`), or `save` it as an HTML page.

    Args:
        model: quantized `keras.Model`, or the path of a `.tflite` file, of which only what the file says is reported. A
            float model is reported as it is, for its cost.
        data: model inputs, whatever `fit` takes; labels are ignored. Without it nothing is measured: no error, no clipped
            values, no histograms of activations. Some 32 samples are enough.
        steps: number of batches of `data` to use; all by default.
        float_model: the model that was given to `quantize`, to measure the accumulated error against; by default the
            quantized model's own weights in float.
        history: a `keras_quant.callbacks.QuantizationSummary` that `fit` had, or its `history`: the ranges over training.
        refined: `RefineReport` that `refine` returned: what each post-training method brought.

    Returns:
        `ModelReport`.

    Raises:
        QuantizationError: for a model that cannot be traced, such as one that was never built, or another `float_model`.
        CalibrationError: with `data`, if it does not fit the model or a range was never set.
        ModelFileError: for a file that cannot be loaded.
    """
    if isinstance(model, (str, os.PathLike)):
        return _report_path(model, data, float_model, history, refined)
    graph = trace(model, keep_float=True)
    exported, notes = None, []
    with _ranges_kept(graph):
        try:
            exported = _exported(model)
        except QuantizationError as error:
            notes.append(f"No bytes, and not where it runs: {error}")
        samples, measured = (0, {}) if data is None else measure(model, data, steps, float_model, graph)
        layers = _layers(graph, exported, measured)
    if data is None:
        notes.append("No error, clipped values and histograms of activations: they are measured on data. Pass `data`.")
    values = dict(zip(graph.output_names, tree.flatten(graph.outputs)))
    return ModelReport(
        name=model.name,
        layers=layers,
        exported=exported,
        float_bytes=4 * sum(layer.parameters for layer in layers),
        samples=samples,
        reference="its own weights in float" if float_model is None else f"the float model '{float_model.name}'",
        output_sqnr={name: measured[value.name].sqnr for name, value in values.items() if value.name in measured},
        history=dict(getattr(history, "history", history) or {}),
        notes=tuple(notes),
        refined=refined,
    )


def _report_path(path, data, float_model, history, refined):
    if pathlib.Path(path).suffix != ".tflite":
        raise QuantizationError(
            f"`report` takes a model, or the path of a `.tflite` file. Load another with `keras.saving.load_model`. "
            f"Received: model='{path}'"
        )
    if any(x is not None for x in (data, float_model, history, refined)):
        raise QuantizationError(
            f"Of the file '{path}' only what it says is reported. Pass the quantized model to measure on data."
        )
    return report_file(path)


def _exported(model):
    if not is_quantized(model):
        raise ExportError(f"Model '{model.name}' computes in float. Pass it to `keras_quant.quantize` first.")
    return export_in_memory(model, model.name)[1]


@contextlib.contextmanager
def _ranges_kept(graph):
    """`export` moves some ranges by millionths; a report leaves the model as it is."""
    nodes = [place.node for place in everywhere(graph)]
    notes = [value.note for node in nodes for value in tree.flatten(node.outputs) if value.note is not None]
    variables = {id(v): v for note in notes for v in note.quantizer.variables}.values()
    before = [ops.convert_to_numpy(variable) for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, before):
            variable.assign(value)


def _layers(graph, exported, measured):
    places, operators = {}, {}
    for place in everywhere(graph):
        places.setdefault(place.path, []).append(place)
    for operator in () if exported is None else exported.operators:
        operators.setdefault(operator.layer, []).append(operator)
    counted, stored = set(), {} if exported is None else _stored(exported)
    return tuple(
        dataclasses.replace(
            _layer(index, path, calls, operators.get(path, []), measured.get(path), exported is not None, counted),
            stored=stored.get(calls[0].node.path, ""),
        )
        for index, (path, calls) in enumerate(places.items())
    )


def _stored(exported):
    """The type of each layer's kernel in the file, by path."""
    kernels = [tensor for tensor in exported.tensors if tensor.constant and tensor.name.endswith("/kernel")]
    return {tensor.name.removesuffix("/kernel"): tensor.dtype for tensor in kernels}


def _layer(index, path, places, operators, measured, has_file, counted):
    """The line of one layer; a loop's has what the layers inside have not.

    Args:
        places: its calls.
        operators: `OperatorInfo`s.
        measured: `Measured` or `None`.
        has_file: whether the model could be exported.
        counted: ids of variables that earlier lines have; this one's are added.
    """
    first, sums = places[0].node, [_macs(place) for place in places]
    off = [operator for operator in operators if not operator.on_xnnpack]
    return LayerReport(
        index=index,
        path=path,
        kind=type(first.operation).__name__,
        policy=policy_name(first.operation) or "",
        input_shapes=tuple(tuple(value.shape) for value in first.inputs),
        output_shape=tuple(tree.flatten(first.outputs)[0].shape),
        parameters=_parameters(first.operation, counted),
        macs=None if None in sums else sum(sums),
        file_macs=sum(operator.macs for operator in operators) if has_file else None,
        bytes=sum(operator.bytes for operator in operators) if has_file else None,
        runs_on="" if not operators else "built-in kernel" if off else "XNNPACK",
        reason=" ".join(dict.fromkeys(f"{operator.reason}. {operator.remedy}".strip() for operator in off)),
        operators=tuple(operator.name for operator in operators),
        weights=weight_histogram(first),
        **_grid(first, measured),
        **({} if measured is None else _errors(first, measured)),
    )


def _macs(place):
    own = 0 if inner_graph(place.node) is not None else macs(place.node)
    return None if own is None else own * place.times


def _parameters(operation, counted):
    total = 0
    for layer in operation._flatten_layers() if hasattr(operation, "_flatten_layers") else ():
        if isinstance(layer, ActivationQuantizer):
            counted.update(id(variable) for variable in layer.variables)
    for variable in getattr(operation, "variables", ()):
        if id(variable) not in counted and str(variable.dtype).startswith("float"):
            total += int(np.prod(variable.shape))
        counted.add(id(variable))
    return total


def _grid(node, measured):
    note = tree.flatten(node.outputs)[0].note
    if note is None:
        return {} if measured is None else {"low": measured.low, "high": measured.high}
    if not note.quantizer.is_set:
        return {}
    params = note.quantizer.params()
    scale, zero_point, low, high = (
        float(ops.convert_to_numpy(v)) for v in (params.scale, params.zero_point, params.low, params.high)
    )
    return {"low": low * scale, "high": high * scale, "scale": scale, "zero_point": round(zero_point)}


def _errors(node, measured):
    exact_in_float = not isinstance(node.operation, QuantLayer) and measured.local_noise == 0
    return {
        "clipped": measured.clipped_share,
        "local_sqnr": None if exact_in_float else measured.local_sqnr,
        "sqnr": measured.sqnr,
        "activations": measured.integers,
    }
