"""Sums and products with a constant tensor of any shape. (One value a channel is an affine layer, see `affine.py`.)"""

import keras
import numpy as np
from keras import ops

from keras_quant import integer
from keras_quant.layers.base import FusedActivation, QuantLayer
from keras_quant.layers.multiply import every_integer


class _WithConstant(FusedActivation, QuantLayer, keras.layers.Layer):
    """A tensor and a constant of int8, symmetric, one scale.

    Args:
        constant_shape: shape of the constant, `(1, ...)`; it and the input broadcast against each other.
        constant_scale: its scale; by default the one that just holds the largest absolute value.
        constant_initializer: see `keras.initializers.get`.
        trainable: whether `fit` changes it.
        activation: relu and relu6 are fused.
        output_quantizer: name, config or object, see `quantizers.get`.
    """

    def __init__(self, constant_shape, constant_scale=None, constant_initializer="zeros", **kwargs):
        super().__init__(**kwargs)
        self.constant_shape, self.constant_scale = tuple(constant_shape), constant_scale
        self.constant_initializer = keras.initializers.get(constant_initializer)
        self.constant = self.add_weight(name="constant", shape=self.constant_shape, initializer=self.constant_initializer)

    def quantized_constant(self):
        """The constant as the file holds it, `Quantized`."""
        params = integer.QuantParams(self._scale(), ops.zeros((), "float32"))
        return integer.Quantized(integer.to_grid(self.constant, params), params)

    def _scale(self):
        if self.constant_scale is not None:
            return ops.convert_to_tensor(self.constant_scale, "float32")
        largest = ops.cast(ops.max(ops.abs(self.constant)), "float64")
        return ops.cast(ops.where(largest > 0, largest, 1.0) / 127.0, "float32")

    def combine(self, inputs, constant):
        raise NotImplementedError

    def float_call(self, inputs):
        return self.activate(self.combine(inputs, self.constant))

    def train_arithmetic(self, inputs):
        if not self.output_quantizer.fake_quant_enabled:
            return self.combine(inputs, self.constant)
        held = self.quantized_constant()
        rounded = held.integers * held.params.scale
        return self.combine(inputs, self.constant + ops.stop_gradient(rounded - self.constant))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *np.broadcast_shapes(input_shape[1:], self.constant_shape[1:]))

    def get_config(self):
        return {
            **super().get_config(),
            "constant_shape": self.constant_shape,
            "constant_scale": self.constant_scale,
            "constant_initializer": keras.initializers.serialize(self.constant_initializer),
        }


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantAddConstant(_WithConstant):
    """A tensor plus a constant tensor on int8; lowered to ADD."""

    def combine(self, inputs, constant):
        return inputs + constant

    def integer_call(self, x, y):
        return integer.add(x, self.quantized_constant(), y, self.bounds)


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantMultiplyConstant(_WithConstant):
    """A tensor times a constant tensor on int8; lowered to MUL."""

    def combine(self, inputs, constant):
        return inputs * constant

    def integer_call(self, x, y):
        return integer.multiply(x, self.quantized_constant(), y, self.bounds)

    def parts_elsewhere(self, inputs, y):
        """As `QuantMultiply.parts_elsewhere`."""
        (x,), held = inputs, self.quantized_constant()
        values = np.unique(ops.convert_to_numpy(held.integers))
        return integer.products_part(np.multiply.outer(every_integer(x), values), x, held.params, y)


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantConstant(QuantLayer, keras.layers.Layer):
    """A constant tensor, the same for each sample of its input: learned queries where a layer takes tensors.

    Lowered to operators that read one value of the input, for its batch; a constant operand would put a matrix product on
    another kernel.

    Args:
        constant_shape: shape of the constant, one sample: `(1, ...)`.
        trainable: whether `fit` changes it.
        output_quantizer: name, config or object, see `quantizers.get`.
    """

    def __init__(self, constant_shape, **kwargs):
        super().__init__(**kwargs)
        self.constant_shape = tuple(constant_shape)
        self.constant = self.add_weight(name="constant", shape=self.constant_shape, initializer="zeros")

    def float_call(self, inputs):
        return self._for_each(inputs, self.constant)

    def integer_call(self, x, y):
        return self._for_each(x.integers, integer.to_grid(self.constant, y))

    def _for_each(self, inputs, sample):
        return ops.broadcast_to(sample, (ops.shape(inputs)[0], *self.constant_shape[1:]))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *self.constant_shape[1:])

    def get_config(self):
        return {**super().get_config(), "constant_shape": self.constant_shape}
