"""Leaf graph of a quantized model → operators: the driver, and the registry of rules."""

import dataclasses
import functools

import numpy as np
from keras import ops, tree

from keras_quant.errors import CalibrationError, ExportError
from keras_quant.graph import trace
from keras_quant.graph.graph import Value
from keras_quant.graph.kinds import is_real
from keras_quant.graph.rules import Rules
from keras_quant.integer import QuantParams
from keras_quant.integer.params import INT8, INT16
from keras_quant.layers import Quantize, QuantLayer, is_quantized
from keras_quant.layers.loop import Loop
from keras_quant.layers.registry import integer_slots
from keras_quant.tflite.ends import input_tensor
from keras_quant.tflite.float_fold import fold_float
from keras_quant.tflite.parts import parts_of
from keras_quant.tflite.writer import KINDS, Tensor, TensorType, Writer

_RULES, _TAKES_GRIDS = Rules(), set()
NAMES = {kind: name for name, kind in KINDS.items()}


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


def lowers_float(*classes, takes_grids=False):
    """Decorator: the function is the rule for float layers or operations of exactly these classes.

    It takes what other rules do; its inputs are `Tensor`s, or constant arrays, always in a list. Where the output is of
    real numbers, so are the tensors; where it is of integers or booleans, those that hold such are left as they are.

    Args:
        *classes: of layers or `keras.ops` operations.
        takes_grids: whether the rule does without the DEQUANTIZE of a tensor that lies on a grid.
    """
    if takes_grids:
        _TAKES_GRIDS.update(classes)
    return _RULES.register_float(*classes)


def lowers_real(*classes):
    """Decorator: the function is the rule by which these quantized layers, as parts of a float one, compute real numbers.

    It takes what rules do, but the `Output` lies on no grid. Layers without such a rule take that of their Keras class, and
    those that only move data their own.
    """
    return _RULES.register_real(*classes)


@dataclasses.dataclass(frozen=True)
class Output:
    """What a rule is to produce.

    Attributes:
        name: of the tensor: the layer's path.
        shape: without the batch.
        params: `QuantParams` of its grid, as tensors; `None` for real numbers, and for integers and booleans on none.
        dtype: of the Keras tensor, where there is no grid.
        rows: how many places of the first dimension a sample takes: the images of a volume, say, that lie in the batch.
    """

    name: str
    shape: tuple
    params: QuantParams
    dtype: str = "float32"
    rows: int = 1

    @property
    def kind(self):
        """The `TensorType` of a tensor on no grid."""
        return TensorType.FLOAT32 if "float" in self.dtype else KINDS[self.dtype]


