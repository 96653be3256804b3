"""Leaf graph of a quantized model → ONNX nodes: the driver, and the registry of rules.

Every quantized tensor is a pair QuantizeLinear, DequantizeLinear; between pairs a rule writes plain float operators, which a
runtime fuses with the pairs around them into integer kernels. Integers are moved between layouts, never real numbers, so
that nothing comes between a pair and its operator.
"""

import dataclasses

import numpy as np
from keras import ops, tree

from keras_quant.errors import ExportError
from keras_quant.graph import trace
from keras_quant.graph.graph import Value
from keras_quant.integer import QuantParams
from keras_quant.integer.params import activation_range
from keras_quant.layers import Quantize, QuantLayer
from keras_quant.onnx.builder import DTYPES, Builder
from keras_quant.onnx.floats import convert, scope
from keras_quant.tflite.lower import Output, check

_RULES, _FLOAT_RULES = {}, {}
# The first opsets with integers of these widths in QuantizeLinear.
INT4_SINCE = INT16_SINCE = 21


def register_lowering(*classes):
    """Decorator: the function is the rule by which `export` turns these quantized layers into ONNX operators.

    A rule takes `(lowering, layer, inputs, output)`: the `Lowering`, the layer, its input `Tensor`s (one, or a list as the
    layer takes them) and an `Output`, and returns a `Made`, or a `Tensor` that holds the result already.

        @keras_quant.onnx.register_lowering(QuantMyLayer)
        def my_layer(lowering, layer, x, output):
            return Made(lowering.node("Neg", [lowering.real(x)]), x.first)

    A quantized layer without a rule is converted by tf2onnx from its `float_call`.

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


def lowers_float(*classes):
    """Decorator: the function is the rule for float layers of exactly these classes; other float layers go to tf2onnx."""

    def decorate(rule):
        _FLOAT_RULES.update((cls, rule) for cls in classes)
        return rule

    return decorate


@dataclasses.dataclass(frozen=True)
class Made:
    """What a rule wrote.

    Attributes:
        value: name of the value.
        first: whether it has its channels first.
        integers: whether it holds the output's integers already, rather than real numbers.
    """

    value: str
    first: bool = False
    integers: bool = False


@dataclasses.dataclass(eq=False)
class Tensor:
    """A tensor of the model.

    Attributes:
        path: of the layer that makes it, or the input's name.
        shape: without the batch, channels last.
        params: `QuantParams` of its grid; `None` for real numbers.
        first: whether the layer that made it left its channels first.
        values: dict from (integers, channels first) to the name of the value that holds it so.
        padded: `(Tensor, widths)` of a tensor that is another one with zeros around it.
        grid: names of scale and zero point, where the file has them.
    """

    path: str
    shape: tuple
    params: QuantParams | None
    first: bool
    values: dict
    padded: tuple | None = None
    grid: list | None = None

    @property
    def rank(self):
        """With the batch."""
        return len(self.shape) + 1

    @property
    def scale(self):
        """float32."""
        return np.float32(ops.convert_to_numpy(self.params.scale))


class Lowering:
    """A model being lowered: what rules write to.

    Attributes:
        builder: `Builder`.
        storage: type that holds integers of 8 bits: "uint8" or "int8".
        tensors: dict from each `Value` of the graph to its `Tensor`.
        given: dict from the names of inputs that are integers to their `Tensor`s.
        path: of the layer being lowered.
    """

    def __init__(self, opset, batch_size=None, storage="uint8"):
        self.builder = Builder(opset, batch_size)
        self.storage = storage
        self.tensors, self.given = {}, {}
        self.path = ""

    @property
    def opset(self):
        return self.builder.opset

    def node(self, operator, inputs, value=None, **attributes):
        """Add a node of the layer; returns the name of its output."""
        value = f"{self.path}/{value}" if value else None
        return self.builder.node(operator, inputs, self.path, value, **attributes)

    def constant(self, name, array):
        """Add a constant of the layer; returns its name."""
        return self.builder.constant(f"{self.path}/{name}", array)

    def ints(self, name, values):
        """Add an operand of int64, such as a shape."""
        return self.constant(name, np.asarray(values, np.int64))

    def dequantized(self, name, integers, scale, axis=None, bits=8):
        """Add constant integers with their DequantizeLinear; returns the name of the real numbers.

        Integers of 4 bits or fewer are packed where the opset can hold them, and a Cast to int8, which runtimes resolve
        when they load the file, stands before DequantizeLinear: ONNX Runtime has integer kernels for int8 only.

        Args:
            name: of the constant.
            integers: int8 or int32 array.
            scale: float32, a scalar or one for each place along `axis`.
            axis: that scales vary along.
            bits: that the integers need.
        """
        if bits <= 4 and self.opset >= INT4_SINCE:
            packed = self.builder.constant_int4(f"{self.path}/{name}", integers)
            held = self.node("Cast", [packed], f"{name}/int8", to=DTYPES["int8"])
        else:
            held = self.constant(name, integers)
        scale = np.asarray(scale, np.float32)
        operands = [held, self.constant(f"{name}/scale", scale)]
        operands.append(self.constant(f"{name}/zero_point", np.zeros(scale.shape, integers.dtype)))
        attributes = {"axis": axis} if scale.ndim else {}
        return self.node("DequantizeLinear", operands, f"{name}/dequantized", **attributes)

    def real(self, x, first=None):
        """The name of a tensor's real numbers, channels first or last; by default as its layer left them."""
        first = self._layout(x, first)
        if (False, first) not in x.values:
            if x.params is None:
                x.values[False, first] = self._transposed(x, x.values[False, not first], first)
            else:
                x.values[False, first] = self._dequantized(x, self.integers(x, first))
        return x.values[False, first]

    def integers(self, x, first=None):
        """As `real`, of its integers."""
        first = self._layout(x, first)
        if (True, first) not in x.values:
            x.values[True, first] = self._transposed(x, x.values[True, not first], first)
        return x.values[True, first]

    def _layout(self, x, first):
        return x.first if first is None or x.rank < 3 else first

    def _transposed(self, x, value, first):
        order = [0, x.rank - 1, *range(1, x.rank - 1)] if first else [0, *range(2, x.rank), 1]
        name = f"{x.path}/channels_{'first' if first else 'last'}"
        return self.builder.node("Transpose", [value], x.path, name, perm=order)

    def alike(self, tensors):
        """The names of the real numbers of several tensors in one layout, and whether it has channels first."""
        first = any(x.first for x in tensors) and len({x.rank for x in tensors}) == 1
        return [self.real(x, first) for x in tensors], first

    def grid(self, path, params):
        """Add the scale and zero point of a grid; returns their names."""
        scale, zero_point = (np.asarray(ops.convert_to_numpy(v)) for v in (params.scale, params.zero_point))
        storage = self.storage_of(params)
        if storage == "uint8":
            zero_point = zero_point + 128
        names = f"{path}/scale", f"{path}/zero_point"
        return [self.builder.constant(n, v) for n, v in zip(names, (np.float32(scale), zero_point.astype(storage)))]

    def storage_of(self, params):
        """Name of the type that holds a grid's integers."""
        if params.type.storage == "int8":
            return self.storage
        if self.opset < INT16_SINCE:
            raise ExportError(
                f"Layer '{self.path}' computes on int16, which QuantizeLinear has from opset {INT16_SINCE} on. Export with "
                f"`opset={INT16_SINCE}` or newer, or give the layer the policy 'int8'. Received: opset={self.opset}"
            )
        return params.type.storage

    def quantized(self, value, path, shape, params, first=False, padded=None):
        """A `Tensor` of real numbers put on a grid by QuantizeLinear."""
        grid, first = self.grid(path, params), first and len(shape) > 1
        made = self.builder.node("QuantizeLinear", [value, *grid], path, f"{path}/quantized")
        return Tensor(path, tuple(shape), params, first, {(True, first): made}, padded, grid)

    def _dequantized(self, x, value):
        x.grid = x.grid or self.grid(x.path, x.params)
        return self.builder.node("DequantizeLinear", [value, *x.grid], x.path, f"{x.path}/dequantized")

    def activate(self, value, bounds, y):
        """A fused activation, where the output's grid does not clamp as it does: through a pair on the same grid.

        So the operator before it has a pair of its own to fuse with.

        Args:
            value: name of real numbers.
            bounds: of the activation, see `integer.activation_range`.
            y: `QuantParams` of the output.
        """
        lowest, highest = (float(ops.convert_to_numpy(v)) for v in activation_range(y, bounds))
        low, high = (float(ops.convert_to_numpy(v)) for v in (y.low, y.high))
        if (lowest, highest) == (low, high):
            return value
        if y.type.storage == "int8":
            grid = self.grid(f"{self.path}/linear", y)
            value = self.node("QuantizeLinear", [value, *grid], "linear/quantized")
            value = self.node("DequantizeLinear", [value, *grid], "linear/dequantized")
        return self.clip(value, (lowest, highest), y)

    def clip(self, value, limits, y):
        """Real numbers clipped to two centred integers of a grid."""
        scale = float(ops.convert_to_numpy(y.scale))
        limits = [self.constant(n, np.float32(v * scale)) for n, v in zip(("lowest", "highest"), limits)]
        return self.node("Clip", [value, *limits])

    def reshape(self, value, shape):
        """RESHAPE; the batch is 0 for "as it is" or -1 for "what remains"."""
        return self.node("Reshape", [value, self.ints("shape", shape)])

    def function(self, function, values, shapes):
        """Convert a float function by tf2onnx.

        Args:
            function: float32 tensors → one float32 tensor.
            values: names of the real numbers that it takes.
            shapes: theirs, without the batch.

        Returns:
            The name of what it makes.
        """
        specs = [((self.builder.batch_size, *shape), "float32") for shape in shapes]
        return convert(lambda *x: [function(*x)], values, specs, self.builder, self.path)[0]


