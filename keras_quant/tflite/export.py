"""A quantized model → a fully integer `.tflite` file."""

from keras import tree

from keras_quant.errors import ExportError
from keras_quant.graph import settle_halves, trace
from keras_quant.layers import QuantLayer, is_quantized
from keras_quant.tflite import rules  # noqa: F401  registers the lowering rules
from keras_quant.tflite.ends import check_end_types, output_tensor
from keras_quant.tflite.file import write_atomically
from keras_quant.tflite.lower import check, lower, without_rule
from keras_quant.tflite.report import describe
from keras_quant.tflite.writer import parse

DESCRIPTION = "keras_quant"
FALLBACKS = (None, "converter")


def export_tflite(qmodel, path, batch_size=1, fallback=None, input_type=None, output_type=None):
    """Write a quantized model as a fully integer `.tflite`; see `keras_quant.export`."""
    content, report = export_in_memory(qmodel, path, batch_size, fallback, input_type, output_type)
    write_atomically(path, content)
    return report


def export_in_memory(qmodel, name, batch_size=1, fallback=None, input_type=None, output_type=None):
    """What `export_tflite` writes, unwritten.

    Args:
        name: path that the report names; the others as of `keras_quant.export`.

    Returns:
        The file's bytes and its `ExportReport`.
    """
    if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
        raise ExportError(f"`batch_size` is a positive integer, or None for resizable. Received: batch_size={batch_size!r}")
    if fallback not in FALLBACKS:
        raise ExportError(f"`fallback` is one of {list(FALLBACKS)}. Received: fallback={fallback!r}")
    check_end_types(input_type=input_type, output_type=output_type)
    graph = trace(qmodel, keep_float=True)
    if fallback == "converter" and (without_rule(graph) or not is_quantized(qmodel)):
        content, made = _converted(qmodel, graph, batch_size), {}
    else:
        settle_halves(graph)
        content, layers = _lowered(qmodel, batch_size, input_type, output_type)
        of_integers = {node.path for node in graph.nodes if isinstance(node.operation, QuantLayer)}
        made = {"layers": layers, "of_integers": of_integers}
    return content, describe(name, content, parse(content), **made)


def _converted(qmodel, graph, batch_size):
    check(qmodel, graph)
    # TensorFlow's converter takes its time to import, and no other file needs it.
    from keras_quant.tflite.converter import convert

    return convert(graph, batch_size)


def _reduced_precision(graph):
    """What lets XNNPACK compute in float16 where the processor can, if no layer asks for float32."""
    dtypes = {getattr(n.operation, "compute_dtype", None) for n in graph.nodes if not isinstance(n.operation, QuantLayer)}
    return {"reduced_precision_support": b"fp16accfp16"} if "float16" in dtypes and "float32" not in dtypes else {}


def _lowered(qmodel, batch_size, input_type, output_type):
    lowering, graph = lower(qmodel, batch_size, input_type)
    inputs = {value.name: lowering.inputs[value] for value in graph.inputs}
    values = dict(zip(graph.output_names, tree.flatten(graph.outputs)))
    outputs = {name: output_tensor(lowering, name, lowering.tensors[v], output_type) for name, v in values.items()}
    lowering.writer.metadata |= _reduced_precision(graph)
    content = lowering.writer.finish(inputs, outputs, DESCRIPTION)
    return content, lowering.layers