class Lowering:
    """A model being lowered: what rules write to.

    Attributes:
        writer: `Writer`.
        layers: dict from the name of each tensor to the path of the layer that it came from.
        tensors: dict from each `Value` of the graph to its `Tensor`.
        inputs: dict from the graph's inputs to the file's.
        input_type: wanted of the file's inputs, see `keras_quant.export`.
        resizable: whether the runtime may resize the file's inputs: rules then choose forms that hold no sizes.
        path_of: function of a node's path → the one that reports name it by.
        is_exact_in_float: whether a quantized layer computes with float32 operators, which half precision would round.
    """

    def __init__(self, batch_size, input_type=None, resizable=False):
        self.writer = Writer(batch_size)
        self.resizable = resizable
        self.layers = self.writer.layers = {}
        self.tensors = {}
        self.inputs, self.entrances = {}, {}
        self.input_type = input_type
        self.path, self.path_of = "", lambda path: path
        self.moved = {}
        self.is_exact_in_float = False

    def activation(self, output, name=None, shape=None, params=None, kind=None):
        """A new tensor on the output's grid: the rule's output, or with `name` an intermediate one beside it."""
        params = params or output.params
        name = f"{output.name}/{name}" if name else output.name
        shape = output.shape if shape is None else shape
        if params is None:
            kind = output.kind if kind is None else kind
            make = self.writer.real if kind == TensorType.FLOAT32 else functools.partial(self.writer.integers, kind=kind)
            return make(name, shape, rows=output.rows)
        return self.writer.activation(
            name,
            shape,
            ops.convert_to_numpy(params.scale),
            ops.convert_to_numpy(params.zero_point),
            KINDS[params.type.storage] if kind is None else kind,
            output.rows,
        )

    def real(self, x):
        """The real numbers of a tensor, by DEQUANTIZE or CAST if it holds integers; once for all who read them."""
        if not isinstance(x, Tensor) or x.is_real:
            return x
        if x.scale is None:
            return self.cast(x, TensorType.FLOAT32)
        if (x.index, "real") not in self.moved:
            y = self.writer.real(f"{x.name}/dequantized", x.shape[1:], self.rows_of(x))
            self.operator("DEQUANTIZE", [x], y, *((3, (2, 1, 0)) if x.kind == TensorType.INT16 else (2, (1, 14, 0))))
            self.moved[x.index, "real"] = y
        return self.moved[x.index, "real"]

    def cast(self, x, kind):
        """CAST a tensor on no grid to another `TensorType`; once for all who want it."""
        if x.kind == kind:
            return x
        if (x.index, kind) not in self.moved:
            like = Output(f"{x.name}/{NAMES[kind]}", x.shape[1:], None, rows=self.rows_of(x))
            y = self.activation(like, kind=kind)
            self.operator("CAST", [x], y, 1, (1, 5, 0), "CastOptions", inDataType=x.kind, outDataType=kind)
            self.moved[x.index, kind] = y
        return self.moved[x.index, kind]

    def quantized(self, x, y):
        """QUANTIZE `x` onto the grid of the new tensor `y`; the one that is there already if another asked for it."""
        x = self.real(x) if x.scale is None else x
        key = x.index, float(y.scale), y.zero_point, y.kind
        if key not in self.moved:
            self.operator(
                "QUANTIZE", [x], y, *((2, (2, 2, 0)) if y.kind == TensorType.INT16 else (1, (1, 14, 0))), "QuantizeOptions"
            )
            self.moved[key] = y
        return self.moved[key]

    def rows_of(self, x):
        """How many places of the first dimension of a tensor a sample takes."""
        return x.shape[0] // (self.writer.batch_size or 1)

    def ints(self, output, name, values):
        """A constant int32 operand."""
        return self.writer.constant(f"{output.name}/{name}", np.asarray(values, np.int32))

    def operator(self, name, inputs, output, *args, **kwargs):
        """Add an operator, see `Writer.operator`."""
        self.writer.operator(name, inputs, output, *args, **kwargs)
        for made in output if isinstance(output, list) else [output]:
            self.layers[made.name] = self.path

    def check_ratio(self, name, ratio, low, high):
        """Refuse scales that XNNPACK does not take; the built-in kernel would round otherwise than the model does."""
        if not low <= ratio < high:
            raise ExportError(
                f"Layer '{self.path}': {name} takes input scales from {low:g} to {high:g} times its output's, this one has "
                f"{ratio:g}. Calibrate with data on which the layer's output is not almost constant, or rescale its input."
            )

    def reshape(self, x, output, shape, name="reshape", into=None):
        """RESHAPE to `shape` (without the batch), on the input's grid; nothing where the shape is right already.

        `into` is the `Tensor` that it makes, where there is one.
        """
        if tuple(x.shape) == ((self.writer.batch_size or 1) * output.rows, *shape):
            return x
        # A tensor on no grid stays on none, whatever grid the output has.
        on = dataclasses.replace(output, params=params_of(x))
        made = into or self.activation(on, name, shape, kind=x.kind)
        first = -1 if self.writer.batch_size is None else made.shape[0]
        wanted = self.ints(output, f"{name}_shape", [first, *shape])
        self.operator("RESHAPE", [x, wanted], made, 1, (1, 5, 0), "ReshapeOptions", newShape=[first, *shape])
        return made


def params_of(x):
    """`QuantParams` of a file's tensor; `None` for one on no grid."""
    if x.scale is None:
        return None
    scale, zero_point = ops.convert_to_tensor(x.scale), ops.convert_to_tensor(np.float32(x.zero_point))
    return QuantParams(scale, zero_point, INT16 if x.kind == TensorType.INT16 else INT8)


