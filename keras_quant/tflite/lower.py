"""Leaf graph of a quantized model → operators: the driver, and the registry of rules."""

import dataclasses

import numpy as np
from keras import ops, tree

from keras_quant.errors import CalibrationError, ExportError
from keras_quant.graph import trace
from keras_quant.graph.graph import Value
from keras_quant.integer import QuantParams
from keras_quant.layers import QuantLayer
from keras_quant.tflite.writer import TensorType, Writer

_RULES = {}


def register_lowering(*classes):
    """Decorator: the function is the rule by which `export` turns these quantized layers into TFLite operators.

    A rule takes `(lowering, layer, inputs, output)`: the `Lowering`, the layer, its input `Tensor`s (one, or a list as the
    layer takes them) and an `Output`, and returns the `Tensor` that holds the result.

        @keras_quant.register_lowering(QuantMyLayer)
        def my_layer(lowering, layer, x, output):
            y = lowering.activation(output)
            lowering.operator("NEG", [x], y, version=1, since=(1, 14, 0))
            return y

    Args:
        *classes: subclasses of `keras_quant.layers.QuantLayer`; theirs are included.
    """

    def decorate(rule):
        for cls in classes:
            _RULES[cls] = rule
        return rule

    return decorate


# What this package's own rules use.
lowers = register_lowering


@dataclasses.dataclass(frozen=True)
class Output:
    """What a rule is to produce.

    Attributes:
        name: of the tensor: the layer's path.
        shape: without the batch.
        params: `QuantParams` of its grid, as tensors.
    """

    name: str
    shape: tuple
    params: QuantParams


class Lowering:
    """A model being lowered: what rules write to.

    Attributes:
        writer: `Writer`.
        layers: dict from the name of each tensor to the path of the layer that it came from.
        tensors: dict from each `Value` of the graph to its `Tensor`.
    """

    def __init__(self, batch_size):
        self.writer = Writer(batch_size)
        self.layers = {}
        self.tensors = {}
        self.inputs = {}
        self.path = ""

    def activation(self, output, name=None, shape=None, params=None, kind=TensorType.INT8):
        """A new tensor of integers: the rule's output, or with `name` an intermediate one beside it."""
        params = params or output.params
        return self.writer.activation(
            f"{output.name}/{name}" if name else output.name,
            output.shape if shape is None else shape,
            ops.convert_to_numpy(params.scale),
            ops.convert_to_numpy(params.zero_point),
            kind,
        )

    def ints(self, output, name, values):
        """A constant int32 operand."""
        return self.writer.constant(f"{output.name}/{name}", np.asarray(values, np.int32))

    def operator(self, name, inputs, output, *args, **kwargs):
        """Add an operator, see `Writer.operator`."""
        self.writer.operator(name, inputs, output, *args, **kwargs)
        self.layers[output.name] = self.path

    def check_ratio(self, name, ratio, low, high):
        """Refuse scales that XNNPACK does not take; the built-in kernel would round otherwise than the model does."""
        if not low <= ratio < high:
            raise ExportError(
                f"Layer '{self.path}': {name} takes input scales from {low:g} to {high:g} times its output's, this one has "
                f"{ratio:g}. Calibrate with data on which the layer's output is not almost constant, or rescale its input."
            )

    def reshape(self, x, output, shape, name="reshape"):
        """RESHAPE to `shape` (without the batch), on the input's grid; nothing where the shape is right already."""
        if tuple(x.shape[1:]) == tuple(shape):
            return x
        params = QuantParams(x.scale, x.zero_point)
        made = self.activation(output, name, shape, params)
        first = -1 if self.writer.batch_size is None else self.writer.batch_size
        wanted = self.ints(output, f"{name}_shape", [first, *shape])
        self.operator("RESHAPE", [x, wanted], made, 1, (1, 5, 0), "ReshapeOptions", newShape=[first, *shape])
        return made


