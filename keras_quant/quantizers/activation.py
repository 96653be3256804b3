"""Quantizers of activations: they own the range of the tensors that one layer makes."""

import keras
import numpy as np
from keras import ops

from keras_quant import backend
from keras_quant.integer.params import INT8, INT8_MAX, INT16, QuantParams, integer_type
from keras_quant.quantizers.registry import register

# Products of scales have to stay normal float32 numbers.
NARROWEST = 1e-20


class ActivationQuantizer(keras.layers.Layer):
    """Asymmetric grid over a range, one for a whole tensor.

    Some operators want their inputs on one grid (a concatenation). `tie` puts quantizers into a group: each keeps its own
    range, and all of them use the union.

    `bounds` are the real bounds of the values that reach the quantizer, set by the layer that owns it: `(0, None)` behind
    a ReLU. Where the grid's clamp already enforces them, no layer computes the activation itself.
    """

    # Whether the quantizer may share its grid with others.
    tieable = True
    # The `IntegerType` of the grid.
    type = INT8

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.bounds = (None, None)
        self._group = _Group([self])

    @property
    def bits(self):
        """Bits of one value."""
        return (self.type.levels + 1).bit_length() - 1

    def range(self):
        """Lowest and highest real value of this quantizer alone, float32 scalars."""
        raise NotImplementedError

    def params(self):
        """`QuantParams` of the grid, zero exactly on it.

        `s = (max - min) / levels`, `z = rint(lowest - min / s)` (255 and -128 for 8 bits), over the union of the
        group's ranges; computed in float64 and rounded once, so that eager, graph and XLA execution agree to the last bit.
        """
        low, high = self._shared_range()
        low, high = ops.cast(low, "float64"), ops.cast(high, "float64")
        lowest, highest = self.type.low, self.type.high
        scale = ops.where(high > low, ops.maximum(high - low, NARROWEST), 1.0) / self.type.levels
        zero_point = backend.clip(backend.round_half_even(lowest - low / scale), lowest, highest)
        return QuantParams(ops.cast(scale, "float32"), ops.cast(zero_point, "float32"), self.type)

    def _shared_range(self):
        ranges = [member.range() for member in self._group.members]
        if len(ranges) == 1:
            return ranges[0]
        lows, highs = zip(*ranges)
        return ops.min(ops.stack(lows)), ops.max(ops.stack(highs))

    def covers(self, bounds):
        """Whether this grid's own clamp enforces `bounds`, whatever its range becomes."""
        shared = [member.bounds for member in self._group.members]
        return all(
            mine is None or all(b is not None and sign * b <= sign * mine for b in theirs)
            for mine, theirs, sign in zip(bounds, zip(*shared), (-1, 1))
        )

    def tie(self, other):
        """Share one grid with `other` from now on."""
        self._group.merge(other._group)

    def shares_grid_with(self, other):
        return self._group is other._group

    def observe(self, x):
        """Take a training batch's values into the range; a quantizer with a fixed range does nothing."""

    def set_range(self, low, high):
        """Set the range, as calibration does; a quantizer with a fixed range does nothing."""

    def shared_ranges(self):
        """The ranges, as floats, of all quantizers that share this one's grid."""
        return [tuple(float(ops.convert_to_numpy(v)) for v in member.range()) for member in self._group.members]

    def set_shared_ranges(self, ranges):
        """Set what `shared_ranges` gave, or the like; one that was never set stays so."""
        for member, (low, high) in zip(self._group.members, ranges):
            if high > low:
                member.set_range(low, high)

    def fake_quant(self, x):
        """The nearest values of the grid, as real numbers, with the clipped straight-through gradient.

        Forward: `s·(clip(rint(x/s) + z) - z)`. Gradient: 1 inside the range, 0 outside.
        """
        params = self.params()
        low, high = params.low * params.scale, params.high * params.scale
        return backend.fake_quant(x, ops.stop_gradient(low), ops.stop_gradient(high), self.bits)

    @property
    def is_set(self):
        """Whether the grid has a range; evaluated, so outside of traced code only."""
        low, high = (float(np.asarray(ops.convert_to_numpy(v))) for v in self._shared_range())
        return high > low


