"""Rule for standardizations: DEQUANTIZE, float32 operators whose results are exact, QUANTIZE."""

import dataclasses
import math

import numpy as np
from keras import ops

from keras_quant.errors import ExportError
from keras_quant.integer.normalization import MOST_PARTIAL_SUMS, heron, scaled_epsilon, summed_at_once
from keras_quant.layers.standardize import QuantExactStandardize
from keras_quant.tflite.float_elementwise import binary
from keras_quant.tflite.lower import lowers
from keras_quant.tflite.multiply import relabelled

# Sums of integers up to this are exact in float32.
_EXACT = 2**24
# Partial sums are parted into multiples of this and the rest.
_LOW = 2**12


@lowers(QuantExactStandardize)
def standardize(lowering, layer, x, output):
    """`integer.standardize` on `x` taken for a tensor of scale `unit`."""
    unit, farthest = _power_of_two(x.scale), max(127 - x.zero_point, 128 + x.zero_point)
    layout = _Layout.of(lowering, layer, farthest)
    steps = _Steps(lowering, output, layout, unit, farthest)
    small = scaled_epsilon(layer.epsilon, x.scale)
    start, factors = heron(layout.count, layer.center, layer.statistic, small)
    # A standardization does not mind the scale, but for `epsilon`, which is told. A power of two keeps all sums exact and is
    # never far from the true scale: an interpreter that goes by real numbers still finds the same function.
    c = relabelled(lowering, lowering.reshape(x, output, layout.shape, "rows"), output, unit, "integers")
    c = lowering.real(c)
    variance = steps.sum(steps.binary("MUL", c, c, "square"), 2, "squares")
    if layer.statistic == "mean":
        variance = steps.mean(variance, "mean_square")
    if layer.center:
        mean = steps.mean(steps.sum(c, 1, "sum"), "mean")
        c = steps.binary("SUB", c, steps.spread(mean, "means"), "centered")
        variance = steps.on_rows("SUB", variance, steps.on_rows("MUL", mean, mean, "squared_mean"), "difference")
        variance = steps.on_rows("MAXIMUM", variance, 0.0, "variance")
    variance = steps.on_rows("ADD", variance, _number(small) * unit**2, "raised")
    root = _number(start) * unit
    for factor in factors:
        root = steps.on_rows("ADD", steps.on_rows("DIV", variance, root, "quotient"), root, "twice")
        root = steps.on_rows("MUL", root, factor, "root")
    inverse = steps.spread(steps.on_rows("DIV", 1.0, root, "inverse"), "inverses")
    made = steps.binary("MUL", c, inverse, "standardized")
    for name, operand in zip(("MUL", "ADD"), layer.gain_and_shift()):
        if operand is not None:
            operand = ops.convert_to_numpy(operand).reshape(layout.along(layer.along))
            made = steps.binary(name, made, operand, "scaled" if name == "MUL" else "shifted")
    if layout.shape == tuple(output.shape):
        return lowering.quantized(made, lowering.activation(output))
    y = lowering.quantized(made, lowering.activation(output, "apart", layout.shape))
    return lowering.reshape(y, output, output.shape, into=lowering.activation(output))


def _number(value):
    return np.float32(ops.convert_to_numpy(value))


def _power_of_two(scale):
    return np.float32(2.0 ** np.clip(np.rint(np.log2(np.float64(scale))), -30, 30))


