"""The callback that averages weights, ranges and statistics over training."""

import keras
from keras import ops

from keras_quant import backend
from keras_quant.callbacks.parts import FollowsSteps, kernels_of, quantizers_of, twin
from keras_quant.errors import QuantizationError
from keras_quant.quantizers import MovingAverage


class WeightAverage(FollowsSteps):
    """Train on, and end with the exponential moving average of all that training moves, so that it fits together.

        qmodel.fit(x, y, epochs=10, callbacks=[kq.callbacks.WeightAverage(0.999)])

    After each step `average ← d·average + (1 - d)·value`, with `d = min(decay, (1 + t) / (10 + t))` after `t` steps.
    Averaged are the variables that training changes: float weights; the trained ranges and scales of quantizers; the ranges
    that are observed; batch statistics. The integers are those that the averaged scales give of the averaged weights.
    Weights that `FreezeOscillating` has frozen stay at their integers.

    `keras.callbacks.SwapEMAWeights` with an optimizer of `use_ema=True` averages the trained variables alone: averaged
    weights then meet the batch statistics and the observed ranges of the last few steps, which belong to other weights, and
    frozen weights leave their integers.

    The average begins with the first step from `start_at` on, anew where a `Schedule` changes a width or switches rounding
    on, and anew with each `fit`. With `keras.callbacks.EarlyStopping(restore_best_weights=True)` or `ModelCheckpoint`, set
    `swap_on_epoch` and put those behind this callback.

    Args:
        decay: float in [0, 1).
        start_at: epoch, fractions allowed, from which values count.
        validate: whether validation within `fit` sees the average.
        swap_on_epoch: whether the average is in the model from the end of each epoch to the begin of the next, for the
            callbacks behind this one, as in `keras.callbacks.SwapEMAWeights`.

    Raises:
        QuantizationError: for a decay out of range, and in `fit` for a model without quantized or with unbuilt layers, or an
            optimizer that averages as well.

    References:
        - [Acceleration of Stochastic Approximation by Averaging](https://doi.org/10.1137/0330046)
    """

    def __init__(self, decay=0.999, start_at=0, validate=True, swap_on_epoch=False):
        super().__init__()
        if not 0 <= decay < 1:
            raise QuantizationError(f"`decay` is in [0, 1). Received: decay={decay!r}")
        self.decay, self.start_at, self.validate, self.swap_on_epoch = decay, start_at, validate, swap_on_epoch
        self._training = self._is_in_model = False
        self._count = 0

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        if getattr(self.model.optimizer, "use_ema", False):
            raise QuantizationError(
                "The optimizer averages the weights as well, and would overwrite this callback's. Leave `use_ema` out."
            )
        for layer in kernels_of(self.model):
            # What an earlier `fit` held; `FreezeOscillating` says so anew as the first epoch begins.
            layer.kernel_quantizer.held = None
        self._variables = averaged_variables(self.model)
        with self.model.distribute_strategy.scope():
            self._averages = [twin(variable) for variable in self._variables]
        self._update, self._exchange = backend.compiled(self._update_all), backend.compiled(self._exchange_all)
        self._training, self._is_in_model, self._count, self._widths = True, False, 0, None

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        self._take_out()

    def after_step(self, anew):
        if anew:
            self._count = 0
        kept = min(self.decay, (1 + self._count) / (10 + self._count)) if self._count else 0.0
        self._update(ops.convert_to_tensor(1.0 - kept, "float32"))
        self._count += 1

    def on_test_begin(self, logs=None):
        if self._training and self.validate:
            self._put_in()

    def on_test_end(self, logs=None):
        if self._training and self.validate:
            self._take_out()

    def on_epoch_end(self, epoch, logs=None):
        if self.swap_on_epoch:
            self._put_in()

    def on_train_end(self, logs=None):
        self._put_in()
        self._training = self._is_in_model = False
        self._averages = self._update = self._exchange = None

    def _update_all(self, share):
        for average, variable in zip(self._averages, self._variables):
            average.assign(average + share * (variable - average))

    def _exchange_all(self):
        for average, variable in zip(self._averages, self._variables):
            present = backend.read(variable) + 0.0
            variable.assign(average)
            average.assign(present)

    def _put_in(self):
        if not self._count or self._is_in_model:
            return
        self._exchange()
        self._is_in_model = True
        for layer in kernels_of(self.model):
            quantizer = layer.kernel_quantizer
            if quantizer.held is not None:
                layer.kernel.assign(quantizer.held.applied(quantizer, backend.read(layer.kernel), layer.kernel_axes))

    def _take_out(self):
        if self._is_in_model:
            self._exchange()
            self._is_in_model = False


def averaged_variables(model):
    """The variables of a model that training moves step by step: weights, ranges, statistics."""
    found = {id(variable): variable for variable in model.trainable_variables}
    for quantizer in quantizers_of(model):
        # A schedule may have them join later.
        ranges = quantizer.trained_ranges() if quantizer.trainable else []
        ranges = [quantizer.low, quantizer.high] if isinstance(quantizer, MovingAverage) else ranges
        found.update((id(variable), variable) for variable in ranges)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
            found.update((id(variable), variable) for variable in (layer.moving_mean, layer.moving_variance))
    return list(found.values())
