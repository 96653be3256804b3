"""Quantizers of activations whose range is trained with the weights."""

import keras
from keras import ops

from keras_quant import backend
from keras_quant.quantizers import in_steps
from keras_quant.quantizers.activation import WIDEST, UniformQuantizer, values_of_sample
from keras_quant.quantizers.registry import register

# Where an optimizer that takes too large a step is caught.
LEAST_REACH = 1e-8
# Of a range that is observed before it is learned, as in `MovingAverage`.
MOMENTUM = 0.9
# How many standard deviations of normal values a grid of so many bits reaches over with the least mean squared error:
# Banner et al., https://arxiv.org/abs/1810.05723.
BEST_REACH = {2: 1.71, 3: 2.15, 4: 2.55, 5: 2.93, 6: 3.28, 7: 3.61, 8: 3.92}


@keras.saving.register_keras_serializable(package="keras_quant")
class PositiveScale(keras.constraints.Constraint):
    """Keeps what an optimizer makes of a range positive and finite; what is no number becomes 1."""

    def __call__(self, w):
        return self.limited(w, WIDEST, 1.0)

    def limited(self, w, most, otherwise):
        """What is not below `most` becomes `otherwise`."""
        w = backend.read(w)
        return backend.where_below(w, most, ops.maximum(w, backend.constant(LEAST_REACH)), otherwise)


class WithinBounds(PositiveScale):
    """As `PositiveScale`, and no further than the values of a quantizer's tensor can reach."""

    def __init__(self, quantizer):
        self.quantizer = quantizer

    def __call__(self, w):
        most = self.quantizer.bounds[1]
        return super().__call__(w) if most is None else self.limited(w, most, most)


class LearnedQuantizer(UniformQuantizer):
    """Mixin: one trained positive scalar, how far the range reaches; 0 until calibration or the first batch sets it.

    It is real values that are trained, not steps: Adam's updates, whose size is the learning rate whatever the gradient is,
    would be many times a step of 8 bits. Gradients are multiplied so that those of gradient descent come out as the papers
    have them, see `trained_value`.

    A subclass gives `range_of`, `first_values` and `set_range`.
    """

    learns = True
    # Whether the trained value is the upper end of the range.
    is_upper_end = True
    # How many steps the trained value reaches over, where it is a step that is trained.
    steps_of_value = None

    def __init__(self, bits=8, regularizer=None, **kwargs):
        super().__init__(bits, **kwargs)
        self.regularizer = keras.regularizers.get(regularizer)
        self.value = self.add_weight(
            name=self.variable_name,
            shape=(),
            initializer="zeros",
            dtype="float32",
            aggregation="mean",
            constraint=WithinBounds(self) if self.is_upper_end else PositiveScale(),
            regularizer=self.regularizer,
        )
        self.built = True

    def range_of(self, value):
        """The range, differentiable, as tensors."""
        raise NotImplementedError

    def trained_ranges(self):
        return [self.value]

    def set_bits(self, bits):
        # What a learned range has found out about its tensor holds for another width, in proportion.
        share = BEST_REACH.get(bits, 1.0) / BEST_REACH.get(self.bits, 1.0)
        super().set_bits(bits)
        for variable in self.trained_ranges():
            variable.assign(variable * share)

    def variables_to_set(self):
        """The variables that the first training batch sets."""
        return [self.value]

    def first_values(self, x):
        """Their values, from that batch."""
        raise NotImplementedError

    def range(self):
        value = backend.read(self.value)
        # NaN fails the comparison, too.
        return self._within_bounds(*self.range_of(ops.where(value > 0, ops.minimum(value, WIDEST), 0.0)))

    def trained_range(self):
        return self._within_bounds(*self.range_of(self.trained_value()))

    def trained_value(self):
        """The variable, with the gradient under which descent moves a step as a step's own.

        `s = value / levels`, so `Δs = -rate · ∂L/∂s` takes `Δvalue = -rate · levels · ∂L/∂s`, and that is `levels²` times
        `∂L/∂value`.
        """
        value, levels = backend.read(self.value), self.steps_of_value
        return value if levels is None else backend.scale_gradient(value, levels**2)

    @property
    def observes(self):
        return self.follows_data or not backend.is_positive_now(self.value)

    def observe(self, x):
        """Set the range from the first batch, if neither calibration nor a file has; `"observed"`, follow every batch."""
        if not self.observes or in_steps.note(self, x):
            return
        if self.follows_data:
            self.take(self.summary(x))
        else:
            self._set_first(lambda: self.summary(x))

    def summary(self, x):
        return [ops.cast(v, "float32") for v in self.first_values(x)]

    def take(self, summary):
        if not self.follows_data:
            self._set_first(lambda: summary)
            return
        variables = self.variables_to_set()
        values = [backend.read(variable) for variable in variables]
        rate = ops.where(values[0] > 0, 1.0 - MOMENTUM, 1.0)
        for variable, value, new in zip(variables, values, summary):
            variable.assign(value + rate * (new - value))

    def _set_first(self, summary):
        variables = self.variables_to_set()
        values = [backend.read(variable) for variable in variables]
        # Assigned outside of the condition, as replicas have to do it together.
        for variable, value in zip(variables, backend.first_time(values[0] > 0, values, summary)):
            variable.assign(value)

    def _usable(self, value):
        """`value` if it is a positive finite number, otherwise 1: a tensor that is zero throughout needs some grid."""
        value = ops.cast(value, "float32")
        value = ops.where((value > 0) & (value < WIDEST), value, 1.0)
        most = self.bounds[1] if self.is_upper_end else None
        return value if most is None else ops.minimum(value, most)

    def get_config(self):
        return {**super().get_config(), "regularizer": keras.regularizers.serialize(self.regularizer)}


