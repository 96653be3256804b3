"""Quantized concatenation."""

import keras
from keras import ops

from keras_quant import integer
from keras_quant.layers.annotation import annotation
from keras_quant.layers.base import QuantLayer
from keras_quant.layers.registry import quantizes


@quantizes(keras.layers.Concatenate)
class QuantConcatenate(QuantLayer, keras.layers.Concatenate):
    """`keras.layers.Concatenate` on int8; lowered to CONCATENATION.

    The operator wants one grid for its inputs and its output. Every input whose grid may change is tied to the output's;
    an input whose grid is fixed (a sigmoid, a ReLU of its own) is moved by QUANTIZE.

    Args: those of `keras.layers.Concatenate`, and `output_quantizer`.
    """

    def connect(self, inputs):
        for note in map(annotation, inputs):
            if note is not None and note.quantizer.tieable:
                self.output_quantizer.tie(note.quantizer)

    def is_tied(self, quantizer):
        """Whether an input on that quantizer's grid needs no QUANTIZE."""
        return quantizer.shares_grid_with(self.output_quantizer)

    def _train(self, inputs, quantizer):
        if all(self.is_tied(annotation(x).quantizer) for x in inputs):
            return self.float_call(inputs)
        return super()._train(inputs, quantizer)

    def main_call(self, inputs, training=None):
        self._tied_inputs = [self.is_tied(note.quantizer) if note else True for note in map(annotation, inputs)]
        return super().main_call(inputs, training)

    def integer_call(self, inputs, y):
        moved = [x.integers if tied else integer.requantize(x, y) for x, tied in zip(inputs, self._tied_inputs)]
        return ops.concatenate(moved, self.axis)
