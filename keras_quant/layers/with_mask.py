"""The mask that a model's output carries."""

import keras

try:
    from keras.src.backend.common.masking import get_keras_mask, set_keras_mask
except ImportError:  # Keras before 3.6

    def get_keras_mask(x):
        """The Keras mask of a tensor, or `None`."""
        return getattr(x, "_keras_mask", None)

    def set_keras_mask(x, mask):
        """Give a tensor a Keras mask."""
        x._keras_mask = mask


@keras.saving.register_keras_serializable(package="keras_quant")
class WithMask(keras.layers.Layer):
    """A tensor that carries a mask, for losses and metrics; on the device it is nothing.

    Inputs: the tensor, and the mask.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs):
        outputs, mask = inputs
        outputs = keras.ops.copy(outputs)
        set_keras_mask(outputs, mask)
        return outputs

    def compute_mask(self, inputs, mask=None):
        return inputs[1]

    def compute_output_shape(self, input_shape):
        return input_shape[0]
