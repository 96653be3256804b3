"""Quantized convolutions of volumes."""

import keras

from keras_quant.layers.conv import QuantConvolution, QuantTransposedConvolution
from keras_quant.layers.registry import quantizes


@quantizes(keras.layers.Conv3D)
class QuantConv3D(QuantConvolution, keras.layers.Conv3D):
    """`keras.layers.Conv3D` on int8, one weight scale a filter.

    XNNPACK has no CONV_3D of int8: each image of the volume gets its neighbours beside it on channels, and all of them are
    the batch of one CONV_2D.

    Args: those of `keras.layers.Conv3D`, and `kernel_quantizer`, `batch_norm`, `output_quantizer`.
    """


@quantizes(keras.layers.Conv3DTranspose)
class QuantConv3DTranspose(QuantTransposedConvolution, keras.layers.Conv3DTranspose):
    """`keras.layers.Conv3DTranspose` on int8, one weight scale a filter; lowered to a CONV_2D of all phases, as Conv3D.

    Args: those of `keras.layers.Conv3DTranspose`, and `kernel_quantizer`, `batch_norm`, `output_quantizer`.
    """
