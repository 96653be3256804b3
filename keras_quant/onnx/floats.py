"""Float arithmetic as ONNX nodes, by tf2onnx: float layers between quantized ones, and float models whole."""

import contextlib
import logging
import re
from unittest import mock

import keras
import numpy as np
import tensorflow as tf
from onnx import defs, version_converter
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from keras_quant.errors import ExportError
from keras_quant.onnx.builder import bodies_of
from keras_quant.onnx.large import fill

# What TensorFlow takes as a scope's name, which begins with no "_" either.
_NOT_IN_A_SCOPE = re.compile(r"^_|[^A-Za-z0-9_.\\/-]")
# The newest opset that tf2onnx 1.16 and 1.17 write; `onnx.version_converter` does the rest.
NEWEST_OF_TF2ONNX = 18
_WAY_OUT = (
    "Give the layer a quantized form or a rule (`keras_quant.onnx.register_lowering`), or write it with other `keras.ops`."
)


class Layers:
    """Which of TensorFlow's operations come from which layer.

    Args:
        path: of the layer that those outside of all scopes come from.
    """

    def __init__(self, path):
        self.path, self._paths = path, {}

    @contextlib.contextmanager
    def scope(self, path):
        """A context in which TensorFlow's operations bear a layer path, and errors name it."""
        try:
            with tf.name_scope(_NOT_IN_A_SCOPE.sub(".", path)) as scope:
                self._paths[scope] = path
                yield
        except Exception as error:  # whatever layers trip over
            raise _cannot(path, error) from error

    def split(self, name):
        """The layer path of an operation, and the rest of its name; `None` and the name of one outside of all scopes."""
        scope = max((scope for scope in self._paths if name.startswith(scope)), key=len, default=None)
        return (None, name) if scope is None else (self._paths[scope], name[len(scope) :])


def convert(function, values, specs, builder, layers, weights=()):
    """Add the nodes of a float function to a graph.

    Args:
        function: tensors → list of tensors.
        values: names of the values in the graph that it takes.
        specs: a shape, with the batch, and a dtype for each of them.
        builder: `Builder`.
        layers: `Layers` whose scopes the function enters.
        weights: Keras variables that are too large for TensorFlow to hold as constants.

    Returns:
        Names of the values that it makes.
    """
    inputs = [(f"input_{i}", *spec) for i, spec in enumerate(specs)]
    inputs += [(f"weight_{i}", tuple(v.shape), v.dtype) for i, v in enumerate(weights)]
    graph = to_onnx(_with_weights(function, weights), inputs, builder.opset, layers).graph
    names = {info.name: value for info, value in zip(graph.input, values)}
    held = fill(graph, {info.name: variable for info, variable in zip(graph.input[len(values) :], weights)})
    for name in list(held):
        names[name] = builder.constant(f"{layers.path}/{name}", held.pop(name))
    _name_values(graph, builder, layers, names)
    builder.initializers |= {tensor.name: tensor for tensor in graph.initializer}
    makers = {}
    for node in graph.node:
        path, rest = layers.split(node.name)
        path = path or next((makers[name] for name in node.input if name in makers), layers.path)
        makers |= dict.fromkeys(node.output, path)
        node.name = builder.unique(f"{path}/{rest.removeprefix(f'{path}/')}")
        builder.paths[node.name] = path
        builder.nodes.append(node)
    return [names[info.name] for info in graph.output]


def _with_weights(function, weights):
    """The function with the values of some variables as further arguments."""
    if not weights:
        return function

    def with_weights(*arguments):
        inputs, values = arguments[: -len(weights)], arguments[-len(weights) :]
        with keras.StatelessScope(list(zip(weights, values))):
            return function(*inputs)

    return with_weights


