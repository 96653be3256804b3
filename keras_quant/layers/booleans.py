"""Booleans as numbers."""

import keras
from keras import ops

from keras_quant.layers.base import QuantLayer
from keras_quant.layers.dropout import cast_of_real
from keras_quant.layers.registry import computes


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantBooleans(QuantLayer, keras.layers.Layer):
    """Booleans as 0 and 1 on int8, with a step of 1; lowered to CAST."""

    integer_slots = (0,)
    fixed_grid = (1.0, 0)

    def float_call(self, inputs):
        return ops.cast(inputs, "float32")

    def integer_call(self, x, y):
        return ops.cast(x, "float32")

    def compute_output_shape(self, input_shape):
        return input_shape


@computes("core.Cast", "core.SaturateCast")
def _cast(operation, args, **arguments):
    """Of integers it is what `Quantize` does with them."""
    (x,) = args
    if x.dtype == "bool":
        return QuantBooleans(name=arguments["name"])
    return cast_of_real(operation, args, **arguments)
