"""Quantizers of weights whose scales are trained with the weights."""

import keras
import numpy as np
from keras import ops

from keras_quant import backend
from keras_quant.quantizers.activation import WIDEST
from keras_quant.quantizers.learned import LEAST_REACH, PositiveScale
from keras_quant.quantizers.registry import KERNEL, register
from keras_quant.quantizers.weight import UniformWeightQuantizer, largest_weights


@register("lsq", KERNEL)
class KernelLSQ(UniformWeightQuantizer):
    """Learned step size: the scale of each channel is trained.

    Forward: `ŵ = s·clip(rint(w/s), -limit, limit)`. Gradient of the weights: 1 inside, 0 outside. Gradient of the step:
    `∂ŵ/∂s = rint(w/s) - w/s` inside, `∓limit` outside, times `1 / √(N·limit)` with `N` weights a scale. `quantize` and
    `calibrate`, or else the first step of training, set `s = 2·mean|w| / √limit`, but no more than the largest weight needs.
    The variable is `reach = limit·s`, with the gradient under which descent moves `s` as the paper's does, see
    `LearnedQuantizer`.

    Args:
        bits, granularity, power_of_two, rounding, seed: as in `UniformWeightQuantizer`. With a power of two, the gradient is
            that of the scale before it is rounded.

    References:
        - [Learned Step Size Quantization](https://arxiv.org/abs/1902.08153)
    """

    learns, follows_weights = True, False
    # Made by `create`.
    reach = None

    def trained_ranges(self):
        return [] if self.reach is None else [self.reach]

    def set_bits(self, bits):
        super().set_bits(bits)
        self.reset()

    def create_ranges(self, shape, reduce_axes):
        if self.reach is None:
            channels = [size for axis, size in enumerate(shape) if axis not in reduce_axes]
            self.reach = self.add_weight(
                name="reach",
                shape=[] if self.granularity == "tensor" else channels,
                initializer="zeros",
                dtype="float32",
                aggregation="mean",
                constraint=PositiveScale(),
            )

    def reset(self):
        # Until training sets them, the scales follow the weights.
        if self.reach is not None:
            self.reach.assign(ops.zeros_like(self.reach))

    def fit_ranges(self, kernel, reduce_axes):
        """Set what is not set yet, as the first step of training would; nothing has to look for it in each step then."""
        sizes, axes = np.abs(kernel), None if self.granularity == "tensor" else reduce_axes
        first = self._first_reach(sizes.mean(axes, dtype="float64"), sizes.max(axes))
        reach = ops.convert_to_numpy(self.reach)
        self.reach.assign(np.where((reach > 0) & (reach < WIDEST), reach, first))

    def channel_scale(self, kernel, reduce_axes):
        return self._each_channel(self._reach(kernel, reduce_axes), kernel, reduce_axes)

    def settle_ranges(self, kernel, reduce_axes):
        self.reach.assign(ops.stop_gradient(self._reach(kernel, reduce_axes)))

    def training_scale(self, kernel, reduce_axes):
        if self.follows_data:
            self.reach.assign(self._first(kernel, reduce_axes))
        elif not backend.is_positive_now(self.reach):
            self.settle_ranges(kernel, reduce_axes)
        reach = backend.read(self.reach)
        # `∂s/∂reach = 1 / limit`, times `limit²`, see `LearnedQuantizer.trained_value`; by hand, to save operations.
        return self._each_channel(reach, kernel, reduce_axes), reach, float(self.limit)

    def _reach(self, kernel, reduce_axes):
        """The variable's values, from the weights where they are not set."""
        reach = backend.read(self.reach)
        is_set = (reach > 0) & (reach < WIDEST)
        first = lambda: ops.where(is_set, reach, self._first(kernel, reduce_axes))
        return backend.first_time(ops.all(is_set), reach, first)

    def _each_channel(self, reach, kernel, reduce_axes):
        # A product is the same wherever it is computed; compilers make one of a division by a constant, too, but not all.
        scale = reach * backend.constant(1.0 / self.limit)
        channels = [size for axis, size in enumerate(kernel.shape) if axis not in reduce_axes]
        return ops.broadcast_to(scale, channels) if self.granularity == "tensor" else scale

    def _first(self, kernel, reduce_axes):
        axes = None if self.granularity == "tensor" else reduce_axes
        wide = ops.abs(ops.cast(ops.stop_gradient(kernel), "float64"))
        return self._first_reach(ops.mean(wide, axis=axes), ops.max(wide, axis=axes))

    def _first_reach(self, mean, largest):
        """What `reach` begins with, from the mean and the largest absolute weight."""
        first = ops.minimum(2.0 * mean * np.sqrt(self.limit), largest)
        return ops.cast(ops.where(first > LEAST_REACH, first, 1.0), "float32")


@register("learned_clipping", KERNEL)
class LearnedClipping(UniformWeightQuantizer):
    """Learned clipping per channel: which share of the largest weight the integers reach is trained.

    Forward: `ŵ = s·clip(rint(w/s), -limit, limit)` with `s = σ(γ)·max|w| / limit`, γ trained for each channel. It begins
    at 4, where σ is 0.98. Gradients: of the weights 1 inside, 0 outside; of `s` as LSQ's, and on to γ by the chain rule.
    The scale is positive whatever γ is, and follows the weights.

    Args:
        bits, granularity, power_of_two, rounding, seed: as in `UniformWeightQuantizer`.

    References:
        - [OmniQuant: Omnidirectionally Calibrated Quantization](https://arxiv.org/abs/2308.13137), section 3.2
    """

    learns = True

    def __init__(self, bits=8, **kwargs):
        super().__init__(bits, **kwargs)
        self.clipping = None

    def trained_ranges(self):
        return [] if self.clipping is None else [self.clipping]

    def create_ranges(self, shape, reduce_axes):
        if self.clipping is None:
            channels = [size for axis, size in enumerate(shape) if axis not in reduce_axes]
            initializer = keras.initializers.Constant(4.0)
            self.clipping = self.add_weight(
                name="clipping", shape=channels, initializer=initializer, dtype="float32", aggregation="mean"
            )

    def channel_scale(self, kernel, reduce_axes):
        clipping = ops.cast(backend.read(self.clipping), "float64")
        clipping = ops.clip(ops.where(ops.isnan(clipping), 4.0, clipping), -6.0, 30.0)
        largest = largest_weights(ops.stop_gradient(kernel), reduce_axes)
        return ops.cast(ops.sigmoid(clipping) * largest / float(self.limit), "float32")