def lower(qmodel, opset, batch_size=None, storage="uint8", input_type=None):
    """Lower a quantized model.

    Args:
        qmodel: quantized `keras.Model` with its ranges set.
        opset: of the file.
        batch_size: of the file; `None` leaves it open.
        storage: "uint8" or "int8", what holds 8 bits.
        input_type: of the file, see `keras_quant.export`.

    Returns:
        The `Lowering` and the `Graph` it was made from.

    Raises:
        ExportError: for what the opset cannot say.
        CalibrationError: for a layer whose range was never set.
    """
    graph = trace(qmodel, keep_float=True)
    check(qmodel, graph)
    lowering = Lowering(opset, batch_size, storage)
    for value in graph.inputs:
        lowering.tensors[value] = _input(value, graph, lowering, input_type)
    for nodes in _runs(graph):
        lowering.path = nodes[0].path
        if isinstance(nodes[0].operation, QuantLayer):
            _lower_quantized(*nodes, lowering)
        elif _rule(nodes[0]) is not None:
            _lower_float(*nodes, lowering)
        else:
            _lower_island(nodes, graph, lowering)
    return lowering, graph


def _runs(graph):
    """The nodes, one at a time, but neighbours that tf2onnx converts together."""
    runs = []
    for node in graph.nodes:
        foreign = not isinstance(node.operation, QuantLayer) and _rule(node) is None
        if foreign and runs and runs[-1][1]:
            runs[-1][0].append(node)
        else:
            runs.append(([node], foreign))
    return [nodes for nodes, _ in runs]


