"""Quantizers of weights: symmetric integers, by default one scale a channel."""

import math

import keras
import numpy as np
from keras import ops

from keras_quant import backend
from keras_quant.errors import QuantizationError
from keras_quant.integer.params import inverse_of
from keras_quant.quantizers import in_steps, ranges
from keras_quant.quantizers.activation import NARROWEST, power_of_two_above
from keras_quant.quantizers.phase import Phased
from keras_quant.quantizers.registry import KERNEL, check_bits, register
from keras_quant.settings import InFloat32

ROUNDINGS = ("nearest", "stochastic", "soft")
# Their scales are of float16 in the file, and of bfloat16 in the kernel: the smallest number that both have in full.
SMALLEST_OF_GROUP = 2.0**-14
GRANULARITIES = ("channel", "tensor", "group")


class WeightQuantizer(InFloat32, Phased, keras.layers.Layer):
    """Integers and scales of a kernel.

    Training computes with `fake_quant`; inference and the file round `values` on the grid of `scale`. Integers are symmetric
    (*narrow*), as all kernels want them: [-127, 127] for 8 bits.

    Args:
        bits: integer from 2 to 8.
    """

    widths = tuple(range(2, 9))

    def __init__(self, bits=8, **kwargs):
        super().__init__(**kwargs)
        check_bits(type(self), bits, self.widths)
        self.bits = self.final_bits = bits
        # `HeldIntegers` of weights that training leaves alone, or `None`.
        self.held = None
        self.built = True

    # Weights of a channel, neighbours, that share a scale, where a channel has several; otherwise `None`.
    group_size = None

    @property
    def stored_bits(self):
        """Bits of one integer in the file."""
        return self.bits

    @property
    def limit(self):
        """The largest integer; the smallest is its negative."""
        return 2 ** (self.bits - 1) - 1

    def create(self, shape, reduce_axes):
        """Make the variables for a kernel of this shape, once."""

    def settle(self, kernel, reduce_axes):
        """Set what a training step would set first. Args as in `scale`."""

    def fit_to(self, kernel, reduce_axes):
        """Take the weights that are there as what ranges are to be measured on. Of NumPy arrays, outside of traced code."""

    def reset(self):
        """Forget the scales that were learned of a kernel which is another now."""

    def scale(self, kernel, reduce_axes):
        """The scale of each channel.

        Args:
            kernel: float32 weights.
            reduce_axes: axes that one channel spans.

        Returns:
            Positive float32 of `kernel`'s shape with `reduce_axes` removed; of scales by group `(groups, channels)`.
        """
        raise NotImplementedError

    def beside(self, scale, reduce_axes):
        """What `scale` gives, of a shape that broadcasts against the kernel."""
        return ops.expand_dims(scale, reduce_axes) if self.group_size is None else ops.repeat(scale, self.group_size, axis=0)

    def by_group(self, kernel, reduce_axes):
        """A kernel such that one scale spans some of its axes, and these: of scales by group `(groups, size, channels)`."""
        if self.group_size is None:
            return kernel, reduce_axes
        reshape = np.reshape if isinstance(kernel, np.ndarray) else ops.reshape
        return reshape(kernel, (-1, self.group_size, kernel.shape[-1])), (1,)

    def values(self, kernel, reduce_axes):
        """The weights that inference rounds to the grid of `scale`; args as there."""
        return backend.read(kernel)

    def fake_quant(self, kernel, reduce_axes):
        """The values that the integers stand for, as training sees them, with gradients. Args as in `scale`."""
        raise NotImplementedError

    def in_training(self, kernel, reduce_axes):
        """What a training step of the present phase computes with: `fake_quant`, or the weights as they are."""
        make = lambda: self.fake_quant(kernel, reduce_axes) if self.fake_quant_enabled else backend.read(kernel)
        return in_steps.remembered(self, "in_training", make)

    def in_inference(self, kernel, reduce_axes):
        """The values that the integers stand for."""
        return in_steps.remembered(self, "in_inference", lambda: self.fake_quant(kernel, reduce_axes))

    def get_config(self):
        return {**super().get_config(), **self._width_config()}


