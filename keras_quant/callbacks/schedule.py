"""The callback that takes a quantized model through the phases of its training."""

import dataclasses
import warnings

import keras
import numpy as np

from keras_quant import backend
from keras_quant.callbacks.parts import Clock, build_optimizer, check_ready, kernels_of, quantizers_of, retrace
from keras_quant.errors import QuantizationError
from keras_quant.layers.affine import QuantBatchNormalization
from keras_quant.layers.weighted import QuantWeighted, hold_statistics
from keras_quant.quantizers import UniformQuantizer
from keras_quant.quantizers.learned_weight import KernelLSQ
from keras_quant.quantizers.weight import UniformWeightQuantizer


@dataclasses.dataclass(frozen=True)
class _Phase:
    """What training does at one time; by default the ordinary."""

    fake_quant: bool = True
    ranges: str | None = None
    holds_statistics: bool = False
    weight_bits: int | None = None
    activation_bits: int | None = None


class Schedule(keras.callbacks.Callback):
    """Phases of quantization-aware training within one `fit`.

        schedule = kq.callbacks.Schedule(quantize_at=1, learn_ranges_at=2, freeze_ranges_at=8, freeze_statistics_at=8)
        qmodel.fit(x, y, epochs=10, callbacks=[schedule])

    Times are epochs from the start of training, counted as `initial_epoch` of `fit` does, so that a training that is resumed
    goes on where it was. A fraction means the first step at or after it. All arguments are optional, and each is
    independent of the others.

    * Before `quantize_at`, training is that of the float model: no rounding, no clipping. Ranges are observed meanwhile.
    * From then until `learn_ranges_at`, ranges that are learned (LSQ, LSQ+, PACT, scales of kernels) follow the data,
      as they do on their first batch, and gradients leave them alone.
    * From `freeze_ranges_at` on no range moves, neither learned nor observed. (Scales that are measured from the
      weights, as `AbsMax` does, go on following those.)
    * From `freeze_statistics_at` on batch normalizations use and keep their moving statistics, as inference does; gain and
      shift train on. Normalizations of Keras's own, in parts that compute in float, are set to `trainable = False`
      meanwhile, which stops those, too.
    * `weight_bits` and `activation_bits` begin wider: each layer has the larger of the scheduled width and its own.
    * `sharpness` goes to kernels whose quantizer has `rounding="soft"`.

    Inference, `export` and saving are exact in every phase, for the model as it is then; inference rounds at all times.
    After the last epoch the model is an ordinary one again, of its own widths.

    A step costs what its phase needs: the phase is read while the step is traced, and a change has it traced once more. To
    train in loops of your own, call `set_phase` of the layers' quantizers and trace your function anew.

    Args:
        quantize_at: epoch that fake quantization begins with.
        learn_ranges_at: epoch from which learned ranges train; by default `quantize_at`.
        freeze_ranges_at: epoch from which ranges stand still; by default never.
        freeze_statistics_at: epoch from which batch statistics stand still; by default never.
        weight_bits: dict from epochs to widths, from 2 to 8 or `None` for the layers' own, each until the next:
            `{0: 8, 2: 6, 4: None}`. Codebooks and layers with dynamic activations keep theirs.
        activation_bits: likewise. int16 stays.
        sharpness: dict from epochs to the sharpness of the soft staircase, interpolated between them: `{0: 1.0, 8: 10.0}`.

    Raises:
        QuantizationError: for times or widths that mean nothing, and in `fit` for a model without quantized or with unbuilt
            layers, or fractions of an epoch whose length is unknown.

    References:
        - [Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference](
          https://arxiv.org/abs/1712.05877), section 3.1, for quantization that sets in late
        - [Quantizing deep convolutional networks for efficient inference](https://arxiv.org/abs/1806.08342), for batch
          statistics that are frozen late
        - [Learned Step Size Quantization](https://arxiv.org/abs/1902.08153), for ranges learned from the first batch's
        - [Towards Effective Low-bitwidth Convolutional Neural Networks](https://arxiv.org/abs/1711.00205), for widths that
          shrink in training
        - [Differentiable Soft Quantization](https://arxiv.org/abs/1908.05033), for the sharpness
    """

    def __init__(
        self,
        quantize_at=0,
        learn_ranges_at=None,
        freeze_ranges_at=None,
        freeze_statistics_at=None,
        weight_bits=None,
        activation_bits=None,
        sharpness=None,
    ):
        super().__init__()
        self.quantize_at = _time("quantize_at", quantize_at)
        self.learn_ranges_at = _time("learn_ranges_at", quantize_at if learn_ranges_at is None else learn_ranges_at)
        self.freeze_ranges_at = _time("freeze_ranges_at", freeze_ranges_at, optional=True)
        self.freeze_statistics_at = _time("freeze_statistics_at", freeze_statistics_at, optional=True)
        self.weight_bits = _widths("weight_bits", weight_bits)
        self.activation_bits = _widths("activation_bits", activation_bits)
        self.sharpness = _sharpness(sharpness)
        if self.learn_ranges_at < self.quantize_at:
            raise QuantizationError(
                "Ranges are learned from rounding, so `learn_ranges_at` is not before `quantize_at`. Received: "
                f"learn_ranges_at={learn_ranges_at}, quantize_at={quantize_at}"
            )
        # No phase: whatever an earlier `fit` that was interrupted has left behind is replaced.
        self._phase, self._clock, self._stopped, self._sharpen = None, None, [], None

    def on_train_begin(self, logs=None):
        check_ready(self.model, self)
        for quantizer in quantizers_of(self.model):
            # The optimizer has to know all variables that will ever train.
            quantizer.set_phase()
        build_optimizer(self.model)
        self._clock = Clock(self.params)
        self._clock.check(self._borders(), self)
        self._sharpen = self._sharpening()

    def on_epoch_begin(self, epoch, logs=None):
        self._clock.begin_epoch(epoch)
        self._follow()

    def on_train_batch_begin(self, batch, logs=None):
        if self._clock.steps:
            self._clock.begin_batch(batch)
            self._follow()

    def on_train_end(self, logs=None):
        self._warn_of_width()
        self.finish()

    def finish(self):
        """Make the model an ordinary one again, as the end of `fit` does; for a `fit` that was interrupted."""
        self._enter(_Phase())
        self._phase = None

    def _borders(self):
        single = (self.quantize_at, self.learn_ranges_at, self.freeze_ranges_at, self.freeze_statistics_at)
        return [border for border in single if border is not None] + [*self.weight_bits, *self.activation_bits]

    def _follow(self):
        phase = self._phase_now()
        if phase != self._phase:
            self._enter(phase)
        if self._sharpen is not None:
            self._sharpen(np.float32(np.interp(self._clock.now, list(self.sharpness), list(self.sharpness.values()))))

    def _phase_now(self):
        reached = lambda border: border is not None and self._clock.reached(border)
        ranges = "frozen" if reached(self.freeze_ranges_at) else None if reached(self.learn_ranges_at) else "observed"
        begun = [[bits for at, bits in widths.items() if reached(at)] for widths in (self.weight_bits, self.activation_bits)]
        weight_bits, activation_bits = (bits[-1] if bits else None for bits in begun)
        return _Phase(reached(self.quantize_at), ranges, reached(self.freeze_statistics_at), weight_bits, activation_bits)

    def _enter(self, phase):
        self._phase = phase
        self._set_widths(phase)
        for quantizer in quantizers_of(self.model):
            quantizer.set_phase(phase.fake_quant, phase.ranges)
            if not phase.fake_quant and isinstance(quantizer, KernelLSQ) and quantizer.trainable:
                # Inference follows the weights, and the first step that rounds begins with theirs.
                quantizer.reset()
        self._hold_statistics(phase.holds_statistics)
        retrace(self.model)

    def _set_widths(self, phase):
        for layer in kernels_of(self.model):
            quantizer = layer.kernel_quantizer
            if isinstance(quantizer, UniformWeightQuantizer) and isinstance(layer, QuantWeighted):
                if _widen(quantizer, phase.weight_bits):
                    quantizer.fit_to(keras.ops.convert_to_numpy(layer.kernel), layer.kernel_axes)
        for quantizer in quantizers_of(self.model, UniformQuantizer):
            if quantizer.final_bits <= 8:
                _widen(quantizer, phase.activation_bits)

    def _hold_statistics(self, held):
        norms = [x for x in self.model._flatten_layers() if isinstance(x, keras.layers.BatchNormalization)]
        fused = {id(getattr(layer, "batch_norm", None)) for layer in self.model._flatten_layers()}
        ours = [norm for norm in norms if id(norm) in fused or isinstance(norm, QuantBatchNormalization)]
        for norm in ours:
            hold_statistics(norm, held)
        if held:
            self._stopped += [norm for norm in norms if norm not in ours and norm.trainable]
        for norm in self._stopped:
            norm.trainable = not held
        self._stopped = self._stopped if held else []

    def _sharpening(self):
        """A compiled function that sets the sharpness of all kernels, or `None`."""
        if not self.sharpness:
            return None
        kernels = quantizers_of(self.model, UniformWeightQuantizer)
        variables = [kernel.sharpness for kernel in kernels if kernel.rounding == "soft"]
        if not variables:
            raise QuantizationError(
                f"Model '{self.model.name}' has no kernel that is rounded softly. Give its layers a `kernel_quantizer` with "
                '`rounding="soft"`, or leave `sharpness` out.'
            )
        return backend.assigning(variables)

    def _warn_of_width(self):
        wide = [x for x in quantizers_of(self.model) if x.bits != x.final_bits]
        if wide:
            warnings.warn(
                f"Training ended before the schedule did: {len(wide)} quantizers, '{wide[0].name}' first, go from "
                f"{wide[0].bits} to {wide[0].final_bits} bits untrained. Train on with `initial_epoch`, or let the last of "
                "`weight_bits` and `activation_bits` be `None` in time.",
                stacklevel=2,
            )


