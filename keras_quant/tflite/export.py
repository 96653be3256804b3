"""A quantized model → a fully integer `.tflite` file."""

from keras import tree

from keras_quant.errors import ExportError
from keras_quant.graph import settle_halves, trace
from keras_quant.graph.loops import everywhere
from keras_quant.graph.resized import Sizes
from keras_quant.layers import QuantLayer, is_quantized
from keras_quant.layers.state import StateUpdate
from keras_quant.tflite import rules  # noqa: F401  registers the lowering rules
from keras_quant.tflite.ends import check_end_types, output_tensor
from keras_quant.tflite.file import write_atomically
from keras_quant.tflite.flatbuffer import SIGNATURE, finish, parse
from keras_quant.tflite.lower import check, lower, without_rule
from keras_quant.tflite.report import describe
from keras_quant.tflite.resizable import follow_sizes

DESCRIPTION = "keras_quant"
FALLBACKS = (None, "converter")


def export_tflite(qmodel, path, *args, **kwargs):
    """Write a quantized model as a fully integer `.tflite`; args as of `export_in_memory`."""
    content, report = export_in_memory(qmodel, path, *args, **kwargs)
    write_atomically(path, content)
    return report


def export_in_memory(qmodel, name, batch_size=1, fallback=None, input_type=None, output_type=None, sizes=None):
    """What `export_tflite` writes, unwritten.

    Args:
        qmodel: quantized `keras.Model`, or its `Sizes`.
        name: path that the report names.
        sizes: dict from names of signatures to the `input_shape` of each; by default the model's own, as
            `serving_default`. The others are as of `keras_quant.export`.

    Returns:
        The file's bytes and its `ExportReport`.
    """
    if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
        raise ExportError(f"`batch_size` is a positive integer, or None for resizable. Received: batch_size={batch_size!r}")
    if fallback not in FALLBACKS:
        raise ExportError(f"`fallback` is one of {list(FALLBACKS)}. Received: fallback={fallback!r}")
    check_end_types(input_type=input_type, output_type=output_type)
    model, sizes = qmodel if isinstance(qmodel, Sizes) else Sizes(qmodel), sizes or {SIGNATURE: None}
    graph = trace(model.model, keep_float=True)
    if fallback == "converter" and (without_rule(graph) or not is_quantized(model.model)):
        content, made = _converted(model, sizes, batch_size), {}
    else:
        written = {key: _lowered(model, shape, graph, batch_size, input_type, output_type) for key, shape in sizes.items()}
        content = finish({key: (lowering.writer, *ends) for key, (lowering, *ends) in written.items()}, DESCRIPTION)
        of_integers = {place.path for place in everywhere(graph) if _is_exact(place.node.operation)}
        layers = {key: lowering.layers for key, (lowering, *_) in written.items()}
        inner = {k: v for lowering, *_ in written.values() for k, v in lowering.writer.inner_layers().items()}
        made = {"layers": layers, "inner": inner, "of_integers": of_integers}
    return content, describe(name, content, parse(content), **made)


def _is_exact(operation):
    """Whether a layer computes on integers, or on real numbers of which nothing is rounded."""
    return isinstance(operation, QuantLayer) or (isinstance(operation, StateUpdate) and operation.has_grid)


def _converted(model, sizes, batch_size):
    if list(sizes) != [SIGNATURE] or model.is_open(sizes[SIGNATURE]):
        raise ExportError(
            "TFLiteConverter writes this model, by `fallback`, at one size. Export a file for each. "
            f"Received: {list(sizes.values())}"
        )
    qmodel = model.at(sizes[SIGNATURE])
    graph = trace(qmodel, keep_float=True)
    check(qmodel, graph)
    # TensorFlow's converter takes its time to import, and no other file needs it.
    from keras_quant.tflite.converter import convert

    return convert(graph, batch_size)


def reduced_precision(graph, lowering):
    """What lets XNNPACK compute in float16 where the processor can, if no layer asks for float32."""
    if lowering.is_exact_in_float:
        return {}
    dtypes = {getattr(n.operation, "compute_dtype", None) for n in graph.nodes if not isinstance(n.operation, QuantLayer)}
    return {"reduced_precision_support": b"fp16accfp16"} if "float16" in dtypes and "float32" not in dtypes else {}


def _lowered(sizes, input_shape, graph, batch_size, input_type, output_type):
    """The `Lowering` of a model of `Sizes` at one, its inputs and its outputs, as `Writer.finish` takes them.

    Args:
        graph: of the model at its own size.
    """
    model, is_resizable = sizes.at(input_shape), sizes.is_open(input_shape)
    settle_halves(graph if model is sizes.model else trace(model, keep_float=True))
    options = batch_size, input_type, output_type, is_resizable
    written = _lowered_once(model, *options)
    if is_resizable:
        others = [_lowered_once(other, *options) for other in sizes.neighbours(model, input_shape)]
        follow_sizes([(lowering, outputs) for lowering, _, outputs in (written, *others)])
    return written


def _lowered_once(model, batch_size, input_type, output_type, is_resizable):
    lowering, graph = lower(model, batch_size, input_type, is_resizable)
    inputs = {value.name: lowering.inputs[value] for value in graph.inputs}
    values = dict(zip(graph.output_names, tree.flatten(graph.outputs)))
    outputs = {name: output_tensor(lowering, name, lowering.tensors[v], output_type) for name, v in values.items()}
    lowering.writer.metadata |= reduced_precision(graph, lowering)
    return lowering, inputs, outputs
