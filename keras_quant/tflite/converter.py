"""The other way to a file: `TFLiteConverter`, for a model that holds what no lowering rule covers."""

import pathlib
import re
import tempfile

import numpy as np
import tensorflow as tf
from keras import ops, tree

from keras_quant import backend
from keras_quant.errors import ExportError
from keras_quant.layers import QuantLayer
from keras_quant.tflite.flatbuffer import name_signature, parse

# What TensorFlow takes as a scope's name.
_NOT_IN_A_SCOPE = re.compile(r"[^A-Za-z0-9_.\\/-]")


def convert(graph, batch_size):
    """The file that `TFLiteConverter` makes of a quantized model with int8 inputs and outputs.

    The converter gets each layer's float arithmetic with the model's own ranges as fake quantization, and finds the
    operators and the rounding itself; what it has no int8 kernel for computes in float inside the file.

    Args:
        graph: leaf `Graph` of the quantized model, checked.
        batch_size: of the file; `None` leaves it resizable.

    Returns:
        bytes.

    Raises:
        ExportError: if the converter fails.
    """
    step = _float_step(graph)
    specs = [tf.TensorSpec((batch_size, *v.shape[1:]), _dtype(graph, v), f"input_{i}") for i, v in enumerate(graph.inputs)]
    module = tf.Module()
    module.step = tf.function(step, input_signature=specs, autograph=False)
    # Layers that stay in float bring their variables.
    module.variables_ = [v.value for node in graph.nodes for v in getattr(node.operation, "variables", [])]
    with tempfile.TemporaryDirectory() as folder:
        try:
            tf.saved_model.save(module, folder, signatures=module.step)
            converter = tf.lite.TFLiteConverter.from_saved_model(str(pathlib.Path(folder)))
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.inference_input_type = converter.inference_output_type = tf.int8
            content = converter.convert()
        except Exception as error:  # the converter raises what its compiler reports, of many kinds
            raise ExportError(f"TFLiteConverter cannot convert the model: {_cause(error)} {_float_layers(graph)}") from error
    inputs = {f"input_{i}": value.name for i, value in enumerate(graph.inputs)}
    outputs = {f"output_{i}": name for i, name in enumerate(graph.output_names)}
    return name_signature(parse(content), inputs, outputs)


def _float_step(graph):
    """Inputs → dict of outputs, in float, with every grid as constants."""
    grids = {value: _grid(value) for node in graph.nodes for value in tree.flatten(node.outputs) if value.note is not None}

    def compute(node, args, kwargs):
        with tf.name_scope(_NOT_IN_A_SCOPE.sub("_", node.path)):
            if not isinstance(node.operation, QuantLayer):
                return node.operation(*args, **kwargs)
            outputs = node.operation.float_call(*args)
            return backend.constant_fake_quant(outputs, *grids[node.output])

    def step(*inputs):
        values = graph.run(inputs, compute)
        return {f"output_{i}": tf.identity(values[v]) for i, v in enumerate(tree.flatten(graph.outputs))}

    return step


def _grid(value):
    """Lowest and highest real value of a grid, as Python floats."""
    params = value.note.quantizer.params()
    low, high, scale = (np.float64(ops.convert_to_numpy(v)) for v in (params.low, params.high, params.scale))
    return float(low * scale), float(high * scale)


def _dtype(graph, value):
    """Integers stay integers where a float layer reads them."""
    quantized = all(isinstance(node.operation, QuantLayer) for node in graph.nodes if value in node.inputs)
    return "float32" if quantized else value.dtype


def _cause(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = next((line for line in lines if "error:" in line), lines[0] if lines else type(error).__name__)
    line = re.sub(r"^.*error: (loc\(.*\): )?", "", line)
    return line if line.endswith(".") else f"{line}."


def _float_layers(graph):
    names = [f"'{n.path}' ({type(n.operation).__name__})" for n in graph.nodes if not isinstance(n.operation, QuantLayer)]
    return f"Layers without integer form: {', '.join(names)}. Register one with `keras_quant.register_quantized_layer`."
