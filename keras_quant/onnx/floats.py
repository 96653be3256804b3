"""Float arithmetic as ONNX nodes, by tf2onnx: float layers between quantized ones, and float models whole."""

import contextlib
import logging
import re

import tensorflow as tf
from onnx import numpy_helper, version_converter

from keras_quant.errors import ExportError

# What TensorFlow takes as a scope's name.
_NOT_IN_A_SCOPE = re.compile(r"[^A-Za-z0-9_.\\/-]")
# The newest opset that tf2onnx 1.16 and 1.17 write; `onnx.version_converter` does the rest.
NEWEST_OF_TF2ONNX = 18


def scope(path):
    """A context in which TensorFlow names its operations by a layer path."""
    return tf.name_scope(_NOT_IN_A_SCOPE.sub("_", path))


def convert(function, values, specs, builder, path):
    """Add the nodes of a float function to a graph.

    Args:
        function: tensors → list of tensors.
        values: names of the values in the graph that it takes.
        specs: a shape, with the batch, and a dtype for each of them.
        builder: `Builder`.
        path: prefix of the new names.

    Returns:
        Names of the values that it makes.
    """
    model = to_onnx(function, [(f"input_{i}", *spec) for i, spec in enumerate(specs)], builder.opset, path)
    names = {f"input_{i}": value for i, value in enumerate(values)}
    for tensor in model.graph.initializer:
        names[tensor.name] = builder.constant(f"{path}/{tensor.name}", numpy_helper.to_array(tensor))
    for node in model.graph.node:
        rename = lambda name: names[name] if name else ""
        inputs = [rename(name) for name in node.input]
        outputs = []
        for name in node.output:
            names[name] = builder.unique(f"{path}/{name}") if name else ""
            outputs.append(names[name])
        node.name = builder.unique(node.name if node.name.startswith(path) else f"{path}/{node.name}")
        node.input[:], node.output[:] = inputs, outputs
        builder.paths[node.name] = path
        builder.nodes.append(node)
    return [names[info.name] for info in model.graph.output]


def to_onnx(function, inputs, opset, where):
    """Convert a function of tensors.

    Args:
        function: tensors → list or dict of tensors.
        inputs: a name, a shape with the batch, and a dtype for each tensor.
        opset: of the result.
        where: for messages: the layer path or the model's name.

    Returns:
        `ModelProto`, its outputs in the order of the list, or under the names of the dict.

    Raises:
        ExportError: if tf2onnx cannot convert it.
    """
    import tf2onnx

    specs = [tf.TensorSpec(shape, dtype, name=name) for name, shape, dtype in inputs]
    wrapped = tf.function(lambda *x: _named(function(*x)), input_signature=specs, autograph=False)
    try:
        with _quiet():
            model, _ = tf2onnx.convert.from_function(
                wrapped, input_signature=specs, opset=min(opset, NEWEST_OF_TF2ONNX)
            )
            if opset > NEWEST_OF_TF2ONNX:
                model = version_converter.convert_version(model, opset)
    except Exception as error:  # whatever tf2onnx and TensorFlow trip over
        cause = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ExportError(
            f"tf2onnx cannot convert '{where}': {cause}. Give the layer a quantized form or an `onnx` rule, see "
            "`keras_quant.onnx.register_lowering`, or leave it out of the model."
        ) from error
    return model


def _named(outputs):
    outputs = outputs if isinstance(outputs, dict) else {f"output_{i:04d}": x for i, x in enumerate(outputs)}
    return {name: tf.identity(x, name=_NOT_IN_A_SCOPE.sub("_", name)) for name, x in outputs.items()}


@contextlib.contextmanager
def _quiet():
    """Hold back what tf2onnx logs; errors are raised."""
    logger = logging.getLogger("tf2onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