@register("lsq")
class LSQ(LearnedQuantizer):
    """Learned step size: the scale is trained, the zero point is 0, or the lowest integer where nothing is negative.

    Forward: `x̂ = s·clip(rint(x/s), Qn, Qp)`. Gradient of the step: `∂x̂/∂s = rint(x/s) - x/s` inside, `Qn` below, `Qp` above,
    times `1 / √(N·Qp)` with `N` values a sample. Calibration sets the scale; otherwise the first training batch does,
    `2·mean|x| / √Qp`. The variable is `reach = Qp·s`, see `LearnedQuantizer`.

    Args:
        bits, narrow, power_of_two, rounding, seed: as in `UniformQuantizer`. With a power of two the gradient is that of the
            scale before it is rounded.
        scale_gradient: whether to apply the factor `1 / √(N·Qp)`.
        regularizer: of the scale.

    References:
        - [Learned Step Size Quantization](https://arxiv.org/abs/1902.08153)
    """

    variable_name = "reach"

    def __init__(self, bits=8, scale_gradient=True, **kwargs):
        super().__init__(bits, **kwargs)
        self.scales_gradient = scale_gradient
        # Whether values below zero occur; where the activation lets none through, they do not.
        self.signed = self.add_weight(
            name="signed", shape=(), initializer="ones", trainable=False, dtype="float32", aggregation="mean"
        )

    def _by_sign(self, of_ends, signed=None):
        """`of_ends(lowest, highest)`, of the centred integers at the ends of the grid: a float where its sign is known."""
        low, high, levels = (float(v) for v in (self.type.low, self.type.high, self.type.levels))
        if self.symmetric:
            return of_ends(low, high)
        if self.bounds[0] == 0:
            return of_ends(0.0, levels)
        signed = backend.read(self.signed) if signed is None else signed
        return ops.where(signed > 0.5, of_ends(low, high), of_ends(0.0, levels))

    @property
    def steps_of_value(self):
        return self._by_sign(lambda _, highest: highest)

    @property
    def has_unit(self):
        # One in use: a range that others share is not proportional to this one's, and the first batch may set another.
        return self.trains_range and len(self._group.members) == 1 and backend.is_positive_now(self.value)

    def unit(self, x):
        features = values_of_sample(x)
        # The square as in `trained_value`.
        factor = self._by_sign(lambda _, highest: highest**2 * self._gradient_share(features, highest))
        return backend.unit(backend.read(self.value), factor)

    def training_ends(self):
        if self.power_of_two or not self.has_unit:
            return super().training_ends()
        value = backend.read(self.value)
        return (0.0, value) if self.bounds[0] == 0 and not self.symmetric else self.range_of(value)

    def range_of(self, value):
        return value * self._by_sign(lambda lowest, highest: lowest / highest), value

    def variables_to_set(self):
        return [self.value, self.signed]

    def first_values(self, x):
        signed = ops.cast(ops.min(x) < 0, "float32")
        return self._usable(2.0 * ops.mean(ops.abs(x)) * self._by_sign(lambda _, highest: highest**0.5, signed)), signed

    def set_range(self, low, high):
        self.signed.assign(float(low < 0))
        lowest, highest = (float(self._by_sign(end)) for end in (lambda low, _: low, lambda _, high: high))
        below = float(low) / lowest if lowest < 0 else 0.0
        self.value.assign(self._usable(max(below * highest, float(high))))

    def ends(self, low, high):
        if self.symmetric or not high > low:
            return super().ends(low, high)
        shift = 0 if low < 0 else self.type.low
        lowest, highest = self.type.low - shift, self.type.high - shift
        scale = max(low / lowest if lowest else 0.0, high / highest)
        return lowest * scale, highest * scale

    def get_config(self):
        return {**super().get_config(), "scale_gradient": self.scales_gradient}