def _input(value, graph, lowering, input_type):
    """A model's input: real numbers of the Keras type, or integers on the grid of the layer that quantizes it."""
    builder, shape = lowering.builder, value.shape[1:]
    lowering.path = value.name
    if input_type in (None, "float32"):
        dtype = "float32" if input_type or value.dtype not in DTYPES else value.dtype
        builder.input(value.name, shape, dtype)
        real = value.name
        if dtype != "float32":
            real = lowering.node("Cast", [value.name], "float32", to=DTYPES["float32"])
        return Tensor(value.name, shape, None, False, {(False, False): real})
    readers = [n for n in graph.nodes if value in n.inputs]
    grids = [n.output.note.quantizer.params().kernel for n in readers if isinstance(n.operation, Quantize)]
    steps = {(float(g.scale), float(g.zero_point), g.type.storage) for g in grids}
    if len(grids) != len(readers) or len(steps) != 1 or (grids[0].type.storage == "int16") != (input_type == "int16"):
        raise ExportError(
            f"Input '{value.name}' cannot be {input_type}: that takes layers that all quantize it alike, to as many bits. "
            f'Export with `input_type="float32"`. Received: input_type={input_type!r}'
        )
    integers = builder.input(value.name, shape, input_type)
    lowering.given[value.name] = given = Tensor(value.name, shape, grids[0], False, {(True, False): integers})
    if input_type in (lowering.storage, "int16"):
        return given
    scale, zero_point = (np.float32(ops.convert_to_numpy(v)) for v in (grids[0].scale, grids[0].zero_point))
    zero_point = (zero_point + (128 if input_type == "uint8" else 0)).astype(input_type)
    grid = [lowering.constant("given/scale", scale), lowering.constant("given/zero_point", zero_point)]
    real = lowering.node("DequantizeLinear", [integers, *grid], "given/dequantized")
    return Tensor(value.name, shape, None, False, {(False, False): real})


