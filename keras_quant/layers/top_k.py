"""The largest values, and where they are."""

import keras
from keras import ops

from keras_quant.layers.reshape import Movement


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantTopK(Movement, keras.layers.Layer):
    """The values of `keras.ops.top_k` along the last axis, largest first; lowered to TOPK_V2.

    Args:
        k: how many.
    """

    homogeneous = False

    def __init__(self, k, **kwargs):
        super().__init__(**kwargs)
        self.k = k

    def float_call(self, inputs):
        return ops.top_k(inputs, self.k)[0]

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.k)

    def get_config(self):
        return {**super().get_config(), "k": self.k}


class _OfTopK(keras.Operation):
    """One output of `keras.ops.top_k`.

    Args:
        k: how many.
    """

    def __init__(self, k, name=None):
        super().__init__(name=name)
        self.k = k

    def get_config(self):
        return {"k": self.k, "name": self.name}


@keras.saving.register_keras_serializable(package="keras_quant")
class TopValues(_OfTopK):
    """The values of `keras.ops.top_k`, largest first. Args: as of `_OfTopK`."""

    def call(self, x):
        return ops.top_k(x, self.k)[0]

    def compute_output_spec(self, x):
        return keras.KerasTensor((*x.shape[:-1], self.k), dtype=x.dtype)


@keras.saving.register_keras_serializable(package="keras_quant")
class TopIndices(_OfTopK):
    """The indices of `keras.ops.top_k`; of equal values the first ones. Args: as of `_OfTopK`."""

    def call(self, x):
        return ops.top_k(x, self.k)[1]

    def compute_output_spec(self, x):
        return keras.KerasTensor((*x.shape[:-1], self.k), dtype="int32")
