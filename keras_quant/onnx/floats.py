"""Float arithmetic as ONNX nodes, by tf2onnx: float layers between quantized ones, and float models whole."""

import contextlib
import logging
import re
from unittest import mock

import numpy as np
import tensorflow as tf
from onnx import defs, version_converter
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

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
    prefix = builder.unique(path)
    names = {info.name: value for info, value in zip(model.graph.input, values)}
    _rename(model.graph, prefix, names)
    builder.initializers |= {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        node.name = builder.unique(node.name if node.name.startswith(path) else f"{path}/{node.name}")
        builder.paths[node.name] = path
        builder.nodes.append(node)
    return [names[info.name] for info in model.graph.output]


def _rename(graph, prefix, names):
    """Put a prefix before every name that a graph gives to a value; `names` has those from around it, and gets them."""
    own = [*(tensor.name for tensor in graph.initializer), *(name for node in graph.node for name in node.output)]
    names |= {name: f"{prefix}/{name}" for name in own if name}
    for tensor in graph.initializer:
        tensor.name = names[tensor.name]
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
                _rename_body(inner, prefix, dict(names))
        node.input[:] = [names[name] if name else "" for name in node.input]
        node.output[:] = [names[name] if name else "" for name in node.output]


def _rename_body(graph, prefix, names):
    """The body of a loop or a branch, which reads what is around it, too."""
    names |= {info.name: f"{prefix}/{info.name}" for info in graph.input}
    _rename(graph, prefix, names)
    for info in (*graph.input, *graph.output, *graph.value_info):
        info.name = names.get(info.name, info.name)


def to_onnx(function, inputs, opset, where):
    """Convert a function of tensors.

    Args:
        function: tensors → list of tensors.
        inputs: a name, a shape with the batch, and a dtype for each tensor.
        opset: of the result.
        where: for messages: the layer path or the model's name.

    Returns:
        `ModelProto`, its inputs and outputs in their order.

    Raises:
        ExportError: if tf2onnx cannot convert it.
    """
    import tf2onnx

    specs = [tf.TensorSpec(shape, dtype, name=name) for name, shape, dtype in inputs]
    lowest = min(opset, NEWEST_OF_TF2ONNX)
    try:
        definition, names, outputs = _frozen(lambda *x: _traced(function, x), specs)
        with _quiet():
            model, _ = tf2onnx.convert.from_graph_def(
                definition, input_names=names, output_names=outputs, opset=lowest, custom_op_handlers={"Erfc": (_erfc, [])}
            )
    except Exception as error:  # whatever tf2onnx and TensorFlow trip over
        cause = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ExportError(f"tf2onnx cannot convert '{where}': {cause.rstrip('.')}. {_WAY_OUT}") from error
    foreign = sorted({node.op_type for node in model.graph.node if not node.domain and not defs.has(node.op_type)})
    if foreign:
        raise ExportError(f"tf2onnx has no ONNX form for TensorFlow's {', '.join(foreign)} in '{where}'. {_WAY_OUT}")
    return model if opset == lowest else version_converter.convert_version(model, opset)


_WAY_OUT = (
    "Give the layer a quantized form or a rule (`keras_quant.onnx.register_lowering`), or write it with other `keras.ops`."
)


def _traced(function, arguments):
    """Call it without XLA, which Keras asks for in grouped convolutions and which tf2onnx cannot look into."""
    with mock.patch.object(tf, "function", lambda function=None, **_: function or (lambda inner: inner)):
        return function(*arguments)


def _erfc(context, node, name, args):
    """`1 - erf(x)`: tf2onnx knows erf only, which GELU is written without."""
    from tf2onnx import utils

    dtype = utils.map_onnx_to_numpy_type(context.get_dtype(node.output[0]))
    one = context.make_const(f"{node.name}/one", np.array(1.0, dtype)).output[0]
    erf = context.make_node("Erf", [node.input[0]]).output[0]
    node.type = "Sub"
    context.replace_inputs(node, [one, erf])


def _frozen(function, specs):
    """The graph of a function with its variables as constants; the names of its inputs and outputs.

    tf2onnx's own `from_function` takes tensors that the function finds around it for inputs.
    """
    wrapped = tf.function(lambda *x: [tf.identity(y) for y in function(*x)], input_signature=specs, autograph=False)
    frozen = convert_variables_to_constants_v2(wrapped.get_concrete_function(), lower_control_flow=False)
    given = [tensor.name for tensor in frozen.inputs[: len(specs)]]
    return frozen.graph.as_graph_def(), given, [tensor.name for tensor in frozen.outputs]


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
