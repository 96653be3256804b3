"""Quantized products."""

import keras
import numpy as np
from keras import ops

from keras_quant import integer
from keras_quant.errors import UnsupportedLayerError
from keras_quant.layers.add import check_ranks
from keras_quant.layers.annotation import annotation
from keras_quant.layers.base import FusedActivation, QuantLayer
from keras_quant.layers.registry import computes, quantizes


@quantizes(keras.layers.Multiply)
class QuantMultiply(FusedActivation, QuantLayer, keras.layers.Multiply):
    """`keras.layers.Multiply` of two tensors on int8, broadcasting as in squeeze-and-excite; lowered to MUL.

    Args: those of `keras.layers.Multiply`, `activation` (relu and relu6 are fused) and `output_quantizer`.
    """

    def build(self, input_shape):
        check_ranks(self, input_shape)
        if len(input_shape) != 2:
            raise UnsupportedLayerError(
                f"Layer '{self.name}' multiplies {len(input_shape)} tensors; multiply them two at a time."
            )
        super().build(input_shape)

    def connect(self, inputs):
        # On the grid of its own factor the other one's scale decides what is half way: 1/256, a sigmoid's, leaves halves
        # that nothing can move the grids off.
        fixed = [note is not None and not note.quantizer.tieable for note in map(annotation, inputs)]
        self.output_quantizer.joins = sum(fixed) != 1

    def float_call(self, inputs):
        return self.activate(super().float_call(inputs))

    def train_arithmetic(self, inputs):
        return super().float_call(inputs)

    def integer_call(self, inputs, y):
        a, b = inputs
        return integer.multiply(a, b, y, self.bounds)

    def parts_elsewhere(self, inputs, y):
        """Whether some integers round otherwise on 64-bit Arm; see `integer.halves`."""
        a, b = inputs
        return integer.products_part(np.multiply.outer(every_integer(a), every_integer(b)), a, b, y)


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantSquare(QuantLayer, keras.layers.Layer):
    """`keras.ops.square` on int8; lowered to MUL.

    Args:
        output_quantizer: name, config or object, see `quantizers.get`.
    """

    def float_call(self, inputs):
        return inputs * inputs

    def integer_call(self, x, y):
        return integer.multiply(x, x, y)

    def parts_elsewhere(self, inputs, y):
        """As `QuantMultiply.parts_elsewhere`; and whether it matters that newer XNNPACKs tabulate a product with itself."""
        (x,) = inputs
        numbers = integer.Quantized(ops.convert_to_tensor(every_integer(x), "float32"), x)
        product, tabulated = integer.multiply(numbers, numbers, y), integer.look_up(numbers, y, ops.square)
        differs = np.any(ops.convert_to_numpy(product) != ops.convert_to_numpy(tabulated))
        return bool(differs) or integer.products_part(every_integer(x) ** 2, x, x, y)

    def compute_output_shape(self, input_shape):
        return input_shape


def every_integer(x):
    """All centred integers of a grid."""
    return np.arange(x.type.low, x.type.high + 1) - float(ops.convert_to_numpy(x.zero_point))


@computes("numpy.Square")
def _square(operation, args, **arguments):
    return QuantSquare(**arguments)


@computes("numpy.Multiply")
def _multiply(operation, args, **arguments):
    return QuantMultiply(**arguments)
