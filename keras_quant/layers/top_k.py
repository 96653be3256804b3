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


@keras.saving.register_keras_serializable(package="keras_quant")
class TopIndices(keras.Operation):
    """The indices of `keras.ops.top_k`; of equal values the first ones.

    Args:
        k: how many.
    """

    def __init__(self, k, name=None):
        super().__init__(name=name)
        self.k = k

    def call(self, x):
        return ops.top_k(x, self.k)[1]

    def compute_output_spec(self, x):
        return keras.KerasTensor((*x.shape[:-1], self.k), dtype="int32")

    def get_config(self):
        return {"k": self.k, "name": self.name}
