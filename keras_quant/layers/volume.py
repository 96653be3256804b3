"""Quantized layers that only move the values of volumes."""

import keras
import numpy as np

from keras_quant.layers.conv import check_channels_last
from keras_quant.layers.gather import QuantGather
from keras_quant.layers.registry import quantizes
from keras_quant.layers.reshape import Movement


class _OfVolumes(Movement):
    def build(self, input_shape):
        check_channels_last(self)
        super().build(input_shape)


@quantizes(keras.layers.ZeroPadding3D)
class QuantZeroPadding3D(_OfVolumes, keras.layers.ZeroPadding3D):
    """`keras.layers.ZeroPadding3D` on int8; lowered to PAD. Args: those of `keras.layers.ZeroPadding3D`."""


@quantizes(keras.layers.Cropping3D)
class QuantCropping3D(_OfVolumes, keras.layers.Cropping3D):
    """`keras.layers.Cropping3D` on int8; lowered to STRIDED_SLICE. Args: those of `keras.layers.Cropping3D`."""


@quantizes(keras.layers.UpSampling3D)
class QuantUpSampling3D(QuantGather, keras.layers.UpSampling3D):
    """`keras.layers.UpSampling3D` on int8; lowered to CONCATENATION of the tensor with itself. Keeps the input's grid.

    Args: those of `keras.layers.UpSampling3D`.
    """

    def build(self, input_shape):
        check_channels_last(self)
        super().build(input_shape)

    def picks(self, shape):
        # Along the width first: later copies are of longer runs in memory.
        return {axis: np.repeat(np.arange(shape[axis]), times) for axis, times in zip((3, 2, 1), reversed(self.size))}

    def float_call(self, inputs):
        return keras.layers.UpSampling3D.call(self, inputs)