def lower(qmodel, batch_size=1, input_type=None, resizable=False):
    """Lower a quantized model.

    Args:
        qmodel: quantized `keras.Model` with its ranges set.
        batch_size: of the file; `None` leaves it resizable.
        input_type: of the file, see `keras_quant.export`.
        resizable: whether the file's inputs are, in other dimensions than the batch.

    Returns:
        The `Lowering` and the `Graph` it was made from.

    Raises:
        ExportError: for a layer without integer form.
        CalibrationError: for a layer whose range was never set.
    """
    graph = checked_graph(qmodel)
    lowering = Lowering(batch_size, input_type, resizable)
    lower_graph(lowering, graph)
    return lowering, graph


def checked_graph(qmodel):
    """The `Graph` of a quantized model that can be lowered; raises as `lower` does."""
    graph = trace(qmodel, keep_float=True)
    check_layers(qmodel, graph)
    check(qmodel, graph)
    return fold_float(graph)


def lower_graph(lowering, graph):
    """Write a graph's inputs and operators to a `Lowering`."""
    entered = set() if lowering.input_type == "float32" else _entered(graph)
    for value in graph.inputs:
        if value not in entered:
            given = Output(value.name, value.shape[1:], None, _given_dtype(value, graph))
            lowering.tensors[value] = lowering.inputs[value] = lowering.activation(given)
    lower_nodes(lowering, graph.nodes, entered)


def lower_nodes(lowering, nodes, entered=()):
    """Write the operators of nodes, whose inputs are in `lowering.tensors`.

    Args:
        lowering: `Lowering`.
        nodes: of a quantized model's `Graph`.
        entered: its inputs whose tensors in the file are integers.
    """
    for node in nodes:
        lowering.path = lowering.path_of(node.path)
        if any(value in entered for value in node.inputs):
            _enter(node, lowering)
        elif isinstance(node.operation, Loop):
            _lower_loop(node, lowering)
        elif isinstance(node.operation, QuantLayer):
            _lower_quantized(node, lowering)
        else:
            _lower_float(node, lowering)


def _lower_loop(node, lowering):
    flat = tree.flatten(node.outputs)
    params = [None if v.note is None else v.note.quantizer.params().stored for v in flat]
    outputs = [Output(node.path, v.shape[1:], p, v.dtype, v.rows) for v, p in zip(flat, params)]
    inputs = [lowering.tensors[v] for v in node.inputs]
    lowering.is_exact_in_float = True
    lowering.tensors.update(zip(flat, _RULES.of(node.operation)(lowering, node.operation, inputs, outputs)))


def _lower_quantized(node, lowering):
    inputs = tree.map_structure(lambda v: lowering.tensors[v] if isinstance(v, Value) else v, node.args[0])
    value = node.output
    params = value.note.quantizer.params()
    grid = params.stored if node.operation.keeps_grid else params.kernel
    output = Output(node.path, value.shape[1:], grid, rows=value.rows)
    known = len(lowering.writer.graph.tensors)
    made = _RULES.of(node.operation)(lowering, node.operation, inputs, output)
    lowering.is_exact_in_float |= any(t.type == TensorType.FLOAT32 for t in lowering.writer.graph.tensors[known:])
    lowering.tensors[value] = made if node.operation.keeps_grid else _clamped(lowering, made, output, params)


def _clamped(lowering, x, output, params):
    """A tensor narrower than 8 bits after its lower clamp as well, see `QuantParams.kernel`."""
    return x if params.is_full else lowering.quantized(x, lowering.activation(output, "clamped", params=params.stored))


def _lower_float(node, lowering, owner=None):
    """Lower a node that computes in float; `owner` is the one whose part it is, if any."""
    rule = _float_rule(node)
    if rule is None:
        for part in parts_of(node).nodes:
            _lower_float(part, lowering, node)
        lowering.tensors[node.output] = lowering.tensors[parts_of(node).outputs]
        return
    value, whole = node.output, node.output if owner is None else owner.output
    layer, arguments = node.operation, _real_arguments(node, lowering, is_real(whole))
    dtype = whole.dtype if isinstance(layer, QuantLayer) else value.dtype
    output = Output(node.path, value.shape[1:], None, dtype, value.rows if owner is None else whole.rows * value.rows)
    lowering.tensors[value] = rule(lowering, layer, arguments, output)


