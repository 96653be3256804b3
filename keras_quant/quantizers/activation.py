"""Quantizers of activations: they own the range of the tensors that one layer makes."""

import math

import keras
import numpy as np
from keras import ops

from keras_quant import backend
from keras_quant.errors import QuantizationError
from keras_quant.integer.params import INT8, QuantParams, integer_type, narrow_type
from keras_quant.quantizers import in_steps
from keras_quant.quantizers.phase import Phased
from keras_quant.quantizers.registry import check_bits
from keras_quant.settings import InFloat32

# Products of scales have to stay normal float32 numbers.
NARROWEST, WIDEST = 1e-20, 1e20
ROUNDINGS = ("nearest", "stochastic")
# A range as wide above zero as below, such as that of `concatenate([x, -x])` in rotary embeddings, has a zero point half way
# between two integers. What the quotient's last bit says would be another thing in a graph than outside of one.
OFF_TIES = 1e-6
# The same for a quotient in float32, as a factor of the lower end: a little more than the quotient may be out by.
OFF_TIES_IN_FLOAT32 = 1.0 + 2.0**-21


class ActivationQuantizer(InFloat32, Phased, keras.layers.Layer):
    """A grid over a range, one for a whole tensor.

    Some operators want their inputs on one grid (a concatenation). `tie` puts quantizers into a group: each keeps its own
    range, and all of them use the union.

    `bounds` are the real bounds of the values that reach the quantizer, set by the layer that owns it: `(0, None)` behind
    a ReLU. Where the grid's clamp already enforces them, no layer computes the activation itself.
    """

    # Whether the quantizer may share its grid with others.
    tieable = True
    # Whether operators that want their inputs on one grid may put this one among others.
    joins = True
    # The `IntegerType` of the grid.
    type = INT8
    # Whether zero is the integer 0, so that the grid reaches as far below zero as above.
    symmetric = False
    # Whether scales are powers of two.
    power_of_two = False

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.bounds = (None, None)
        self._group = _Group([self])

    @property
    def bits(self):
        """Bits of one value."""
        return self.type.bits

    def range(self):
        """Lowest and highest real value of this quantizer alone, float32 scalars."""
        raise NotImplementedError

    def params(self):
        """`QuantParams` of the grid, zero exactly on it.

        `s = (max - min) / levels`, `z = rint(lowest - min / s)` (255 and -128 for 8 bits), or symmetric
        `s = max(-min, max) / highest`, `z = 0`, over the union of the group's ranges; computed in float64 and rounded once,
        so that eager, graph and XLA execution agree to the last bit.
        """
        return in_steps.remembered(self, "params", self._params)

    def _params(self):
        own = type(self), self.type, self.symmetric, self.power_of_two, self._is_unsigned
        grid = backend.traced_once(
            own, self._grid, [], [ops.convert_to_tensor(v) for v in self._shared_range()], is_small=True
        )
        return QuantParams(*grid, self.type)

    def _grid(self, low, high):
        """Scale and zero point of the grid over a range, float32 scalars."""
        low, high = ops.cast(low, "float64"), ops.cast(high, "float64")
        lowest, highest = self.type.low, self.type.high
        if self.symmetric:
            scale = ops.maximum(ops.maximum(-low, high), NARROWEST) / highest
        else:
            scale = ops.where(high > low, ops.maximum(high - low, NARROWEST), 1.0) / self.type.levels
        if self.power_of_two:
            scale = power_of_two_above(scale)
        if self.symmetric:
            zero_point = ops.zeros((), "float32")
        elif self._is_unsigned:
            zero_point = ops.convert_to_tensor(float(lowest))
        else:
            zero_point = backend.clip(backend.round_half_even(lowest - low / scale + OFF_TIES), lowest, highest)
        return ops.cast(scale, "float32"), ops.cast(zero_point, "float32")

    def ends(self, low, high):
        """The ends, as floats, of the grid that the range `low` to `high` gives: what calibration measures errors on."""
        if not high > low:
            return low, high
        top, levels = self.type.high, self.type.levels
        scale = max(-low, high) / top if self.symmetric else (high - low) / levels
        scale = 2.0 ** np.ceil(np.log2(scale)) if self.power_of_two else scale
        zero = 0 if self.symmetric else np.clip(np.rint(self.type.low - low / scale + OFF_TIES), self.type.low, top)
        return (self.type.low - zero) * scale, (top - zero) * scale

    @property
    def _is_unsigned(self):
        """Whether nothing below zero reaches the grid."""
        return all(member.bounds[0] == 0 for member in self._group.members)

    def training_ends(self):
        """The lowest value of the grid that training rounds to, 0.0 or a float32 scalar, and the highest one, a scalar."""
        params = self.params()
        return params.low * params.scale, params.high * params.scale

    def trained_range(self):
        """`range`, with the gradients that go to what is trained of it."""
        return self.range()

    def _shared_range(self, trained=False):
        ranges = [member.trained_range() if trained else member.range() for member in self._group.members]
        if len(ranges) == 1:
            return ranges[0]
        lows, highs = zip(*ranges)
        return ops.min(ops.stack(lows)), ops.max(ops.stack(highs))

    def covers(self, bounds):
        """Whether this grid's own clamp enforces `bounds`, whatever its range becomes."""
        if self.symmetric or self.power_of_two:
            # Such a grid reaches beyond its range.
            return bounds == (None, None) or (bounds == (0.0, None) and not self.symmetric and self._holds(bounds))
        return self._holds(bounds)

    def _holds(self, bounds):
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

    # Whether training batches move the range in the present phase.
    observes = False

    def observe(self, x):
        """Take a training batch's values into the range; a quantizer with a fixed range does nothing."""
        if self.observes and not in_steps.note(self, x):
            self.take(self.summary(x))

    def summary(self, x):
        """What `take` wants to know of a batch: float32 scalars, each of them larger the more values there are.

        Here minus the smallest value, and the largest one.
        """
        return in_steps.extremes(x)

    def take(self, summary):
        """Move the range by the `summary` of a batch."""
        raise NotImplementedError

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

    def clamps(self, bounds):
        """Whether `fake_quant` enforces `bounds` in the present phase of training."""
        return self.fake_quant_enabled and self.covers(bounds)

    # Whether `unit` gives one, as long as it trains.
    has_unit = False

    def unit(self, x):
        """1, for a learned grid that is proportional to one number: `fake_quant(x)` is `round_to_grid(x / unit) * unit`.

        Who divides and who multiplies by it passes on that number's gradient, and may do it where it costs least: a batch
        normalization in its gain and shift, the next layer in its kernel. See `backend.times_unit`.

        Args:
            x: a tensor as large as what is rounded.
        """

    def fake_quant(self, x):
        """The nearest values of the grid, as real numbers, with the clipped straight-through gradient.

        Forward: `s·(clip(rint(x/s) + z) - z)`. Gradient: 1 inside the range, 0 outside. As long as the range follows all
        values, whose layer does not clip them, it is 1 throughout: what lies outside is on the way in.
        """
        if self.has_unit and self.fake_quant_enabled:
            unit = self.unit(x)
            return backend.times_unit(self.round_to_grid(backend.times_unit(x, per=unit)), unit)
        if not self.fake_quant_enabled or not any(member.trains_range for member in self._group.members):
            return self.round_to_grid(x)
        params = self.params()
        low, high = params.low * params.scale, params.high * params.scale
        share = self._gradient_share(values_of_sample(x), ops.stop_gradient(params.high))
        limits = self._shared_range(trained=True)
        return backend.learned_fake_quant(
            self._with_noise(x), low, high, *limits, share, self.type.bits, self.type.is_narrow, self.learns_from_rounding
        )

    def round_to_grid(self, x):
        """`fake_quant` without a gradient for the range."""
        if not self.fake_quant_enabled:
            return x
        low, high, inside = self.ends_in_training()
        # So that nothing is kept for the gradient, and nothing computed.
        clips = not all(member.observes and member.bounds == (None, None) for member in self._group.members)
        return backend.fake_quant(self._with_noise(x), low, high, self.type.bits, self.type.is_narrow, inside, clips)

    def ends_in_training(self):
        """The range as `backend.fake_quant` takes it: low, high and its `inner_ends`."""

        def ends():
            low, high = self._ends_to_nudge()
            return low, high, backend.inner_ends(low, high, self.type.bits)

        return in_steps.remembered(self, "ends", ends)

    def _ends_to_nudge(self):
        """What `backend.fake_quant` takes for `training_ends`: the same, or a range in which it finds the zero point."""
        return self.training_ends()

    def _with_noise(self, x):
        """`x`, in the stochastic rounding of training with noise of a step."""
        return x

    def _gradient_share(self, features, highest):
        return (features * highest) ** -0.5 if self.scales_gradient else 1.0

    # See the learned quantizers.
    scales_gradient, learns_from_rounding = False, True

    @property
    def is_set(self):
        """Whether the grid has a range; evaluated, so outside of traced code only."""
        low, high = (float(np.asarray(ops.convert_to_numpy(v))) for v in self._shared_range())
        return high > low

    def _within_bounds(self, low, high):
        """The range that holds zero and keeps to `bounds`, of floats or tensors."""
        zero, (least, most) = backend.constant(0.0), self.bounds
        high = ops.maximum(high, zero)
        high = high if most is None else ops.minimum(high, backend.constant(most))
        if least == 0:
            return zero, high
        low = ops.minimum(low, zero)
        return low if least is None else ops.maximum(low, backend.constant(least)), high