@register("moving_average")
class MovingAverage(ActivationQuantizer):
    """Range by an exponential moving average of each training batch's minimum and maximum.

    `min ← m·min + (1-m)·min(x)`, and the same for the maximum; the first batch sets the range outright. The range always
    holds zero. Frozen with `trainable = False`.

    Args:
        momentum: float in [0, 1).
        bits: integer from 2 to 8.

    References:
        - [Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference](
          https://arxiv.org/abs/1712.05877), section 3.1
    """

    def __init__(self, momentum=0.9, bits=8, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= momentum < 1:
            raise ValueError(f"`momentum` must be in [0, 1). Received: momentum={momentum}")
        if bits not in self.widths:
            raise ValueError(f"`bits` must be one of {list(self.widths)}. Received: bits={bits}")
        self.type = integer_type(bits)
        self.momentum = momentum
        options = {"shape": (), "initializer": "zeros", "trainable": False, "dtype": "float32", "aggregation": "mean"}
        self.low = self.add_weight(name="low", **options)
        self.high = self.add_weight(name="high", **options)
        self.built = True

    # The widths that `bits` may have.
    widths = tuple(range(2, 9))

    def range(self):
        return backend.read(self.low), backend.read(self.high)

    def observe(self, x):
        if not self.trainable:
            return
        x = ops.stop_gradient(x)
        least, most = self.bounds
        low = 0.0 if least == 0 else ops.minimum(ops.min(x), 0.0)
        low = low if least is None else ops.maximum(low, least)
        high = ops.maximum(ops.max(x), 0.0)
        high = high if most is None else ops.minimum(high, most)
        rate = ops.where(self.high > self.low, 1.0 - self.momentum, 1.0)
        self.low.assign(self.low + rate * (low - self.low))
        self.high.assign(self.high + rate * (high - self.high))

    def set_range(self, low, high):
        low, high = min(float(low), 0.0), max(float(high), 0.0)
        least, most = self.bounds
        low = low if least is None else max(low, least)
        high = high if most is None else min(high, most)
        self.low.assign(low)
        # A tensor that is zero throughout needs some grid: any holds it exactly.
        self.high.assign(high if high > low else 1.0)

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum, "bits": self.bits}


@register("symmetric16")
class Symmetric16(MovingAverage):
    """As `MovingAverage`, on the int16 grid that the format has: `s = max(-min, max) / 32767`, zero point 0.

    Args:
        momentum: float in [0, 1).
    """

    widths = (16,)

    def __init__(self, momentum=0.9, bits=16, **kwargs):
        super().__init__(momentum, bits, **kwargs)

    def params(self):
        low, high = (ops.cast(v, "float64") for v in self._shared_range())
        largest = ops.maximum(ops.maximum(-low, high), NARROWEST)
        return QuantParams(ops.cast(largest / INT16.high, "float32"), ops.zeros((), "float32"), INT16)

    def covers(self, bounds):
        # The grid reaches as far below zero as above.
        return bounds == (None, None)

    def fake_quant(self, x):
        params = self.params()
        low, high, scale = map(ops.stop_gradient, (params.low * params.scale, params.high * params.scale, params.scale))
        clipped = backend.clip(x, low, high)
        return backend.straight_through(backend.round_half_even(clipped * (1.0 / scale)) * scale, clipped)


@register("symmetric")
class Symmetric(MovingAverage):
    """As `MovingAverage`, on a grid with zero point 0: `s = max(-min, max) / 127`, for the operators that want one.

    Args:
        momentum: float in [0, 1).
    """

    tieable = False

    def params(self):
        low, high = (ops.cast(v, "float64") for v in self.range())
        largest = ops.maximum(ops.maximum(-low, high), NARROWEST)
        return QuantParams(ops.cast(largest / INT8_MAX, "float32"), ops.zeros((), "float32"))


@register("fixed_grid")
class FixedGrid(ActivationQuantizer):
    """The grid that the format prescribes for an operator's output: softmax and sigmoid (1/256, -128), tanh (1/128, 0).

    Args:
        scale: float.
        zero_point: integer in [-128, 127].
    """

    tieable = False

    def __init__(self, scale=1 / 256, zero_point=-128, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale
        self.zero_point = zero_point
        self.built = True

    def range(self):
        low, high = (self.scale * (bound - self.zero_point) for bound in (INT8.low, INT8.high))
        return ops.convert_to_tensor(low, "float32"), ops.convert_to_tensor(high, "float32")

    def params(self):
        return QuantParams(
            ops.convert_to_tensor(self.scale, "float32"), ops.convert_to_tensor(float(self.zero_point), "float32")
        )

    def get_config(self):
        return {**super().get_config(), "scale": self.scale, "zero_point": self.zero_point}


class _Group:
    """Quantizers that share a grid. A plain object, so that Keras does not track one layer's quantizer in another."""

    def __init__(self, members):
        self.members = members

    def merge(self, other):
        if other is self:
            return
        self.members.extend(other.members)
        for member in other.members:
            member._group = self
