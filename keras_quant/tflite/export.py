"""A quantized model → a fully integer `.tflite` file."""

from keras import tree

from keras_quant.errors import ExportError
from keras_quant.tflite import rules  # noqa: F401  registers the lowering rules
from keras_quant.tflite.file import write_atomically
from keras_quant.tflite.lower import lower
from keras_quant.tflite.report import describe
from keras_quant.tflite.writer import parse

DESCRIPTION = "keras_quant"


def export_tflite(qmodel, path, batch_size=1):
    """Write a quantized model as a fully integer `.tflite`; see `keras_quant.export`."""
    if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
        raise ExportError(f"`batch_size` is a positive integer, or None for resizable. Received: batch_size={batch_size!r}")
    lowering, graph = lower(qmodel, batch_size)
    inputs = {value.name: lowering.inputs[value] for value in graph.inputs}
    outputs = {name: lowering.tensors[v] for name, v in zip(graph.output_names, tree.flatten(graph.outputs))}
    content = lowering.writer.finish(inputs, outputs, DESCRIPTION)
    report = describe(path, content, parse(content), lowering.layers)
    write_atomically(path, content)
    return report
