"""What rules write to: a model being lowered, and its tensors in the forms in which the file has them."""

import dataclasses

import numpy as np
from keras import ops

from keras_quant.integer import QuantParams
from keras_quant.integer.params import activation_range
from keras_quant.onnx.builder import DTYPES, Builder
from keras_quant.onnx.file import LARGEST
from keras_quant.onnx.floats import Layers, convert

# The first opsets with integers of these widths in QuantizeLinear.
INT4_SINCE = INT16_SINCE = 21


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


def axis_in(axis, rank, first):
    """Where an axis of a tensor with channels last lies if `first`, with channels first."""
    return axis if not first or axis == 0 else 1 if axis == rank - 1 else axis + 1


class Lowering:
    """A model being lowered: what rules write to.

    Attributes:
        builder: `Builder`.
        storage: type that holds integers of 8 bits: "uint8" or "int8".
        tensors: dict from each `Value` of the graph to its `Tensor`.
        given: dict from the names of inputs that are integers to their `Tensor`s.
        path: of the layer being lowered.
        largest: bytes that a protocol buffer takes.
    """

    def __init__(self, opset, batch_size=None, storage="uint8", largest=LARGEST):
        self.builder = Builder(opset, batch_size)
        self.storage, self.largest = storage, largest
        self.tensors, self.given = {}, {}
        self.path = ""

    def inside(self, batch_size):
        """A `Lowering` of a loop's body, whose tensors are its own."""
        made = Lowering(self.opset, batch_size, self.storage, self.largest)
        made.builder = self.builder.inside(batch_size)
        return made

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
            bits: that the integers take.
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

    def grid(self, path, params, storage=None):
        """Add the scale and zero point of a grid, by default for integers in the model's storage; returns their names."""
        scale, zero_point = (np.asarray(ops.convert_to_numpy(v)) for v in (params.scale, params.zero_point))
        storage = storage or self.storage_of(params)
        if storage == "uint8":
            zero_point = zero_point + 128
        names = f"{path}/scale", f"{path}/zero_point"
        return [self.builder.constant(n, v) for n, v in zip(names, (np.float32(scale), zero_point.astype(storage)))]

    def storage_of(self, params):
        """Name of the type that holds a grid's integers."""
        return self.storage if params.type.storage == "int8" else params.type.storage

    def quantized(self, value, path, shape, params, first=False, padded=None):
        """A `Tensor` of real numbers put on a grid by QuantizeLinear."""
        grid, first = self.grid(path, params), first and len(shape) > 1
        made = self.builder.node("QuantizeLinear", [value, *grid], path, f"{path}/quantized")
        return Tensor(path, tuple(shape), params, first, {(True, first): made}, padded, grid)

    def _dequantized(self, x, value):
        x.grid = x.grid or self.grid(x.path, x.params)
        return self.builder.node("DequantizeLinear", [value, *x.grid], x.path, f"{x.path}/dequantized")

    def activate(self, value, bounds, output, first=False):
        """A fused activation; where the output's grid does not clamp as it does, a Clip of the integers.

        One of real numbers would stand between the operator and the pair that it fuses with.

        Args:
            value: name of real numbers.
            bounds: of the activation, see `integer.activation_range`.
            output: `Output` of the rule.
            first: whether the value has its channels first.

        Returns:
            `Made`.
        """
        y = output.params
        limits = [int(ops.convert_to_numpy(v)) for v in activation_range(y, bounds)]
        if limits == [int(ops.convert_to_numpy(v)) for v in (y.low, y.high)]:
            return Made(value, first)
        if y.type.storage == "int16":
            # ONNX Runtime fuses none of it, and has no Clip of int16.
            scale = float(ops.convert_to_numpy(y.scale))
            ends = [self.constant(n, np.float32(v * scale)) for n, v in zip(("lowest", "highest"), limits)]
            return Made(self.node("Clip", [value, *ends]), first)
        value = self.node("QuantizeLinear", [value, *self.grid(output.name, y)], "linear/quantized")
        return Made(self.clip(value, y, limits), first, integers=True)

    def clip(self, value, y, limits):
        """Integers of a grid clipped to two centred ones."""
        storage = self.storage_of(y)
        zero = int(ops.convert_to_numpy(y.zero_point)) + (128 if storage == "uint8" else 0)
        operands = [self.constant(n, np.asarray(v + zero, storage)) for n, v in zip(("lowest", "highest"), limits)]
        return self.node("Clip", [value, *operands])

    def reshape(self, value, shape):
        """Add a Reshape; the batch is 0 for "as it is" or -1 for "what remains"."""
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
        return convert(lambda *x: [function(*x)], values, specs, self.builder, Layers(self.path))[0]
