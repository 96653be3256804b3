"""Quantized quotients."""

import keras

from keras_quant.layers.base import EndsInProduct
from keras_quant.layers.multiply import QuantMultiply
from keras_quant.layers.registry import computes
from keras_quant.layers.table import QuantTable


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantDivide(EndsInProduct, keras.layers.Layer):
    """`a / b` of two tensors on int8: a table of 1/b, and MUL.

    Args:
        output_quantizer: name, config or object, see `quantizers.get`.
    """

    def __init__(self, output_quantizer="moving_average", **kwargs):
        super().__init__(**kwargs)
        self.reciprocal = QuantTable("reciprocal", name=f"{self.name}_reciprocal")
        self.product = QuantMultiply(output_quantizer=output_quantizer, name=f"{self.name}_multiply")

    def build_parts(self, input_shape):
        self.reciprocal.build(input_shape[1])
        self.product.build(input_shape)

    def compose(self, inputs, training=None):
        a, b = inputs
        return self.product([a, self.reciprocal(b, training=training)], training=training)


@computes("numpy.Divide", "numpy.TrueDivide")
def _divide(operation, args, **arguments):
    return QuantDivide(**arguments)
