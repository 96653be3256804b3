"""Quantized concatenation."""

import keras
from keras import ops

from keras_quant import integer
from keras_quant.errors import UnsupportedLayerError
from keras_quant.layers.annotation import annotation
from keras_quant.layers.base import QuantLayer, quantized_values
from keras_quant.layers.registry import computes, quantizes
from keras_quant.policy import NARROW


class OnOneGrid(QuantLayer):
    """Mixin for operators that want one grid for their inputs and their output.

    Every input whose grid may change is tied to the output's; an input whose grid is fixed (a sigmoid, a ReLU of its own) is
    moved by QUANTIZE, and so is one that is not to be joined with others.
    """

    def connect(self, inputs):
        for note in map(annotation, inputs):
            if note is not None and self._may_tie(note.quantizer, alone=len(inputs) == 1):
                self.output_quantizer.tie(note.quantizer)

    def _may_tie(self, quantizer, alone):
        return quantizer.tieable and (alone or quantizer.joins) and _alike(quantizer, self.output_quantizer)

    def is_tied(self, quantizer):
        """Whether an input on that quantizer's grid needs no QUANTIZE."""
        return quantizer.shares_grid_with(self.output_quantizer)

    def _train(self, inputs, quantizer):
        if all(self.is_tied(annotation(x).quantizer) for x in inputs):
            return self.float_call(inputs), None
        return super()._train(inputs, quantizer)

    def operands(self, inputs, y):
        return [self._moved(x, y) for x in inputs]

    def _moved(self, x, y):
        quantized = quantized_values(x)
        if self.is_tied(annotation(x).quantizer):
            return quantized
        return integer.Quantized(integer.kernels(y).requantize(quantized, y), y)


@quantizes(keras.layers.Concatenate)
class QuantConcatenate(OnOneGrid, keras.layers.Concatenate):
    """`keras.layers.Concatenate` on int8; lowered to CONCATENATION.

    Args: those of `keras.layers.Concatenate`, and `policy`, `output_quantizer`.
    """

    activation_types = (*NARROW, "int16")

    def build(self, input_shape):
        if self.axis % len(input_shape[0]) == 0:
            raise UnsupportedLayerError(
                f"Layer '{self.name}' joins tensors along the batch, whose size the runtime fixes. Join along another axis. "
                f"Received: axis={self.axis}"
            )
        super().build(input_shape)

    def integer_call(self, inputs, y):
        return ops.concatenate([x.integers for x in inputs], self.axis)


@computes("numpy.Concatenate")
def _concatenate(operation, args, **arguments):
    return QuantConcatenate(axis=operation.axis, **arguments)


def _alike(a, b):
    """Whether two quantizers have the same integers, now and once a schedule has come down to their last width."""
    return a.type == b.type and a.final_bits == b.final_bits