@dataclasses.dataclass(frozen=True)
class _Axis:
    """Neighbouring axes of a layer that are all summed over, or none of them, as one.

    Attributes:
        size: their product.
        summed: whether they are.
        each: how many of its values are summed up at once, if it is; `size` if it is not.
    """

    size: int
    summed: bool
    each: int

    @property
    def sizes(self):
        """As the file has them: one axis or two."""
        return (self.size,) if self.each == self.size else (self.size // self.each, self.each)


@dataclasses.dataclass(frozen=True)
class _Layout:
    """How values lie in the file: axes are split where the sum of squares of all values would not be exact.

    Attributes:
        axes: `_Axis`, a tuple of them.
        places: for each axis of the layer, its place among them.
    """

    axes: tuple
    places: tuple

    @classmethod
    def of(cls, lowering, layer, farthest):
        """The layout of a layer whose integers are at most `farthest` from the zero point."""
        # A file without sizes has no RESHAPE.
        sizes, summed, places = layer.joined_axes() if not lowering.resizable else layer.own_axes()
        each = summed_at_once(sizes, summed, farthest, divides=not lowering.resizable)
        layout = cls(tuple(map(_Axis, sizes, summed, each)), tuple(places))
        if math.prod(axis.size // axis.each for axis in layout.axes) > MOST_PARTIAL_SUMS:
            where = " in a file that may be resized" if lowering.resizable else ""
            raise ExportError(
                f"Layer '{lowering.path}' takes means of {layout.count} values, whose sum float32 does not hold "
                f"exactly{where}. Give it a policy that is `integer_only`."
            )
        return layout

    @property
    def count(self):
        """How many values have one mean."""
        return math.prod(axis.size for axis in self.axes if axis.summed)

    @property
    def shape(self):
        """Without the batch."""
        return tuple(size for axis in self.axes for size in axis.sizes)

    def along(self, sizes):
        """The shape of an array that has these sizes along the layer's axes, each 1 or whole."""
        joined = [math.prod(s for s, place in zip(sizes, self.places) if place == own) for own in range(len(self.axes))]
        pairs = [axis.sizes if size == axis.size else [1] * len(axis.sizes) for axis, size in zip(self.axes, joined)]
        return 1, *(size for pair in pairs for size in pair)

    def summed(self, whole=True):
        """The axes of the file, the batch counted, that are summed over; without `whole`, to partial sums."""
        places, first = [], 1
        for axis in self.axes:
            last = first + len(axis.sizes)
            places += [*range(first if whole else last - 1, last)] if axis.summed else []
            first = last
        return places


class _Steps:
    """Float32 operators of one layer, on values and on rows."""

    def __init__(self, lowering, output, layout, unit, farthest):
        self.lowering, self.layout, self.unit, self.farthest = lowering, layout, unit, farthest
        self.output = dataclasses.replace(output, params=None, dtype="float32")

    def binary(self, name, a, b, part, shape=None):
        """An operator on tensors of the layout's shape or another."""
        output = dataclasses.replace(self.output, shape=self.layout.shape if shape is None else shape)
        return binary(self.lowering, name, a, b, output, part)

    def on_rows(self, name, a, b, part):
        """An operator on one value a row."""
        return self.binary(name, a, b, part, self._without(self.layout.summed()))

    def sum(self, x, power, part):
        """Of a tensor of multiples of `unit**power`, rounded to float32 once."""
        layout = self.layout
        if layout.count * self.farthest**power <= _EXACT:
            return self._reduced(x, layout.summed(), part)
        inner = layout.summed(whole=False)
        partial = self._reduced(x, inner, f"{part}_partial")
        # Adding and taking off a number so large leaves a multiple of `_LOW`.
        large, shape = np.float32(1.5 * 2**23 * _LOW) * self.unit**power, self._without(inner)
        high = self.binary("ADD", partial, large, f"{part}_raised", shape)
        high = self.binary("SUB", high, large, f"{part}_high", shape)
        low = self.binary("SUB", partial, high, f"{part}_low", shape)
        high, low = (self._reduced(t, layout.summed(), f"{part}_{n}_sum") for t, n in ((high, "high"), (low, "low")))
        return self.on_rows("ADD", high, low, part)

    def mean(self, total, part):
        """Of a sum, rounded once.

        XNNPACK of LiteRT 2.1 makes one operator of SUM and DIV by a constant, which multiplies by the reciprocal.
        """
        return self.on_rows("DIV", self.on_rows("ADD", total, total, f"{part}_doubled"), 2 * self.layout.count, part)

    def spread(self, rows, part):
        """One value a row, repeated along the last axis where rows also have other axes.

        XNNPACK takes a third of the time if what it broadcasts varies along that axis.
        """
        *others, last = self.layout.axes
        if not last.summed or not any(axis.summed for axis in others):
            return rows
        shape = (*rows.shape[1 : -len(last.sizes)], *last.sizes)
        return self.binary("MUL", rows, np.ones(last.sizes), part, shape)

    def _without(self, axes):
        return tuple(1 if axis in axes else size for axis, size in enumerate(self.layout.shape, 1))

    def _reduced(self, x, axes, part):
        # XNNPACK sums ten times as fast over axes side by side, the outer ones first, as over axes apart.
        for run in _runs(axis for axis in axes if x.shape[axis] > 1):
            shape = tuple(1 if axis in run else size for axis, size in enumerate(x.shape[1:], 1))
            y = self.lowering.activation(self.output, part, shape)
            operands = [x, self.lowering.ints(self.output, "axes", run)]
            self.lowering.operator("SUM", operands, y, 1, (1, 6, 0), "ReducerOptions", keepDims=True)
            x = y
        return x


def _runs(axes):
    """Lists of axes that are side by side."""
    runs = []
    for axis in axes:
        if runs and runs[-1][-1] == axis - 1:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    return runs