def _real_arguments(node, lowering, makes_real):
    """What a rule of real numbers is called with: those of a quantized layer in its structure, others in a list."""
    slots, takes_grids = integer_slots(node.operation), type(node.operation) in _TAKES_GRIDS

    def fill(x):
        if not isinstance(x, Value):
            return x
        tensor = lowering.tensors[x]
        as_it_is = not makes_real or node.inputs.index(x) in slots
        return tensor if takes_grids or (as_it_is and tensor.scale is None) else lowering.real(tensor)

    if isinstance(node.operation, QuantLayer):
        return tree.map_structure(fill, node.args[0])
    return [fill(x) for x in tree.flatten(node.args) if x is not None]


def _given_dtype(value, graph):
    """The dtype of a file's input that lies on no grid: integers and booleans where they are read as such."""
    readers = [node for node in graph.nodes if value in node.inputs]
    indexing = [node for node in readers if _reads_integers(node, value)]
    if is_real(value):
        return "int32" if len(indexing) == len(readers) and readers else "float32"
    exact = [node for node in readers if not any(map(is_real, tree.flatten(node.outputs)))]
    return value.dtype if indexing or exact else "float32"


def _reads_integers(node, value):
    layer = node.operation
    slots = layer.integer_slots if isinstance(layer, QuantLayer) else integer_slots(layer)
    return all(slot in slots for slot, x in enumerate(node.inputs) if x is value)


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
            lowering, value.name, value.shape[1:], scale, int(zero_point), KINDS[grid.type.storage]
        )
    known = lowering.entrances[value]
    if (known.scale, known.zero_point) != (scale, zero_point):
        raise ExportError(
            f"Input '{value.name}' is quantized by two layers on different grids, the second in '{node.path}'. "
            "Put one `keras_quant.layers.Quantize` behind the Input and use its output."
        )
    lowering.tensors[node.output] = _clamped(lowering, known, Output(value.name, value.shape[1:], params), grid)


def _float_rule(node):
    """The rule for what a node computes in float; of a quantized layer that which it is a part of a float layer by."""
    layer = node.operation
    if not isinstance(layer, QuantLayer):
        return _RULES.of(layer)
    rule = _RULES.real(layer)
    return rule or (_RULES.of(layer) if layer.keeps_grid else None)


def _has_rule(node):
    if isinstance(node.operation, QuantLayer):
        return _RULES.of(node.operation) is not None
    return _RULES.of(node.operation) is not None or _is_taken_apart(node)


def _is_taken_apart(node):
    """Whether rules lower the parts of a float node."""
    graph = parts_of(node)
    return graph is not None and all(_float_rule(part) is not None for part in graph.nodes)


def rule_of_float(operation_class):
    """The rule of float layers or operations of a class, or `None`."""
    return _RULES.of_float(operation_class)


def lowers_in_float(operation):
    """Whether a rule lowers a float layer or operation."""
    return not isinstance(operation, QuantLayer) and _RULES.of(operation) is not None


def without_rule(graph):
    """The nodes that no rule lowers: layers that compute in float, and quantized ones that have no rule."""
    return [n for n in graph.nodes if not _has_rule(n)]


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
    _check_nodes(graph)
    unread = [v.name for v in graph.inputs if not any(v in node.inputs for node in graph.nodes)]
    if unread:
        raise ExportError(f"Input '{unread[0]}' of model '{qmodel.name}' is not used. Leave it out of the model.")
    outputs = tree.flatten(graph.outputs)
    bare = [v.name for v in outputs if v in graph.inputs]
    if bare:
        raise ExportError(f"Output '{bare[0]}' of model '{qmodel.name}' is an input passed through unchanged. Leave it out.")


def _check_nodes(graph):
    for node in graph.nodes:
        if isinstance(node.operation, Loop):
            _check_nodes(node.operation.traced.graph)
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