def _widen(quantizer, bits):
    """Give a quantizer the scheduled width, or its own if that is larger or none is scheduled; whether it changed."""
    bits = max(bits or 0, quantizer.final_bits)
    if bits == quantizer.bits:
        return False
    quantizer.set_bits(bits)
    return True


def _time(name, value, optional=False):
    if value is None and optional:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < float("inf"):
        raise QuantizationError(f"`{name}` is a time in epochs from 0 on. Received: {name}={value!r}")
    return value


def _widths(name, given):
    given = _by_time(name, given)
    for bits in given.values():
        if bits is not None and (type(bits) is not int or not 2 <= bits <= 8):
            raise QuantizationError(f"The widths of `{name}` are integers from 2 to 8, or None. Received: {bits!r}")
    return given


def _sharpness(given):
    given = _by_time("sharpness", given)
    for value in given.values():
        if not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
            raise QuantizationError(f"The values of `sharpness` are numbers from 0 on. Received: {value!r}")
    return given


def _by_time(name, given):
    if given is not None and not (isinstance(given, dict) and given):
        raise QuantizationError(f"`{name}` is a dict from epochs to values, such as {{0: 8, 2: None}}. Received: {given!r}")
    return {_time(name, at): given[at] for at in sorted(given or {}, key=float)}
