"""What the callbacks find in a model, and how its compiled steps are made anew."""

import keras

from keras_quant.errors import QuantizationError
from keras_quant.layers.base import GridInputs
from keras_quant.quantizers import ActivationQuantizer, WeightQuantizer


def check_built(model, callback):
    """Refuse a model whose variables are not there yet.

    Args:
        model: `keras.Model`.
        callback: whose error it is.
    """
    quantized = [layer for layer in model._flatten_layers() if isinstance(layer, GridInputs)]
    if not (model.built and all(layer.built for layer in quantized)):
        raise QuantizationError(
            f"{type(callback).__name__} needs the variables of model '{model.name}' before the first step. Call the model "
            "on a batch, or `build` it, before `fit`."
        )


def check_ready(model, callback):
    """Refuse a model without quantized layers, or whose variables are not there yet; args as of `check_built`."""
    check_built(model, callback)
    name = type(callback).__name__
    if not quantizers_of(model):
        raise QuantizationError(
            f"{name}: model '{model.name}' has no quantized layer. Pass it to `keras_quant.quantize` first."
        )


def quantizers_of(model, kind=(ActivationQuantizer, WeightQuantizer)):
    """The model's quantizers, each once."""
    return [layer for layer in model._flatten_layers() if isinstance(layer, kind)]


def kernels_of(model):
    """The layers of a model, each once, whose kernel has a quantizer."""
    holds_kernel = lambda layer: isinstance(getattr(layer, "kernel_quantizer", None), WeightQuantizer)
    return [x for x in model._flatten_layers() if holds_kernel(x) and getattr(x, "kernel", None) is not None]


def widths(model):
    """What the grids of a model depend on besides its variables: whoever counts integers begins anew when it changes."""
    return [(quantizer.bits, quantizer.fake_quant_enabled) for quantizer in quantizers_of(model)]


def retrace(model):
    """Have the compiled steps of a model, and of models inside it, traced again with what its layers say now."""
    for part in model._flatten_layers():
        if isinstance(part, keras.Model):
            part.train_function = part.test_function = part.predict_function = None
    if getattr(model, "optimizer", None) is not None:
        model.make_train_function(force=True)


def build_optimizer(model):
    """Let the optimizer know all variables that are trained now; variables that join later it would refuse."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and not optimizer.built:
        with model.distribute_strategy.scope():
            optimizer.build(model.trainable_variables)


def twin(variable):
    """A variable of zeros of the same shape and dtype, to keep another value of it."""
    return keras.Variable("zeros", variable.shape, variable.dtype, trainable=False, name="twin")


class Clock:
    """The place in training, in epochs.

    Args:
        params: a callback's `params`.
    """

    def __init__(self, params):
        self.steps, self.epochs = params.get("steps"), params.get("epochs")
        self.now = 0.0
        self._epoch = 0

    def begin_epoch(self, epoch):
        self._epoch, self.now = epoch, float(epoch)

    def begin_batch(self, batch):
        """Before a batch, by its number in the epoch; unknown steps an epoch leave the time where the epoch began."""
        if self.steps:
            self.now = self._epoch + batch / self.steps

    def check(self, borders, callback):
        """Refuse fractions of an epoch where nobody knows how long one is."""
        if not self.steps and any(float(border) % 1 for border in borders):
            raise QuantizationError(
                f"{type(callback).__name__}: fractions of an epoch need its number of steps, which this data does not tell. "
                f"Pass `steps_per_epoch` to `fit`, or whole epochs. Received: {sorted(borders)}"
            )

    def reached(self, border):
        """Whether it is time for what begins at `border`."""
        return self.now >= border - 1e-6


class FollowsSteps(keras.callbacks.Callback):
    """Base of callbacks that count what each step does, from the epoch `start_at` on; a subclass gives `after_step`."""

    start_at = 0
    _clock = None
    # `widths` at the last step that was counted.
    _widths = None

    def after_step(self, anew):
        """Count a step.

        Args:
            anew: whether counting begins with it, as it is the first or the widths have changed.
        """
        raise NotImplementedError

    def on_train_begin(self, logs=None):
        check_ready(self.model, self)
        self._clock = Clock(self.params)
        self._clock.check([self.start_at], self)

    def on_epoch_begin(self, epoch, logs=None):
        self._clock.begin_epoch(epoch)

    def on_train_batch_begin(self, batch, logs=None):
        self._clock.begin_batch(batch)

    def on_train_batch_end(self, batch, logs=None):
        if self._clock.reached(self.start_at):
            before, self._widths = self._widths, widths(self.model)
            self.after_step(anew=self._widths != before)
