"""The command `inspect`: what is in a model file."""

import functools

import numpy as np
from keras import ops
from rich.table import Table

from keras_quant import PolicyMap, UnsupportedLayerError
from keras_quant.graph import trace
from keras_quant.graph.operations import quantized_layer
from keras_quant.layers import QuantLayer, is_quantized
from keras_quant.policy import policy_name
from keras_quant.quantize import PASSES
from keras_quant.tflite import describe, read_model
from keras_quant_cli.console import console
from keras_quant_cli.files import load_model


def inspect(args):
    tables = {".keras": keras_tables, ".tflite": tflite_tables}[args.file.suffix](args.file)
    for table in tables:
        console().print(table)


def keras_tables(path):
    """The layers of a `.keras` file, as a list of one `rich.table.Table`."""
    model = load_model(path)
    graph = trace(model, keep_float=True)
    if is_quantized(model):
        return [_quantized_table(path, model, graph)]
    graph = functools.reduce(lambda graph, step: step(graph), PASSES, graph.with_policies(PolicyMap()))
    return [_float_table(path, model, graph)]


def _quantized_table(path, model, graph):
    table = _table(f"{path}: quantized model '{model.name}', {model.count_params():,} parameters")
    _add_columns(table, ("layer", "class", "policy", "output", "range", ">scale", ">zero point"))
    for node in graph.nodes:
        policy = policy_name(node.operation) or ""
        table.add_row(node.path, type(node.operation).__name__, policy, _shape(node.output.shape), *_grid(node))
    return table


def _grid(node):
    """Range, scale and zero point of what a node makes, as text."""
    if not isinstance(node.operation, QuantLayer):
        return "computes in float", "", ""
    quantizer = node.output.note.quantizer
    if not quantizer.is_set:
        return "not set", "", ""
    params = quantizer.params()
    scale, low, high = (float(ops.convert_to_numpy(v)) for v in (params.scale, params.low, params.high))
    return (
        f"{low * scale:.4g} … {high * scale:.4g}",
        f"{scale:.6g}",
        str(round(float(ops.convert_to_numpy(params.zero_point)))),
    )


def _float_table(path, model, graph):
    table = _table(f"{path}: float model '{model.name}', {model.count_params():,} parameters")
    _add_columns(table, ("layer", "class", "output", "with it", "quantized form"))
    missing = 0
    for node in graph.nodes:
        joined = [node.batch_norm.name] if node.batch_norm is not None else []
        joined += [node.activation.__name__] if node.activation is not None else []
        try:
            form = type(quantized_layer(node, node.path.replace("/", "."), node.policy)).__name__
        except UnsupportedLayerError as error:
            form = f"none: {error}"
            missing += 1
        table.add_row(node.path, type(node.operation).__name__, _shape(node.output.shape), ", ".join(joined), form)
    count = len(graph.nodes)
    table.caption = f"{count - missing} of {count} have a quantized form"
    return table


def tflite_tables(path):
    """The operators, inputs and outputs of a `.tflite` file, as `rich.table.Table`s."""
    content, model = read_model(path)
    report = describe(path, content, model)
    graph = model.subgraphs[0]
    taken, total = len(report.operators) - len(report.off_xnnpack), len(report.operators)
    operators = _table(
        f"{path}: {report.bytes:,} bytes, {taken} of {_count(total, 'operator')} on XNNPACK "
        f"in {_count(report.partitions, 'partition')}"
    )
    _add_columns(operators, (">#", "operator", "layer", "runs on", "output", "dtype", "weights", ">scale", ">zero point"))
    for index, (info, operator) in enumerate(zip(report.operators, graph.operators)):
        made = report.tensors[operator.outputs[0]]
        weights = [report.tensors[t] for t in operator.inputs if t >= 0 and report.tensors[t].scale]
        weights = next((t for t in weights if t.constant), None)
        operators.add_row(
            str(index),
            info.name,
            info.layer,
            "XNNPACK" if info.on_xnnpack else f"built-in kernel: {info.reason}",
            _shape(made.shape),
            made.dtype,
            "" if weights is None else f"{_shape(weights.shape)}, {_count(len(weights.scale), 'scale')}",
            *_scale_and_zero_point(made),
        )
    ends = _table("Inputs and outputs")
    _add_columns(ends, ("", "name", "shape", "dtype", ">scale", ">zero point"))
    for kind, indices in (("input", graph.inputs), ("output", graph.outputs)):
        for tensor in (report.tensors[index] for index in indices):
            ends.add_row(kind, tensor.name, _shape(tensor.shape), tensor.dtype, *_scale_and_zero_point(tensor))
    return [operators, ends]


def _scale_and_zero_point(tensor):
    return (f"{np.float32(tensor.scale[0]):.6g}", str(tensor.zero_point)) if tensor.scale else ("", "")


def _table(title):
    return Table(title=title, title_justify="left", title_style="bold", caption_justify="left")


def _add_columns(table, headings):
    """Columns; ">" at the start of a heading aligns it right."""
    for heading in headings:
        table.add_column(heading.lstrip(">"), justify="right" if heading.startswith(">") else "left", overflow="fold")


def _shape(shape):
    return "×".join("?" if size is None else str(size) for size in shape)


def _count(number, noun):
    return f"{number} {noun}{'' if number == 1 else 's'}"
