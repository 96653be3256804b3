"""Quantized convolutions of sequences: those of images, on images of one row."""

import keras
from keras import ops

from keras_quant.integer import Quantized
from keras_quant.layers.conv import (
    Convolves,
    QuantConvolution,
    QuantDepthwiseConvolution,
    QuantSeparableConvolution,
    QuantTransposedConvolution,
)
from keras_quant.layers.registry import quantizes


class ConvolvesSequence(Convolves):
    """Mixin for the products of convolutions of sequences, which may be causal: with zeros before the sequence alone."""

    @property
    def lead(self):
        """How many zeros go before the sequence."""
        return self.dilation_rate[0] * (self.kernel_size[0] - 1) if self.padding == "causal" else 0

    @property
    def operator_padding(self):
        return "valid" if self.padding == "causal" else self.padding

    def product(self, inputs, kernel):
        return super().product(self.led(inputs), kernel)

    def led(self, values):
        """A sequence with its `lead`."""
        return ops.pad(values, [(0, 0), (self.lead, 0), (0, 0)]) if self.lead else values


@quantizes(keras.layers.Conv1D)
class QuantConv1D(ConvolvesSequence, QuantConvolution, keras.layers.Conv1D):
    """`keras.layers.Conv1D` on int8, one weight scale a filter; lowered to CONV_2D, with PAD before it where it is causal.

    Args: those of `keras.layers.Conv1D`, and `kernel_quantizer`, `batch_norm`, `output_quantizer`.
    """

    def integer_call(self, x, y):
        return super().integer_call(Quantized(self.led(x.integers), x.params), y)


@quantizes(keras.layers.DepthwiseConv1D)
class QuantDepthwiseConv1D(QuantDepthwiseConvolution, keras.layers.DepthwiseConv1D):
    """`keras.layers.DepthwiseConv1D` on int8, one weight scale an output channel; lowered to DEPTHWISE_CONV_2D.

    Args: those of `keras.layers.DepthwiseConv1D`, and `kernel_quantizer`, `batch_norm`, `output_quantizer`.
    """


@quantizes(keras.layers.Conv1DTranspose)
class QuantConv1DTranspose(QuantTransposedConvolution, keras.layers.Conv1DTranspose):
    """`keras.layers.Conv1DTranspose` on int8, one weight scale a filter; lowered to a CONV_2D of all phases.

    Args: those of `keras.layers.Conv1DTranspose`, and `kernel_quantizer`, `batch_norm`, `output_quantizer`.
    """


@quantizes(keras.layers.SeparableConv1D)
class QuantSeparableConv1D(QuantSeparableConvolution, keras.layers.SeparableConv1D):
    """`keras.layers.SeparableConv1D` on int8: a `QuantDepthwiseConv1D` and a pointwise `QuantConv1D`.

    Args: those of `keras.layers.SeparableConv1D`, and `kernel_quantizer`, `batch_norm`, `output_quantizer`.
    """

    depthwise_class, pointwise_class = QuantDepthwiseConv1D, QuantConv1D
