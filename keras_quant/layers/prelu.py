"""Quantized PReLU."""

import keras
from keras import ops

from keras_quant.layers.add import QuantAdd, QuantSubtract
from keras_quant.layers.base import QuantComposite
from keras_quant.layers.constant import QuantMultiplyConstant
from keras_quant.layers.registry import quantizes
from keras_quant.layers.relu import QuantReLU


class _NegativePart(QuantSubtract):
    """`x - relu(x)` on the grid of `x`, which holds it exactly: its own range may be too small a share of the input's."""

    keeps_grid = True


@quantizes(keras.layers.PReLU)
class QuantPReLU(QuantComposite, keras.layers.PReLU):
    """`keras.layers.PReLU` on int8: `p + alpha · (x - p)` with `p = relu(x)`; lowered to QUANTIZE, SUB, MUL, ADD.

    Args: those of `keras.layers.PReLU`.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.positive = QuantReLU(name=f"{self.name}_positive")
        self.negative = _NegativePart(name=f"{self.name}_negative")
        self.total = QuantAdd(name=f"{self.name}_total")

    def build_parts(self, input_shape):
        shared = self.shared_axes or []
        shape = [1, *(1 if axis in shared else size for axis, size in enumerate(input_shape) if axis)]
        self.slope = QuantMultiplyConstant(shape, name=f"{self.name}_slope")
        self.slope.constant.assign(self.alpha_initializer(shape))
        for layer in (self.positive, self.slope):
            layer.build(input_shape)
        for layer in (self.negative, self.total):
            layer.build([input_shape, input_shape])

    def compose(self, inputs, training=None):
        positive = self.positive(inputs, training=training)
        negative = self.negative([inputs, positive], training=training)
        return self.total([positive, self.slope(negative, training=training)], training=training)

    @property
    def last_part(self):
        return self.total

    def copy_weights(self, layer):
        """Take the slopes of a float `keras.layers.PReLU`."""
        self.slope.constant.assign(ops.reshape(layer.alpha, self.slope.constant.shape))

    def compute_output_shape(self, input_shape):
        return input_shape
