"""Leaf graph of a quantized model → operators: the driver, and the registry of rules."""

import dataclasses

import numpy as np
from keras import ops, tree

from keras_quant.errors import CalibrationError, ExportError
from keras_quant.graph import trace
from keras_quant.graph.graph import Value
from keras_quant.graph.rules import Rules
from keras_quant.integer import QuantParams
from keras_quant.integer.params import INT8, INT16
from keras_quant.layers import Quantize, QuantLayer, is_quantized
from keras_quant.tflite.ends import input_tensor
from keras_quant.tflite.float_fold import fold_float
from keras_quant.tflite.writer import Tensor, TensorType, Writer

_RULES = Rules()
_KINDS = {"int8": TensorType.INT8, "int16": TensorType.INT16}


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

    return _RULES.register(*classes)


# What this package's own rules use.
lowers = register_lowering


def lowers_float(*classes):
    """Decorator: the function is the rule for float layers or operations of exactly these classes.

    It takes what other rules do; its inputs are `Tensor`s of real numbers, or constant arrays, always in a list.
    """

    return _RULES.register_float(*classes)


@dataclasses.dataclass(frozen=True)
class Output:
    """What a rule is to produce.

    Attributes:
        name: of the tensor: the layer's path.
        shape: without the batch.
        params: `QuantParams` of its grid, as tensors; `None` for real numbers.
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
        inputs: dict from the graph's inputs to the file's.
        input_type: wanted of the file's inputs, see `keras_quant.export`.
    """

    def __init__(self, batch_size, input_type=None):
        self.writer = Writer(batch_size)
        self.layers = {}
        self.tensors = {}
        self.inputs, self.entrances = {}, {}
        self.input_type = input_type
        self.path = ""
        self.moved = {}

    def activation(self, output, name=None, shape=None, params=None, kind=None):
        """A new tensor on the output's grid: the rule's output, or with `name` an intermediate one beside it."""
        params = params or output.params
        name = f"{output.name}/{name}" if name else output.name
        shape = output.shape if shape is None else shape
        if params is None:
            return self.writer.real(name, shape)
        return self.writer.activation(
            name,
            shape,
            ops.convert_to_numpy(params.scale),
            ops.convert_to_numpy(params.zero_point),
            _KINDS[params.type.storage] if kind is None else kind,
        )

    def real(self, x):
        """The real numbers of a tensor, by DEQUANTIZE if it holds integers; once for all who read them."""
        if not isinstance(x, Tensor) or x.is_real:
            return x
        if (x.index, "real") not in self.moved:
            y = self.writer.real(f"{x.name}/dequantized", x.shape[1:], self.rows_of(x))
            self.operator("DEQUANTIZE", [x], y, *((3, (2, 1, 0)) if x.kind == TensorType.INT16 else (2, (1, 14, 0))))
            self.moved[x.index, "real"] = y
        return self.moved[x.index, "real"]

    def quantized(self, x, y):
        """QUANTIZE `x` onto the grid of the new tensor `y`; the one that is there already if another asked for it."""
        key = x.index, float(y.scale), y.zero_point, y.kind
        if key not in self.moved:
            self.operator(
                "QUANTIZE", [x], y, *((2, (2, 2, 0)) if y.kind == TensorType.INT16 else (1, (1, 14, 0))), "QuantizeOptions"
            )
            self.moved[key] = y
        return self.moved[key]

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
        if tuple(x.shape[1:]) == tuple(shape) and self.rows_of(x) == self.writer.rows:
            return x
        made = self.activation(output, name, shape, params_of(x))
        first = self.writer.first(self.writer.rows)
        wanted = self.ints(output, f"{name}_shape", [first, *shape])
        self.operator("RESHAPE", [x, wanted], made, 1, (1, 5, 0), "ReshapeOptions", newShape=[first, *shape])
        return made

    def rows_of(self, x):
        """How many rows of a tensor there are for each sample."""
        return x.shape[0] // (self.writer.batch_size or 1)


def params_of(x):
    """`QuantParams` of a file's tensor; `None` for one of real numbers."""
    if x.is_real:
        return None
    scale, zero_point = ops.convert_to_tensor(x.scale), ops.convert_to_tensor(np.float32(x.zero_point))
    return QuantParams(scale, zero_point, INT16 if x.kind == TensorType.INT16 else INT8)


def lower(qmodel, batch_size=1, input_type=None):
    """Lower a quantized model.

    Args:
        qmodel: quantized `keras.Model` with its ranges set.
        batch_size: of the file; `None` leaves it resizable.
        input_type: of the file, see `keras_quant.export`.

    Returns:
        The `Lowering` and the `Graph` it was made from.

    Raises:
        ExportError: for a layer without integer form.
        CalibrationError: for a layer whose range was never set.
    """
    graph = trace(qmodel, keep_float=True)
    check_layers(qmodel, graph)
    check(qmodel, graph)
    graph = fold_float(graph)
    lowering = Lowering(batch_size, input_type)
    entered = set() if input_type == "float32" else _entered(graph)
    for value in graph.inputs:
        if value not in entered:
            lowering.tensors[value] = lowering.inputs[value] = lowering.writer.real(value.name, value.shape[1:])
    for node in graph.nodes:
        lowering.path, lowering.writer.rows = node.path, tree.flatten(node.outputs)[0].rows
        if any(value in entered for value in node.inputs):
            _enter(node, lowering)
        elif isinstance(node.operation, QuantLayer):
            _lower_quantized(node, lowering)
        else:
            _lower_float(node, lowering)
    return lowering, graph


