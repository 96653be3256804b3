"""The callback that freezes weights which oscillate between two integers."""

import math

import keras
from keras import ops

from keras_quant import backend
from keras_quant.callbacks.parts import FollowsSteps, kernels_of
from keras_quant.errors import QuantizationError
from keras_quant.integer.params import inverse_of
from keras_quant.layers.derived import is_derived
from keras_quant.quantizers.held import HeldIntegers
from keras_quant.quantizers.weight import UniformWeightQuantizer


class FreezeOscillating(FollowsSteps):
    """Freeze weights that oscillate between two integers, at the one where they were more often.

    With a straight-through gradient a weight whose best value lies between two integers is driven to the border of both and
    changes sides every few steps, which disturbs batch statistics and keeps few bits from settling. Per weight, with `n` its
    integer after a step and `Δ` its change,

    * it oscillates in a step, `o = 1`, if `n` changes and `Δ` has the opposite sign of the change before;
    * how often is `f ← m·o + (1 - m)·f`, where it was is `n̄ ← m·n + (1 - m)·n̄`;
    * once `f` exceeds the threshold, the weight stays at the integer `rint(n̄)` for the rest of training.

    A frozen weight's integer does not change any more, whatever the optimizer, learned scales and the other weights do:
    after each step it is `scale · n` again, with the scale of the moment. The largest weight of a channel whose scale is
    measured from it (`AbsMax` and the like) is never frozen, as the channel would be left without a measure. The counts
    begin anew when a `Schedule` changes the width, and are kept from one `fit` of a model to its next. Codebooks are left
    alone.

    `frozen_weights` in the logs of each epoch is how many are frozen. A step costs one compiled update of all kernels more,
    and for each weight 11 bytes.

    Args:
        threshold: float in (0, 1): the frequency above which a weight is frozen.
        final_threshold: what the threshold falls to by the end of training, along half a cosine; by default it stays.
        momentum: float in (0, 1]: `m`.
        start_at: epoch, fractions allowed, from which oscillations are counted.

    Raises:
        QuantizationError: for numbers out of range, and in `fit` for a model without quantized or with unbuilt layers, or
            compiled with `steps_per_execution` above 1, in which the steps cannot be told apart.

    References:
        - [Overcoming Oscillations in Quantization-Aware Training](https://arxiv.org/abs/2203.11086)
    """

    def __init__(self, threshold=0.02, final_threshold=None, momentum=0.01, start_at=0):
        super().__init__()
        final_threshold = threshold if final_threshold is None else final_threshold
        for name, value in (("threshold", threshold), ("final_threshold", final_threshold), ("momentum", momentum)):
            if not 0 < value <= 1:
                raise QuantizationError(f"`{name}` lies between 0 and 1. Received: {name}={value!r}")
        if final_threshold > threshold:
            raise QuantizationError(
                "`threshold` does not rise over training. Received: "
                f"threshold={threshold}, final_threshold={final_threshold}"
            )
        self.threshold, self.final_threshold, self.momentum, self.start_at = threshold, final_threshold, momentum, start_at
        self._counted = self._kernels = self._begin = self._update = None

    @property
    def frozen(self):
        """Dict from the paths of layers to how many of their weights are frozen."""
        return {kernel.layer.path: kernel.count() for kernel in self._kernels or []}

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        if self.model.steps_per_execution != 1:
            raise QuantizationError(
                "FreezeOscillating counts changes step by step. Compile the model with `steps_per_execution=1`. Received: "
                f"steps_per_execution={self.model.steps_per_execution}"
            )
        if self._counted is not self.model:
            self._counted, self._widths = self.model, None
            with self.model.distribute_strategy.scope():
                self._kernels = [_Kernel(x, self.momentum) for x in kernels_of(self.model) if _counts(x)]

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        for kernel in self._kernels:
            kernel.layer.kernel_quantizer.held = kernel.held

    def after_step(self, anew):
        if anew:
            # Traced with the widths that were.
            self._begin, self._update = backend.compiled(self._begin_all), backend.compiled(self._update_all)
            self._begin()
        elif all(kernel.layer.kernel_quantizer.fake_quant_enabled for kernel in self._kernels):
            self._update(ops.convert_to_tensor(self._threshold_now(), "float32"))

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["frozen_weights"] = sum(self.frozen.values())

    def _begin_all(self):
        for kernel in self._kernels:
            kernel.begin()

    def _update_all(self, threshold):
        for kernel in self._kernels:
            kernel.update(threshold)

    def _threshold_now(self):
        """`final + (first - final)·(1 + cos(π·t)) / 2`, `t` the share of training that is over."""
        done = min(self._clock.now / self._clock.epochs, 1.0) if self._clock.epochs else 0.0
        return self.final_threshold + (self.threshold - self.final_threshold) * 0.5 * (1.0 + math.cos(math.pi * done))