class UniformWeightQuantizer(WeightQuantizer):
    """Mixin: every integer of the width is a level. A subclass gives `channel_scale`.

    Args:
        bits: integer from 2 to 8.
        granularity: "channel" for one scale an output channel, "tensor" for one in all, "group" for one for
            `group_size` neighbouring inputs of an output channel, which kernels of Dense with policies like "dynamic_int4"
            take, and which has the precision of bfloat16, as there.
        group_size: integer, of `granularity="group"`, 32 by default; their kernels take multiples of 32.
        power_of_two: whether to round scales up to powers of two.
        rounding: "nearest", to even; in training also "stochastic", up with the probability of the fraction, or "soft",
            to nearest with the gradient of a soft staircase, `k(1 - tanh²(k·r)) / (2·tanh(k/2))` with `r` the distance from
            the middle between two levels and `k` the variable `sharpness`, which a schedule raises from 0, where the
            gradient is 1 throughout.
        seed: of the stochastic rounding.
        annealed_bits: the width in use as long as `callbacks.Schedule` has not come down to `bits`; by default `bits`.

    References:
        - [Deep Learning with Limited Numerical Precision](https://arxiv.org/abs/1502.02551), for stochastic rounding
        - [Differentiable Soft Quantization](https://arxiv.org/abs/1908.05033), for the soft staircase
    """

    # Whether weights may lie beyond the largest integer; whether the scale is measured from the weights.
    clips = follows_weights = True

    def __init__(
        self,
        bits=8,
        granularity="channel",
        power_of_two=False,
        rounding="nearest",
        seed=None,
        annealed_bits=None,
        group_size=None,
        **kwargs,
    ):
        super().__init__(bits, **kwargs)
        if annealed_bits is not None:
            self.set_bits(annealed_bits)
        if granularity not in GRANULARITIES:
            raise QuantizationError(f"`granularity` is one of {list(GRANULARITIES)}. Received: granularity={granularity!r}")
        if granularity == "group":
            self.group_size = 32 if group_size is None else group_size
        if group_size is not None and (granularity != "group" or not isinstance(group_size, int) or group_size < 1):
            raise QuantizationError(
                f'`group_size` is a positive integer, with `granularity="group"`. Received: group_size={group_size!r}, '
                f"granularity={granularity!r}"
            )
        if rounding not in ROUNDINGS:
            raise QuantizationError(f"`rounding` is one of {list(ROUNDINGS)}. Received: rounding={rounding!r}")
        self.granularity, self.power_of_two, self.rounding, self.seed = granularity, power_of_two, rounding, seed
        self._noise = keras.random.SeedGenerator(seed) if rounding == "stochastic" else None
        if rounding == "soft":
            self.sharpness = self.add_weight(
                name="sharpness", shape=(), initializer="zeros", trainable=False, dtype="float32", aggregation="mean"
            )

    def channel_scale(self, kernel, reduce_axes):
        """`scale` before it is rounded to a power of two or shared, differentiable where it is learned."""
        raise NotImplementedError

    def training_scale(self, kernel, reduce_axes):
        """Of a training step, which may set what is not set yet.

        Returns:
            `channel_scale`; what takes its gradient, one value a channel or one in all; and a factor of that gradient.
        """
        scale = self.channel_scale(kernel, reduce_axes)
        return scale, scale, 1.0

    def create(self, shape, reduce_axes):
        if self.group_size is not None:
            shape, reduce_axes = (math.prod(shape[:-1]) // self.group_size, self.group_size, shape[-1]), (1,)
        self.create_ranges(shape, reduce_axes)

    def fit_to(self, kernel, reduce_axes):
        self.fit_ranges(*self.by_group(kernel, reduce_axes))

    def settle(self, kernel, reduce_axes):
        self.settle_ranges(*self.by_group(kernel, reduce_axes))

    def create_ranges(self, shape, reduce_axes):
        """`create`, for a kernel as `by_group` makes it."""

    def fit_ranges(self, kernel, reduce_axes):
        """`fit_to`, of a kernel as `by_group` makes it."""

    def settle_ranges(self, kernel, reduce_axes):
        """`settle`, with a kernel as `by_group` makes it."""

    def scale(self, kernel, reduce_axes):
        kernel, reduce_axes = self.by_group(backend.read(kernel), reduce_axes)
        return ops.stop_gradient(self._final(self.channel_scale(kernel, reduce_axes)))

    def set_bits(self, bits):
        check_bits(type(self), bits, self.widths)
        self.bits = bits

    def integers(self, kernel, reduce_axes):
        """The integers of the weights, float32 of `kernel`'s shape; args as in `scale`."""
        kernel = backend.read(kernel)
        scale = self.beside(self.scale(kernel, reduce_axes), reduce_axes)
        return self.to_integers(kernel * inverse_of(scale))

    def to_integers(self, steps):
        """The integers nearest to weights in units of their scale."""
        return backend.clip(backend.round_half_even(steps), -float(self.limit), float(self.limit))

    def _final(self, scale):
        if self.granularity == "tensor":
            scale = ops.broadcast_to(ops.max(scale), ops.shape(scale))
        if self.group_size is not None:
            scale = backend.round_to_bfloat16(ops.maximum(scale, SMALLEST_OF_GROUP))
        return ops.cast(power_of_two_above(ops.cast(scale, "float64")), "float32") if self.power_of_two else scale

    def fake_quant(self, kernel, reduce_axes):
        """`s·clip(rint(w/s), -limit, limit)`, with a straight-through gradient inside."""
        shape = kernel.shape
        kernel, reduce_axes = self.by_group(backend.read(kernel), reduce_axes)
        chosen, learned, factor = self.training_scale(kernel, reduce_axes)
        scale = beside(self._final(chosen), kernel, reduce_axes)
        axes = range(len(kernel.shape)) if self.granularity == "tensor" else reduce_axes
        learned = learned if self.trains_range else None
        # The same product as in `integer.fold`: training and export round every weight alike.
        inverse = inverse_of(scale)
        steps = kernel * inverse
        limit = float(self.limit)
        if self.clips or self._noise is not None:
            integers = self.to_integers(self._with_noise(steps))
        else:
            # The largest weight is the largest integer: there is nothing to clip.
            integers = backend.round_half_even(steps)
        share = factor * (math.prod(kernel.shape[axis] for axis in axes) * limit) ** -0.5
        reach = limit if self.clips else None
        slope = self._slope(steps)
        made = backend.weight_fake_quant(kernel, learned, reduce_axes, steps, inverse, integers, scale, reach, slope, share)
        return made if self.group_size is None else ops.reshape(made, shape)

    def _with_noise(self, steps):
        if self._noise is None:
            return steps
        return steps + keras.random.uniform(ops.shape(steps), -0.5, 0.5, seed=self._noise)

    def _slope(self, steps):
        """The derivative of the soft staircase, or `None` for 1."""
        if self.rounding != "soft":
            return None
        sharpness = ops.maximum(backend.read(self.sharpness), 1e-3)
        place = ops.tanh(sharpness * (steps - ops.floor(steps) - 0.5))
        return 0.5 * sharpness * (1.0 - place * place) / ops.tanh(0.5 * sharpness)

    def get_config(self):
        own = ("granularity", "group_size", "power_of_two", "rounding", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


@register("abs_max", KERNEL)
class AbsMax(UniformWeightQuantizer):
    """The scale that just holds the largest weight of each channel.

    Forward: `s·rint(w/s)` with `s = max|w| / (2**(bits-1) - 1)`. Gradient: straight through; no weight is ever clipped.

    Args:
        bits, granularity, power_of_two, rounding, seed: as in `UniformWeightQuantizer`.

    References:
        - [Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference](
          https://arxiv.org/abs/1712.05877)
    """

    clips = False

    def channel_scale(self, kernel, reduce_axes):
        # Compilers turn a float32 division by a constant into a product, which rounds otherwise now and then.
        return ops.cast(largest_weights(kernel, reduce_axes) / float(self.limit), "float32")


@register("percentile", KERNEL, method="percentile")
@register("mean_std", KERNEL, method="mean_std")
@register("mse", KERNEL, method="mse")
@register("clipped", KERNEL)
class ClippedAbsMax(UniformWeightQuantizer):
    """A share of the largest weight of each channel, which a method chooses once: when the weights come in.

    Forward: `s·clip(rint(w/s), -limit, limit)` with `s = share · max|w| / limit`. Gradient: 1 inside, 0 outside.
    `keras_quant.quantize` and `calibrate` choose the shares; later the scales follow the weights that training moves.

    Args:
        method: "mse", "percentile", "mean_std", "fixed" or "min_max" by name, or an object such as `MeanStd(3.0)`.
        bits, granularity, power_of_two, rounding, seed: as in `UniformWeightQuantizer`.
    """

    def __init__(self, method="mse", bits=8, **kwargs):
        super().__init__(bits, **kwargs)
        self.method = ranges.get(method)
        if not self.method.takes_weights:
            raise QuantizationError(
                f"{type(self.method).__name__} chooses ranges of activations only. Use 'mse', 'percentile' or 'mean_std'. "
                f"Received: method={method!r}"
            )
        self.share = None

    def create_ranges(self, shape, reduce_axes):
        if self.share is None:
            channels = [size for axis, size in enumerate(shape) if axis not in reduce_axes]
            options = {"initializer": "ones", "trainable": False, "dtype": "float32", "aggregation": "mean"}
            self.share = self.add_weight(name="share", shape=channels, **options)

    def fit_ranges(self, kernel, reduce_axes):
        kept = [axis for axis in range(kernel.ndim) if axis not in reduce_axes]
        rows = np.float64(np.transpose(kernel, [*reduce_axes, *kept]).reshape(-1, *(kernel.shape[axis] for axis in kept)))
        channels = rows.reshape(len(rows), -1)
        most = np.maximum(np.abs(channels).max(0), NARROWEST)
        share = np.clip(self.method.largest_weights(channels, self.limit) / most, 1e-3, 1.0)
        self.share.assign(share.reshape(self.share.shape))

    def channel_scale(self, kernel, reduce_axes):
        share = ops.cast(backend.read(self.share), "float64")
        return ops.cast(share * largest_weights(kernel, reduce_axes) / float(self.limit), "float32")

    def get_config(self):
        return {**super().get_config(), "method": ranges.serialize(self.method)}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "method": ranges.get(config["method"])})


