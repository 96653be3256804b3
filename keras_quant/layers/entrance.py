"""What tells a model in which every policy is a float one from one that nobody passed to `quantize`."""

import keras

from keras_quant.policy import Policy
from keras_quant.settings import InFloat32


@keras.saving.register_keras_serializable(package="keras_quant")
class FloatEntrance(InFloat32, keras.layers.Layer):
    """The identity, behind the inputs of a model that `quantize` made without a single layer of integers.

    It is nothing on the device; `export` takes the model for it.
    """

    def call(self, inputs):
        return inputs

    def compute_output_shape(self, input_shape):
        return input_shape


def is_quantized(model):
    """Whether a model has layers with policies, or comes from `quantize` with float ones only."""
    layers = model._flatten_layers()
    return any(isinstance(layer, FloatEntrance) or isinstance(getattr(layer, "policy", None), Policy) for layer in layers)
