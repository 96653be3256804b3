"""Quantized means of what a mask keeps."""

import keras
from keras import ops

from keras_quant import integer
from keras_quant.integer.params import float32_product, float32_ratio
from keras_quant.layers.base import QuantLayer


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantMaskedMean(QuantLayer, keras.layers.Layer):
    """The mean over the steps that a mask keeps, on int8: sums of integers in float32, which are exact, and one DIV.

    Inputs: `(batch, steps, channels)` and a mask of booleans `(batch, steps)`. Of no steps the mean is 0.

    Args:
        keepdims: whether to keep the steps as an axis of 1.
        output_quantizer: name, config or object, see `quantizers.get`.
    """

    integer_slots = (1,)

    def __init__(self, keepdims=False, **kwargs):
        super().__init__(**kwargs)
        self.keepdims = keepdims

    def _sums(self, x, mask):
        kept = ops.expand_dims(ops.cast(mask, "float32"), -1)
        total, count = (ops.sum(v, axis=1, keepdims=self.keepdims) for v in (x * kept, kept))
        return total, ops.maximum(count, 1.0)

    def float_call(self, inputs):
        total, count = self._sums(*inputs)
        return total / count

    def integer_call(self, inputs, y):
        x, mask = inputs
        total, count = self._sums(x.integers, mask)
        return integer.to_grid(float32_product(float32_ratio(total, count), x.params.scale), y)

    def compute_output_shape(self, input_shape):
        batch, _, channels = input_shape[0]
        return (batch, 1, channels) if self.keepdims else (batch, channels)

    def get_config(self):
        return {**super().get_config(), "keepdims": self.keepdims}
