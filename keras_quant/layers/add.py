"""Quantized sums and differences."""

import keras

from keras_quant import backend, integer
from keras_quant.errors import UnsupportedLayerError
from keras_quant.layers.annotation import without_unit
from keras_quant.layers.base import FusedActivation, QuantLayer
from keras_quant.layers.registry import computes, quantizes
from keras_quant.policy import NARROW


def check_ranks(layer, shapes):
    if len({len(shape) for shape in shapes}) != 1:
        raise UnsupportedLayerError(
            f"Layer '{layer.name}' joins tensors of different ranks; give them the same rank with a Reshape. "
            f"Received: shapes {[tuple(shape) for shape in shapes]}"
        )


class _QuantSum(FusedActivation, QuantLayer):
    """Two inputs, one kernel; shapes broadcast."""

    formula = None
    activation_types = (*NARROW, "int16")

    def build(self, input_shape):
        check_ranks(self, input_shape)
        super().build(input_shape)

    def float_call(self, inputs):
        return self.activate(super().float_call(inputs))

    def train_arithmetic(self, inputs):
        return super().float_call(inputs)

    def _train(self, inputs, quantizer):
        total = keras.KerasTensor(self.compute_output_shape([x.shape for x in inputs]))
        if None in total.shape[1:] or self.keeps_grid or not (quantizer.has_unit and quantizer.clamps(self.bounds)):
            return super()._train(inputs, quantizer)
        unit = quantizer.unit(total)
        # Divided before they are summed: one inner product of each serves its own unit, too, and the sum is not kept.
        divided = [backend.times_unit(*without_unit(x), per=unit) for x in inputs]
        return self._rounded(self.train_arithmetic(divided), unit, quantizer)

    def integer_call(self, inputs, y):
        a, b = inputs
        return getattr(integer.kernels(y), self.formula)(a, b, y, self.bounds)


@quantizes(keras.layers.Subtract)
class QuantSubtract(_QuantSum, keras.layers.Subtract):
    """`keras.layers.Subtract` on int8; lowered to SUB.

    Args: those of `keras.layers.Subtract`, `activation` (relu and relu6 are fused) and `output_quantizer`.
    """

    formula = "subtract"


@quantizes(keras.layers.Add)
class QuantAdd(_QuantSum, keras.layers.Add):
    """`keras.layers.Add` on int8; lowered to ADD, one for each input after the first, with a grid for each partial sum.

    Args: those of `keras.layers.Add`, `activation` (relu and relu6 are fused) and `output_quantizer`.
    """

    formula = "add"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.partial_sums = []

    def build(self, input_shape):
        super().build(input_shape)
        total = input_shape[0]
        for index, shape in enumerate(input_shape[1:-1]):
            partial = QuantAdd(policy=self.policy, name=f"{self.name}_partial_{index}")
            partial.build([total, shape])
            self.partial_sums.append(partial)
            total = partial.compute_output_shape([total, shape])

    def call(self, inputs, training=None):
        total, *rest = self.quantize_inputs(inputs, training)
        for partial, x in zip(self.partial_sums, rest):
            total = partial([total, x], training=training)
        return super().call([total, rest[-1]], training)


@computes("numpy.Add")
def _add(operation, args, **arguments):
    return QuantAdd(**arguments)


@computes("numpy.Subtract")
def _subtract(operation, args, **arguments):
    return QuantSubtract(**arguments)