class UniformQuantizer(ActivationQuantizer):
    """What quantizers whose range is a state have in common.

    Args:
        bits: integer from 2 to 8, or 16, which is symmetric, as its kernels demand.
        symmetric: whether zero is the integer 0 (*signed*); otherwise the grid spans the range, and behind a ReLU all of it
            lies above zero (*unsigned*).
        narrow: whether to leave the lowest integer out: [-127, 127]. Costs a QUANTIZE in the file.
        power_of_two: whether to round the scale up to a power of two.
        rounding: "nearest", to even, or "stochastic" in training: up with the probability of the fraction.
            Inference and the file round to nearest.
        seed: of the stochastic rounding.
        annealed_bits: the width in use as long as `callbacks.Schedule` has not come down to `bits`; by default `bits`.
    """

    # The widths that `bits` may have.
    widths = (*range(2, 9), 16)

    def __init__(
        self,
        bits=8,
        symmetric=False,
        narrow=False,
        power_of_two=False,
        rounding="nearest",
        seed=None,
        annealed_bits=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_bits(type(self), bits, self.widths)
        if rounding not in ROUNDINGS:
            raise QuantizationError(f"`rounding` is one of {list(ROUNDINGS)}. Received: rounding={rounding!r}")
        if bits == 16 and narrow:
            raise QuantizationError("int16 has no narrow form. Leave `narrow` out. Received: bits=16, narrow=True")
        self.symmetric, self.narrow, self.power_of_two = symmetric or bits == 16, narrow, power_of_two
        self.final_bits = bits
        self._set_type(bits if annealed_bits is None else annealed_bits)
        self.rounding, self.seed = rounding, seed
        self._noise = keras.random.SeedGenerator(seed) if rounding == "stochastic" else None

    def _set_type(self, bits):
        self.type = narrow_type(bits) if self.narrow else integer_type(bits)

    def set_bits(self, bits):
        check_bits(type(self), bits, [width for width in self.widths if (width == 16) == (self.final_bits == 16)])
        self._set_type(bits)

    def training_ends(self):
        if self.power_of_two or not (self.symmetric or self._is_unsigned):
            return super().training_ends()
        # The zero point is known, which spares what finds it.
        low, high = self._shared_range()
        if self.symmetric:
            reach = ops.maximum(ops.maximum(-low, high), NARROWEST)
            return reach * (self.type.low / self.type.high), reach
        return 0.0, ops.maximum(high, NARROWEST)

    def _ends_to_nudge(self):
        if self.type.bits != 8 or self.type.is_narrow or self.power_of_two or self.symmetric or self._is_unsigned:
            return self.training_ends()
        low, high = self._shared_range()
        return low * backend.constant(OFF_TIES_IN_FLOAT32), high

    def _with_noise(self, x):
        if self._noise is None:
            return x
        step = ops.stop_gradient(self.params().scale)
        return x + step * keras.random.uniform(ops.shape(x), -0.5, 0.5, seed=self._noise)

    def get_config(self):
        own = {
            **self._width_config(),
            "symmetric": self.symmetric,
            "narrow": self.narrow,
            "power_of_two": self.power_of_two,
            "rounding": self.rounding,
            "seed": self.seed,
        }
        return {**super().get_config(), **own}


def values_of_sample(x):
    """How many values one sample of a batch has, as a float or a float32 tensor."""
    if None not in x.shape[1:]:
        return float(math.prod(x.shape[1:]))
    return ops.cast(ops.size(x) // ops.shape(x)[0], "float32")


def power_of_two_above(scale):
    """The smallest power of two that is at least `scale`, a float64 tensor; of scales near one, that one."""
    # The cast to float32 takes off what `exp` of a compiler may be out by.
    exponent = ops.ceil(ops.log(scale) / np.log(2.0) - 1e-6)
    return ops.cast(ops.cast(ops.power(ops.cast(2.0, "float64"), exponent), "float32"), "float64")


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
