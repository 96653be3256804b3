"""Quantized Dense."""

import keras
from keras import ops

from keras_quant import backend, integer
from keras_quant.layers.registry import quantizes
from keras_quant.layers.weighted import QuantWeighted
from keras_quant.policy import NARROW


@quantizes(keras.layers.Dense)
class QuantDense(QuantWeighted, keras.layers.Dense):
    """`keras.layers.Dense` on int8, one weight scale a unit; lowered to FULLY_CONNECTED.

    Args: those of `keras.layers.Dense`, and `policy`, `kernel_quantizer`, `batch_norm`, `output_quantizer`.
    """

    kernel_axes = (0,)
    activation_types = (*NARROW, "int16")

    def product(self, inputs, kernel):
        return ops.matmul(inputs, kernel)

    def biased_product(self, inputs, kernel, bias):
        return backend.dense(inputs, self.scaled_kernel(kernel), bias)

    def integer_call(self, x, y):
        return integer.fully_connected(x, self.folded_weights(x.params, y), y, self.bounds)
