"""Spectrograms: of small numbers beside large ones, which 8 bits do not hold, so they compute in float."""

import keras
import numpy as np
from keras import ops

from keras_quant.layers.registry import computes_in_float

_REASON = "A spectrum spans more decades than 8 bits hold."
# From Keras 3.6 and 3.9 on.
_Mel, _STFT = (getattr(keras.layers, name, None) for name in ("MelSpectrogram", "STFTSpectrogram"))


@keras.saving.register_keras_serializable(package="keras_quant")
class MelSpectrogram(_Mel or keras.layers.Layer):
    """`keras.layers.MelSpectrogram` whose `top_db` counts from the loudest value of each sample, not of the whole batch.

    So a file that is run sample by sample gives what `predict` gives. The transform of each frame is a convolution, which
    `.tflite` and `.onnx` have too. Args: those of `keras.layers.MelSpectrogram`.
    """

    def _spectrogram(self, inputs):
        border = self.fft_length // 2
        signal = ops.pad(inputs, [(0, 0), (border, border)], mode="reflect")[..., None]
        parts = [ops.conv(signal, np.float32(kernel[:, None]), self.sequence_stride) for kernel in self.kernels()]
        power = ops.square(parts[0]) + ops.square(parts[1])
        return power if self.mag_exp == 2 else ops.power(ops.sqrt(power), self.mag_exp)

    def kernels(self):
        """Those of real and imaginary part, `(fft_length, frequencies)` each, every frame's window in them."""
        length, width = self.fft_length, self.sequence_length
        before = (length - width) // 2
        window = np.zeros(length)
        window[before : before + width] = self._window()
        turns = np.outer(np.arange(length), np.arange(length // 2 + 1)) % length * (2 * np.pi / length)
        return window[:, None] * np.cos(turns), -window[:, None] * np.sin(turns)

    def _window(self):
        if self.window is None:
            return np.ones(self.sequence_length)
        if not isinstance(self.window, str):
            return ops.convert_to_numpy(self.window)
        mean = {"hann": 0.5, "hamming": 0.54}[self.window]
        return mean - (1 - mean) * np.cos(2 * np.pi * np.arange(self.sequence_length) / self.sequence_length)

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