def _name_values(graph, builder, layers, names):
    """Give every value of a graph a name that is free; `names` has those from around it, and gets them."""
    own = [*(tensor.name for tensor in graph.initializer), *(name for node in graph.node for name in node.output)]
    for name in filter(None, own):
        path, rest = layers.split(name)
        names[name] = builder.unique(f"{path or layers.path}/{rest}")
    for tensor in graph.initializer:
        tensor.name = names[tensor.name]
    for node in graph.node:
        for body in bodies_of(node):
            _name_values_of_body(body, builder, layers, dict(names))
        node.input[:] = [names[name] if name else "" for name in node.input]
        node.output[:] = [names[name] if name else "" for name in node.output]


def _name_values_of_body(graph, builder, layers, names):
    """The body of a loop or a branch, which reads what is around it, too."""
    names |= {info.name: builder.unique(f"{layers.path}/{info.name}") for info in graph.input}
    _name_values(graph, builder, layers, names)
    for info in (*graph.input, *graph.output, *graph.value_info):
        info.name = names.get(info.name, info.name)


def to_onnx(function, inputs, opset, layers):
    """Convert a function of tensors.

    Args:
        function: tensors → list of tensors.
        inputs: a name, a shape with the batch, and a dtype for each tensor.
        opset: of the result.
        layers: `Layers`.

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
        with _quiet(), _transposes_left_alone():
            model, _ = tf2onnx.convert.from_graph_def(
                definition, input_names=names, output_names=outputs, opset=lowest, custom_op_handlers={"Erfc": (_erfc, [])}
            )
    except ExportError:
        raise
    except Exception as error:  # whatever tf2onnx and TensorFlow trip over
        raise _cannot(layers.path, error) from error
    foreign = next((node for node in model.graph.node if not node.domain and not defs.has(node.op_type)), None)
    if foreign is not None:
        path = layers.split(foreign.name)[0] or layers.path
        raise ExportError(f"tf2onnx has no ONNX form for TensorFlow's {foreign.op_type} in '{path}'. {_WAY_OUT}")
    _widen_transposed_convolutions(model.graph)
    return model if opset == lowest else version_converter.convert_version(model, opset)


def _cannot(path, error):
    cause = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return ExportError(f"tf2onnx cannot convert '{path}': {cause.rstrip('.')}. {_WAY_OUT}")


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


def _widen_transposed_convolutions(graph):
    """Zeros behind the output where tf2onnx asks for negative padding, half of it on each side.

    Where strides leave places that no tap reaches, TensorFlow has them all at the end.
    """
    for node in graph.node:
        pads = next((a for a in node.attribute if node.op_type == "ConvTranspose" and a.name == "pads"), None)
        if pads is None or min(pads.ints) >= 0:
            continue
        count = len(pads.ints) // 2
        totals = [before + after for before, after in zip(pads.ints[:count], pads.ints[count:])]
        pads.ints[:] = [0 if totals[i % count] < 0 else size for i, size in enumerate(pads.ints)]
        node.attribute.add(name="output_padding", type=7, ints=[max(-total, 0) for total in totals])


def _frozen(function, specs):
    """The graph of a function with its variables as constants; the names of its inputs and outputs.

    tf2onnx's own `from_function` takes tensors that the function finds around it for inputs.
    """
    wrapped = tf.function(lambda *x: [tf.identity(y) for y in function(*x)], input_signature=specs, autograph=False)
    frozen = convert_variables_to_constants_v2(wrapped.get_concrete_function(), lower_control_flow=False)
    given = [tensor.name for tensor in frozen.inputs[: len(specs)]]
    return frozen.graph.as_graph_def(), given, [tensor.name for tensor in frozen.outputs]


def _transposes_left_alone():
    """A context in which tf2onnx makes no reshapes of transposes along axes of one.

    It goes by shapes that it mistakes where it has moved a transpose behind a square (1.16 and 1.17): a LayerNormalization
    of an image of one pixel came out wrong.
    """
    from tf2onnx.optimizer.transpose_optimizer import TransposeOptimizer

    return mock.patch.object(TransposeOptimizer, "post_optimize_action", lambda _: None)


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
