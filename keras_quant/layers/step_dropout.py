"""The `recurrent_dropout` of recurrent layers."""

import keras

from keras_quant.layers.dropout import QuantIdentityInInference
from keras_quant.layers.registry import quantizes


@keras.saving.register_keras_serializable(package="keras_quant")
class StepDropout(keras.layers.Layer):
    """Leaves the same part of a state out in all steps of a batch, in training.

    Args:
        rate: float in [0, 1).
        seed: integer.
    """

    def __init__(self, rate, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.rate, self.seed = rate, seed
        self.generator = keras.random.SeedGenerator(seed)
        self._factors = {}
        self.built = True

    def draw(self, shape):
        """Choose what is left out of a batch of states; who runs the steps does it, outside of the loop."""
        self._factors["of_batch"] = keras.random.dropout(keras.ops.ones(shape), self.rate, seed=self.generator)

    def call(self, inputs, training=None):
        if not training or not self._factors:
            return inputs
        return inputs * keras.ops.cast(self._factors["of_batch"], inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


@quantizes(StepDropout)
class QuantStepDropout(QuantIdentityInInference, StepDropout):
    """`StepDropout` on integers."""

    keras_class = StepDropout
