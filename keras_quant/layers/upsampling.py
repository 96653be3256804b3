"""Quantized upsampling."""

import keras
import numpy as np
from keras import ops

from keras_quant import integer
from keras_quant.errors import UnsupportedLayerError
from keras_quant.layers.base import QuantLayer
from keras_quant.layers.conv import check_channels_last
from keras_quant.layers.gather import QuantGather
from keras_quant.layers.registry import quantizes


def check_interpolation(layer):
    if layer.interpolation not in ("nearest", "bilinear"):
        raise UnsupportedLayerError(
            f"Layer '{layer.name}': no int8 kernel interpolates '{layer.interpolation}'. Use 'nearest' or 'bilinear'."
        )


@quantizes(keras.layers.UpSampling2D)
class QuantUpSampling2D(QuantLayer, keras.layers.UpSampling2D):
    """`keras.layers.UpSampling2D` on int8, nearest or bilinear. Keeps the input's grid.

    Bilinear is lowered to RESIZE_BILINEAR. RESIZE_NEAREST_NEIGHBOR leaves XNNPACK; nearest is lowered to concatenations
    of the tensor with itself between reshapes.

    Args: those of `keras.layers.UpSampling2D`.
    """

    keeps_grid = True

    def build(self, input_shape):
        check_channels_last(self)
        check_interpolation(self)
        super().build(input_shape)

    def _train(self, inputs, quantizer):
        outputs = self.float_call(inputs)
        return (outputs if self.interpolation == "nearest" else quantizer.fake_quant(outputs)), None

    def integer_call(self, x, y):
        height, width = (size * factor for size, factor in zip(x.integers.shape[1:3], self.size))
        if self.interpolation == "bilinear":
            return integer.resize_bilinear(x, height, width)
        return ops.repeat(ops.repeat(x.integers, self.size[0], axis=1), self.size[1], axis=2)


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