def _counts(layer):
    return isinstance(layer.kernel_quantizer, UniformWeightQuantizer) and not is_derived(layer.kernel)


class _Kernel:
    """What is known of one kernel's weights."""

    def __init__(self, layer, momentum):
        self.layer, self.momentum = layer, momentum
        make = lambda dtype: keras.Variable("zeros", layer.kernel.shape, dtype, trainable=False, name="oscillation")
        self.integers, self.direction, target = (make("int8") for _ in range(3))
        self.frequency, self.mean = make("float32"), make("float32")
        self.held = HeldIntegers(make("bool"), target)

    def count(self):
        return int(ops.convert_to_numpy(ops.sum(ops.cast(self.held.held, "int32"))))

    def _of_layer(self):
        layer = self.layer
        return layer.kernel_quantizer, backend.read(layer.kernel), layer.kernel_axes

    def begin(self):
        """Forget everything but the integers that are there."""
        quantizer, kernel, axes = self._of_layer()
        integers = quantizer.integers(kernel, axes)
        for variable in (self.direction, self.frequency, self.held.held, self.held.integers):
            variable.assign(ops.zeros_like(variable))
        self.integers.assign(ops.cast(integers, "int8"))
        self.mean.assign(integers)

    def update(self, threshold):
        """After a step: put the frozen weights back, count, freeze."""
        quantizer, kernel, axes = self._of_layer()
        # A scale that the optimizer made zero would be set by the next step, from weights with the held ones among them.
        quantizer.settle(kernel, axes)
        held, target = backend.read(self.held.held), ops.cast(self.held.integers, "float32")
        scale = quantizer.beside(self.held.scale(quantizer, kernel, axes), axes)
        integers = ops.where(held, target, quantizer.to_integers(kernel * inverse_of(scale)))
        change = ops.sign(integers - ops.cast(self.integers, "float32"))
        direction = ops.cast(self.direction, "float32")
        oscillates = ops.cast(change * direction < 0, "float32")
        frequency = self.frequency + self.momentum * (oscillates - self.frequency)
        mean = self.mean + self.momentum * (integers - self.mean)
        freeze = (frequency > threshold) & ~held
        if quantizer.follows_weights:
            # The scale stays what it is without those that are frozen.
            magnitude, axes = quantizer.by_group(ops.where(held, 0.0, ops.abs(kernel)), axes)
            freeze = freeze & ops.reshape(magnitude < ops.max(magnitude, axis=axes, keepdims=True), kernel.shape)
        target = ops.where(freeze, backend.round_half_even(mean), target)
        held = held | freeze
        self.held.held.assign(held)
        self.held.integers.assign(ops.cast(target, "int8"))
        self.integers.assign(ops.cast(ops.where(held, target, integers), "int8"))
        self.direction.assign(ops.cast(ops.where(change != 0, change, direction), "int8"))
        self.frequency.assign(frequency)
        self.mean.assign(mean)
        self.layer.kernel.assign(ops.where(held, target * scale, kernel))