def largest_weights(kernel, reduce_axes):
    """The largest absolute weight of each channel, float64; 1 where all are zero."""
    largest = backend.largest_size(kernel, reduce_axes)
    return ops.cast(ops.where(largest > 0, largest, 1.0), "float64")


def beside(scale, kernel, reduce_axes):
    """One value a channel, of a shape that broadcasts against the kernel."""
    leading = tuple(reduce_axes) == tuple(range(len(reduce_axes)))
    return scale if leading else ops.expand_dims(scale, reduce_axes)


def rounded(quantizer, kernel, reduce_axes):
    """The values that a new quantizer makes of a kernel; args as in `WeightQuantizer.scale`."""
    quantizer.create(kernel.shape, reduce_axes)
    quantizer.fit_to(ops.convert_to_numpy(kernel), reduce_axes)
    return quantizer.fake_quant(kernel, reduce_axes)


def on_grid(quantizer, kernel, reduce_axes):
    """The values that the integers of inference stand for, of `kernel`'s shape; args as in `WeightQuantizer.scale`."""
    integers, scale = integers_and_scale(quantizer, kernel, reduce_axes)
    return integers * quantizer.beside(scale, reduce_axes)


def integers_and_scale(quantizer, kernel, reduce_axes):
    """The integers of inference, float32 of `kernel`'s shape, and what `WeightQuantizer.scale` gives; args as there."""
    scale, limit = quantizer.scale(kernel, reduce_axes), float(quantizer.limit)
    steps = quantizer.values(kernel, reduce_axes) * inverse_of(quantizer.beside(scale, reduce_axes))
    return backend.clip(backend.round_half_even(steps), -limit, limit), scale
