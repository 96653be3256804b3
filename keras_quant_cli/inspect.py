"""The command `inspect`: what is in a model file."""

import numpy as np
from rich.table import Table

import keras_quant as kq
from keras_quant import PolicyMap, UnsupportedLayerError
from keras_quant.extra import require
from keras_quant.graph import prepare, trace
from keras_quant.graph.operations import quantized_layer
from keras_quant.graph.sizes import at_size
from keras_quant.layers import is_quantized
from keras_quant.report.file import first_signature
from keras_quant.report.layer import compact, shape_text
from keras_quant.tflite import read_model
from keras_quant.tflite.report import tensors_of
from keras_quant.tflite.subgraphs import located_operators
from keras_quant_cli.console import console
from keras_quant_cli.files import FileError, load_inputs, load_model, shapes


def inspect(args):
    for part in {".keras": inspect_keras, ".tflite": inspect_tflite, ".onnx": inspect_onnx}[args.file.suffix](args):
        console().print(part)


def inspect_keras(args):
    """What there is to say of a `.keras` file, as a list of Rich renderables."""
    model = load_model(args.file)
    if not is_quantized(model):
        if args.data or args.sort or args.html:
            raise FileError(
                f"'{args.file}' holds a float model, whose layers have no quantization to measure or sort. Run "
                "'keras-quant quantize' first, and inspect what it writes."
            )
        return [_float_table(args.file, at_size(model, shapes(args))[0])]
    data = None if args.data is None else load_inputs(args.data, model)
    report = kq.report(model, data, args.steps)
    return [_finished(report, args)]


def _finished(report, args):
    """A report sorted as asked for, and written as a page if asked for."""
    report = report if args.sort is None else report.sort(args.sort)
    if args.html is not None:
        report.save(args.html)
        console().print(f"{args.html}: written")
    return report


def _float_table(path, model):
    graph = prepare(trace(model, keep_float=True).with_policies(PolicyMap()))
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
        table.add_row(node.path, type(node.operation).__name__, shape_text(node.output.shape), ", ".join(joined), form)
    count = len(graph.nodes)
    table.caption = f"{count - missing} of {count} have a quantized form"
    return table


def inspect_tflite(args):
    """The operators, inputs and outputs of a `.tflite` file, as `rich.table.Table`s."""
    report = _finished(kq.report(args.file), args)
    exported, model = report.exported, first_signature(read_model(args.file)[1])
    located, graph = list(located_operators(model)), model.subgraphs[0]
    taken, total = len(exported.operators) - len(exported.off_xnnpack), len(exported.operators)
    operators = _table(
        f"{args.file}: {report.bytes:,} bytes, {compact(report.macs)} MACs a sample, {taken} of "
        f"{_count(total, 'operator')} on XNNPACK in {_count(exported.partitions, 'partition')}"
    )
    if exported.signatures:
        operators.caption = "\n".join(map(str, str(exported).splitlines()[1:]))
    _add_columns(operators, (">#", "operator", "layer", "runs on", "output", "dtype", "weights", ">MACs", ">bytes"))
    _add_columns(operators, (">scale", ">zero point"))
    for layer in report.layers:
        info, one = exported.operators[layer.index], located[layer.index]
        tensors = tensors_of(model, one.place)
        made = tensors[one.operator.outputs[0]] if len(one.operator.outputs) else None
        weights = next(
            (tensors[t] for t in one.operator.inputs if t >= 0 and tensors[t].scale and tensors[t].constant), None
        )
        operators.add_row(
            str(layer.index),
            info.name,
            info.layer,
            "XNNPACK" if info.on_xnnpack else f"built-in kernel: {info.reason}",
            "" if made is None else shape_text(made.shape),
            "" if made is None else made.dtype,
            "" if weights is None else f"{shape_text(weights.shape)}, {_count(len(weights.scale), 'scale')}",
            compact(layer.macs),
            f"{layer.bytes:,}",
            *(("", "") if made is None else _scale_and_zero_point(made)),
        )
    ends = _table("Inputs and outputs")
    _add_columns(ends, ("", "name", "shape", "dtype", ">scale", ">zero point"))
    for kind, indices in (("input", graph.inputs), ("output", graph.outputs)):
        for tensor in (exported.tensors[index] for index in indices):
            ends.add_row(kind, tensor.name, shape_text(tensor.shape), tensor.dtype, *_scale_and_zero_point(tensor))
    return [operators, ends]


def inspect_onnx(args):
    """The operators, grids and ends of an `.onnx` file, as `rich.table.Table`s."""
    if args.data or args.sort or args.html:
        raise FileError("--data, --sort and --html are for a .keras or a .tflite. Inspect the model that was exported.")
    require("onnx")
    from keras_quant import onnx

    report, runtime = onnx.describe(args.file), onnx.Runtime(args.file)
    count = _count(len(report.operators), "operator")
    operators = _table(f"{args.file}: {report.bytes:,} bytes, opset {report.opset}, {count}")
    _add_columns(operators, (">#", "operator", "layer", "ONNX Runtime runs"))
    for index, info in enumerate(report.operators):
        operators.add_row(str(index), info.name, info.layer, info.runs_as or "as part of another, or not at all")
    grids = _table("Grids")
    _add_columns(grids, ("tensor", "shape", "dtype", ">scales", ">scale", ">zero point"))
    for tensor in report.tensors:
        count = str(len(tensor.scale))
        grids.add_row(tensor.name, shape_text(tensor.shape), tensor.dtype, count, *_scale_and_zero_point(tensor))
    ends = _table("Inputs and outputs")
    _add_columns(ends, ("", "name", "shape", "dtype"))
    for kind, found in (("input", runtime.session.get_inputs()), ("output", runtime.session.get_outputs())):
        for end in found:
            ends.add_row(kind, end.name, "×".join(map(str, end.shape)), end.type)
    return [operators, grids, ends]


def _scale_and_zero_point(tensor):
    return (f"{np.float32(tensor.scale[0]):.6g}", str(tensor.zero_point)) if tensor.scale else ("", "")


def _table(title):
    return Table(title=title, title_justify="left", title_style="bold", caption_justify="left")


def _add_columns(table, headings):
    """Columns; ">" at the start of a heading aligns it right."""
    for heading in headings:
        table.add_column(heading.lstrip(">"), justify="right" if heading.startswith(">") else "left", overflow="fold")


def _count(number, noun):
    return f"{number} {noun}{'' if number == 1 else 's'}"
