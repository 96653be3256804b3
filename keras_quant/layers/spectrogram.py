"""Spectrograms: of small numbers beside large ones, which 8 bits do not hold, so they compute in float."""

import keras
from keras import ops

from keras_quant.layers.registry import computes_in_float

_REASON = "A spectrum spans more decades than 8 bits hold."
# From Keras 3.6 and 3.9 on.
_Mel, _STFT = (getattr(keras.layers, name, None) for name in ("MelSpectrogram", "STFTSpectrogram"))


@keras.saving.register_keras_serializable(package="keras_quant")
class MelSpectrogram(_Mel or keras.layers.Layer):
    """`keras.layers.MelSpectrogram` whose `top_db` counts from the loudest value of each sample, not of the whole batch.

    So a file that is run sample by sample gives what `predict` gives. Args: those of `keras.layers.MelSpectrogram`.
    """

    def _dbscale(self, inputs):
        decibels = 10.0 * ops.log10(ops.maximum(inputs, self.min_power)) - self.reference
        loudest = ops.max(decibels, axis=tuple(range(1, len(decibels.shape))), keepdims=True)
        return ops.maximum(decibels, loudest - self.top_db)

    @property
    def reference(self):
        """The decibels that `ref_power` amounts to."""
        return 10.0 * ops.log10(ops.maximum(ops.abs(ops.convert_to_tensor(self.ref_power, "float32")), self.min_power))


if _STFT is not None:
    computes_in_float(_STFT, reason=_REASON)
if _Mel is not None:
    computes_in_float(_Mel, reason=_REASON, by=MelSpectrogram)