@register("lsq+")
class LSQPlus(LearnedQuantizer):
    """LSQ+: scale and offset are trained, for activations that are neither symmetric nor all positive, as SiLU's.

    Forward: `x̂ = s·clip(rint((x - β)/s), 0, 2^b - 1) + β`, where β is moved by less than half a step so that zero stays on
    the grid, as all kernels demand. Gradients: of the step as LSQ's, with `Qn = 0`, `Qp = 2^b - 1`; of the offset 0 inside,
    1 outside. Both times `1 / √(N·Qp)`. The first batch sets the range from its minimum to its maximum. The variables are
    `reach = Qp·s`, see `LearnedQuantizer`, and `shift = β`.

    Args:
        bits, narrow, power_of_two, rounding, seed: as in `UniformQuantizer`.
        scale_gradient: whether to apply the factor `1 / √(N·Qp)`.
        regularizer: of the scale.

    References:
        - [LSQ+: Improving low-bit quantization through learnable offsets and better initialization](
          https://arxiv.org/abs/2004.09576)
    """

    variable_name = "reach"
    is_upper_end = False

    def __init__(self, bits=8, scale_gradient=True, **kwargs):
        super().__init__(bits, **kwargs)
        self.scales_gradient = scale_gradient
        self.offset = self.add_weight(
            name="shift",
            shape=(),
            initializer="zeros",
            dtype="float32",
            aggregation="mean",
            constraint=AtMostZero(),
        )

    def trained_ranges(self):
        return [self.value, self.offset]

    def range_of(self, value):
        offset = ops.minimum(backend.read(self.offset), 0.0)
        return offset, offset + value

    @property
    def steps_of_value(self):
        return float(self.type.levels)

    def variables_to_set(self):
        return [self.value, self.offset]

    def first_values(self, x):
        low, high = self._within_bounds(ops.min(x), ops.max(x))
        usable = (high > low) & (high - low < WIDEST)
        return self._usable(high - low), ops.where(usable, low, 0.0)

    def set_range(self, low, high):
        low, high = self._within_bounds(float(low), float(high))
        self.offset.assign(low)
        self.value.assign(self._usable(high - low))

    def get_config(self):
        return {**super().get_config(), "scale_gradient": self.scales_gradient}


@keras.saving.register_keras_serializable(package="keras_quant")
class AtMostZero(keras.constraints.Constraint):
    """Keeps the lower end of a range at or below zero, and finite."""

    def __call__(self, w):
        return ops.where(ops.isfinite(w), ops.clip(w, -WIDEST, 0.0), ops.zeros_like(w))


@register("pact")
class PACT(LearnedQuantizer):
    """Parameterized clipping: the upper end α of a ReLU's output is trained.

    Forward: `clip(x, 0, α)`, rounded to the levels of [0, α]. Gradient of α: 1 where `x >= α`, else 0; rounding passes none.
    An output that may be negative is clipped to [-α, α]. The first batch sets α to its largest absolute value.

    Args:
        bits, narrow, power_of_two, rounding, seed: as in `UniformQuantizer`.
        regularizer: of α, `keras.regularizers.L2(...)` in the paper.

    References:
        - [PACT: Parameterized Clipping Activation for Quantized Neural Networks](https://arxiv.org/abs/1805.06085)
    """

    variable_name = "clip"
    learns_from_rounding = False

    def range_of(self, value):
        if self.bounds[0] == 0 and not self.symmetric:
            return value * 0.0, value
        return value * (-1.0 if self.symmetric else self.type.low / self.type.high), value

    def first_values(self, x):
        return [self._usable(ops.max(ops.abs(x)))]

    def set_range(self, low, high):
        share = self.type.high / -self.type.low
        self.value.assign(self._usable(max(float(high), 0.0 if self.bounds[0] == 0 else -float(low) * share)))