def _lower_quantized(node, lowering):
    inputs = tree.map_structure(lambda v: lowering.tensors[v] if isinstance(v, Value) else v, node.args[0])
    value = node.output
    params = value.note.quantizer.params()
    output = Output(node.path, value.shape[1:], params.stored if node.operation.keeps_grid else params.kernel)
    made = _rule(node)(lowering, node.operation, inputs, output)
    lowering.tensors[value] = made if node.operation.keeps_grid else _clamped(lowering, made, output, params)


def _clamped(lowering, x, output, params):
    """A tensor narrower than 8 bits after its lower clamp as well, see `QuantParams.kernel`."""
    return x if params.is_full else lowering.quantized(x, lowering.activation(output, "clamped", params=params.stored))


def _lower_float(node, lowering):
    fill = lambda v: lowering.real(lowering.tensors[v]) if isinstance(v, Value) else v
    arguments = [fill(x) for x in tree.flatten(node.args) if x is not None]
    output = Output(node.path, node.output.shape[1:], None)
    lowering.tensors[node.output] = _rule(node)(lowering, node.operation, arguments, output)


def _entered(graph):
    """The inputs whose tensors in the file are integers: those that only quantized layers of one width read."""
    readers = graph.consumers()
    entered = set()
    for value in graph.inputs:
        nodes = readers.get(value, [])
        quantized = all(node is not None and isinstance(node.operation, Quantize) for node in nodes)
        if nodes and quantized and len({node.output.note.quantizer.type.storage for node in nodes}) == 1:
            entered.add(value)
    return entered


def _enter(node, lowering):
    """A model's input: its tensor simply has the grid of the layer that quantizes it."""
    (value,) = node.inputs
    grid = node.output.note.quantizer.params()
    params = grid.kernel
    scale, zero_point = (np.asarray(ops.convert_to_numpy(v)) for v in (params.scale, params.zero_point))
    if value not in lowering.entrances:
        lowering.inputs[value], lowering.entrances[value] = input_tensor(
            lowering, value.name, value.shape[1:], scale, int(zero_point), _KINDS[grid.type.storage]
        )
    known = lowering.entrances[value]
    if (known.scale, known.zero_point) != (scale, zero_point):
        raise ExportError(
            f"Input '{value.name}' is quantized by two layers on different grids, the second in '{node.path}'. "
            "Put one `keras_quant.layers.Quantize` behind the Input and use its output."
        )
    lowering.tensors[node.output] = _clamped(lowering, known, Output(value.name, value.shape[1:], params), grid)


def _rule(node):
    return _RULES.of(node.operation)


def lowers_in_float(operation):
    """Whether a rule lowers a float layer or operation."""
    return not isinstance(operation, QuantLayer) and _RULES.of(operation) is not None


def without_rule(graph):
    """The nodes that no rule lowers: layers that compute in float, and quantized ones that have no rule."""
    return [n for n in graph.nodes if _rule(n) is None]


def check_layers(qmodel, graph):
    """Refuse what `without_rule` finds, and a float model that nobody passed to `quantize`.

    Raises:
        ExportError: with every such layer.
    """
    missing = without_rule(graph)
    if not is_quantized(qmodel):
        missing = graph.nodes
    bare = [n for n in missing if not isinstance(n.operation, QuantLayer)]
    if bare:
        raise ExportError(
            f"{_names(bare, 'computes', 'compute')} in float. Pass the model to `keras_quant.quantize` first, use layers of "
            "`keras_quant.layers`, register quantized ones with `keras_quant.register_quantized_layer`, or export with "
            '`fallback="converter"`.'
        )
    if missing:
        raise ExportError(
            f"{_names(missing, 'has', 'have')} no rule for lowering to TFLite operators. "
            'Register one with `keras_quant.register_lowering`, or export with `fallback="converter"`.'
        )


def _name(node):
    return f"'{node.path}' ({type(node.operation).__name__})"


def _names(nodes, one, several):
    """The layers with what they do, a verb in singular and plural."""
    return f"Layer{'s' * (len(nodes) > 1)} {', '.join(map(_name, nodes))} {several if len(nodes) > 1 else one}"


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
    bare = [v.name for v in outputs if v in graph.inputs]
    if bare:
        raise ExportError(f"Output '{bare[0]}' of model '{qmodel.name}' is an input passed through unchanged. Leave it out.")
