"""Quantized GELU."""

import keras
import numpy as np
import scipy.special

from keras_quant import backend, integer
from keras_quant.layers.base import QuantLayer
from keras_quant.layers.functions import computes_activation
from keras_quant.layers.registry import computes


@computes_activation(keras.activations.gelu)
@keras.saving.register_keras_serializable(package="keras_quant")
class QuantGELU(QuantLayer, keras.layers.Layer):
    """GELU on int8, both forms; lowered to GELU, a built-in kernel.

    Args:
        approximate: whether by the hyperbolic tangent.
        output_quantizer: name, config or object, see `quantizers.get`.
    """

    def __init__(self, approximate=False, **kwargs):
        super().__init__(**kwargs)
        self.approximate = approximate

    def float_call(self, inputs):
        return keras.activations.gelu(inputs, approximate=self.approximate)

    def train_arithmetic(self, inputs):
        return self.float_call(inputs) if self.approximate else backend.gelu(inputs)

    def integer_call(self, x, y):
        return integer.gelu(x, y, self.approximate)

    def parts_elsewhere(self, inputs, y):
        """As `QuantSigmoid.parts_elsewhere`."""
        return integer.table_parts(self._exact, *inputs, y, size=np.abs)

    def _exact(self, v):
        """The function of a float64 array."""
        if self.approximate:
            return 0.5 * v * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (v + 0.044715 * v**3)))
        return 0.5 * v * scipy.special.erfc(-v * np.sqrt(0.5))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "approximate": self.approximate}


@computes("nn.Gelu")
def _gelu(operation, args, **arguments):
    return QuantGELU(operation.approximate, **arguments)
