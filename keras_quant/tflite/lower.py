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


def lowers(*classes):
    """Decorator: the function lowers these quantized layer classes.

    A rule takes `(lowering, layer, inputs, output)`: the `Lowering`, the layer, its input `Tensor`s (one, or a list as the
    layer takes them) and an `Output`, and returns the `Tensor` that holds the result.
    """

    def decorate(rule):
        for cls in classes:
            _RULES[cls] = rule
        return rule

    return decorate


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
    graph = trace(qmodel)
    _check(qmodel, graph)
    lowering = Lowering(batch_size)
    for node in graph.nodes:
        lowering.path = node.path
        if _is_entrance(node, lowering):
            _enter(node, lowering)
            continue
        inputs = tree.map_structure(lambda v: lowering.tensors[v] if isinstance(v, Value) else v, node.args[0])
        value = node.output
        output = Output(node.path, value.shape[1:], value.note.quantizer.params())
        lowering.tensors[value] = _rule(node)(lowering, node.operation, inputs, output)
    return lowering, graph


def _is_entrance(node, lowering):
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
    for cls in type(node.operation).__mro__:
        if cls in _RULES:
            return _RULES[cls]
    raise ExportError(f"Layer '{node.path}' ({type(node.operation).__name__}) has no rule for lowering to TFLite operators.")


def _check(qmodel, graph):
    """All that can be wrong with the model, before anything is written."""
    for node in graph.nodes:
        if not isinstance(node.operation, QuantLayer):
            raise ExportError(
                f"Layer '{node.path}' ({type(node.operation).__name__}) computes in float. Use its form in "
                "`keras_quant.layers`, or pass the model to `keras_quant.quantize` first."
            )
    for node in graph.nodes:
        for variable in node.operation.variables:
            if not np.all(np.isfinite(ops.convert_to_numpy(variable))):
                raise ExportError(
                    f"Weight '{variable.name}' of layer '{node.path}' holds NaN or infinite values. "
                    "Train again from an earlier checkpoint."
                )
        if not node.output.note.quantizer.is_set:
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