def _lower_quantized(node, lowering):
    inputs = tree.map_structure(lambda v: lowering.tensors[v] if isinstance(v, Value) else v, node.args[0])
    params = node.output.note.quantizer.params()
    layer = node.operation
    output = Output(node.path, node.output.shape[1:], params.stored if layer.keeps_grid else params.kernel)
    rule = _rule(node) or _by_tf2onnx
    made = rule(lowering, layer, inputs, output)
    lowering.tensors[node.output] = _clamped(_on_grid(made, output, lowering), params, layer, lowering)


def _on_grid(made, output, lowering):
    if isinstance(made, Tensor):
        return made
    if not made.integers:
        return lowering.quantized(made.value, output.name, output.shape, output.params, made.first)
    first = made.first and len(output.shape) > 1
    return Tensor(output.name, output.shape, output.params, first, {(True, first): made.value})


def _clamped(x, params, layer, lowering):
    """A tensor narrower than 8 bits after its lower clamp as well, see `QuantParams.kernel`."""
    if params.is_full or layer.keeps_grid:
        return x
    # On integers: of two pairs that follow one another ONNX Runtime would make one, on a third grid.
    lowest = int(ops.convert_to_numpy(params.low + params.kernel.zero_point)) + (128 if lowering.storage == "uint8" else 0)
    limit = lowering.constant("clamped/lowest", np.asarray(lowest, lowering.storage))
    integers = lowering.node("Clip", [lowering.integers(x), limit], "clamped/integers")
    above = Tensor(x.path, x.shape, x.params, x.first, {(True, x.first): integers}, grid=x.grid)
    return lowering.quantized(lowering.real(above), f"{x.path}/clamped", x.shape, params.stored, x.first)


def _by_tf2onnx(lowering, layer, inputs, output):
    tensors = tree.flatten(inputs)
    arguments = lambda values: tree.pack_sequence_as(inputs, list(values))
    function = lambda *values: layer.float_call(arguments(values))
    return Made(lowering.function(function, [lowering.real(x, False) for x in tensors], [x.shape for x in tensors]))


def _lower_float(node, lowering):
    tensors = [lowering.tensors[v] for v in node.inputs]
    output = Output(node.path, node.output.shape[1:], None)
    made = _rule(node)(lowering, node.operation, tensors, output)
    first = made.first and len(output.shape) > 1
    lowering.tensors[node.output] = Tensor(node.path, output.shape, None, first, {(False, first): made.value})


def _lower_island(nodes, graph, lowering):
    """Float layers in a row, by tf2onnx."""
    made = {value for node in nodes for value in tree.flatten(node.outputs)}
    taken = list(dict.fromkeys(v for node in nodes for v in node.inputs if v not in made))
    readers = graph.consumers()
    inside = {id(node) for node in nodes}
    left = [v for v in made if any(n is None or id(n) not in inside for n in readers.get(v, []))]
    left.sort(key=lambda value: value.name)

    def function(*arrays):
        values = {v: ops.cast(x, v.dtype) for v, x in zip(taken, arrays)}
        fill = lambda x: values[x] if isinstance(x, Value) else x
        for node in nodes:
            args, kwargs = tree.map_structure(fill, (node.args, node.kwargs))
            with scope(node.path):
                outputs = node.operation(*args, **kwargs)
            values.update(zip(tree.flatten(node.outputs), tree.flatten(outputs)))
        return [ops.cast(values[v], "float32") for v in left]

    real = [_apart(lowering.tensors[v], lowering) for v in taken]
    specs = [((lowering.builder.batch_size, *v.shape[1:]), "float32") for v in taken]
    values = convert(function, real, specs, lowering.builder, nodes[0].path)
    for value, name in zip(left, values):
        lowering.tensors[value] = Tensor(value.name, value.shape[1:], None, False, {(False, False): name})


def _apart(x, lowering):
    """The real numbers of a tensor behind a Clip without limits.

    ONNX Runtime quantizes the weights of a float layer that stands between pairs (`WeightBiasQuantization`).
    """
    real = lowering.real(x, False)
    return real if x.params is None else lowering.node("Clip", [real])


def _rule(node):
    cls = type(node.operation)
    if not isinstance(node.operation, QuantLayer):
        return _FLOAT_RULES.get(cls)
    return next((_RULES[base] for base in cls.__mro__ if base in _RULES), None)