def lower(qmodel, batch_size=1):
    """Lower a quantized model.

    Args:
        qmodel: quantized `keras.Model` with its ranges set.
        batch_size: of the file; `None` leaves it resizable.

    Returns:
        The `Lowering` and the `Graph` it was made from.

    Raises:
        ExportError: for a layer without integer form.
        CalibrationError: for a layer whose range was never set.
    """
    graph = trace(qmodel, keep_float=True)
    check_layers(graph)
    check(qmodel, graph)
    lowering = Lowering(batch_size)
    for node in graph.nodes:
        lowering.path = node.path
        if _enters(node):
            _enter(node, lowering)
            continue
        inputs = tree.map_structure(lambda v: lowering.tensors[v] if isinstance(v, Value) else v, node.args[0])
        value = node.output
        output = Output(node.path, value.shape[1:], value.note.quantizer.params())
        lowering.tensors[value] = _rule(node)(lowering, node.operation, inputs, output)
    return lowering, graph


def _enters(node):
    return all(value.note is None for value in node.inputs)


def _enter(node, lowering):
    """A model's input: its tensor simply has the grid of the layer that quantizes it."""
    (value,) = node.inputs
    params = node.output.note.quantizer.params()
    scale, zero_point = (np.asarray(ops.convert_to_numpy(v)) for v in (params.scale, params.zero_point))
    known = lowering.inputs.get(value)
    if known is None:
        known = lowering.writer.activation(value.name, value.shape[1:], scale, zero_point)
        lowering.inputs[value] = known
    if (known.scale, known.zero_point) != (scale, zero_point):
        raise ExportError(
            f"Input '{value.name}' is quantized by two layers on different grids, the second in '{node.path}'. "
            "Put one `keras_quant.layers.Quantize` behind the Input and use its output."
        )
    lowering.tensors[node.output] = known


def _rule(node):
    return next((_RULES[cls] for cls in type(node.operation).__mro__ if cls in _RULES), None)


def without_rule(graph):
    """The nodes that no rule lowers: layers that compute in float, and quantized ones that have no rule."""
    return [n for n in graph.nodes if not isinstance(n.operation, QuantLayer) or (_rule(n) is None and not _enters(n))]


def check_layers(graph):
    """Refuse what `without_rule` finds.

    Raises:
        ExportError: with every such layer.
    """
    missing = without_rule(graph)
    bare = [n for n in missing if not isinstance(n.operation, QuantLayer)]
    if bare:
        raise ExportError(
            f"{_names(bare)} in float. Use its form in `keras_quant.layers`, pass the model to `keras_quant.quantize` "
            'first, register a form with `keras_quant.register_quantized_layer`, or export with `fallback="converter"`.'
        )
    if missing:
        raise ExportError(
            f"Layer {', '.join(map(_name, missing))} has no rule for lowering to TFLite operators. "
            'Register one with `keras_quant.register_lowering`, or export with `fallback="converter"`.'
        )


def _name(node):
    return f"'{node.path}' ({type(node.operation).__name__})"


def _names(nodes):
    return f"Layer {_name(nodes[0])} computes" if len(nodes) == 1 else f"Layers {', '.join(map(_name, nodes))} compute"


def check(qmodel, graph):
    """All else that can be wrong with the model, before anything is written."""
    for node in graph.nodes:
        for variable in getattr(node.operation, "variables", []):
            if not np.all(np.isfinite(ops.convert_to_numpy(variable))):
                raise ExportError(
                    f"Weight '{variable.name}' of layer '{node.path}' holds NaN or infinite values. "
                    "Train again from an earlier checkpoint."
                )
        if any(v.note is not None and not v.note.quantizer.is_set for v in tree.flatten(node.outputs)):
            raise CalibrationError(
                f"The range of layer '{node.path}' was never set. Call `keras_quant.calibrate` with data, or `fit`, first."
            )
    unread = [v.name for v in graph.inputs if not any(v in node.inputs for node in graph.nodes)]
    if unread:
        raise ExportError(f"Input '{unread[0]}' of model '{qmodel.name}' is not used. Leave it out of the model.")
    outputs = tree.flatten(graph.outputs)
    bare = [v.name for v in outputs if v.note is None]
    if bare:
        raise ExportError(f"Output '{bare[0]}' of model '{qmodel.name}' is an input passed through unchanged. Leave it out.")
