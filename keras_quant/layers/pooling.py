"""Quantized pooling."""

import math

import keras
import numpy as np
from keras import ops

from keras_quant import integer
from keras_quant.layers.base import QuantLayer
from keras_quant.layers.constant import QuantMultiplyConstant
from keras_quant.layers.conv import check_channels_last
from keras_quant.layers.registry import quantizes
from keras_quant.policy import NARROW


class _Pooling(QuantLayer):
    homogeneous = True

    def build(self, input_shape):
        check_channels_last(self)
        self.pixels = math.prod(input_shape[1:-1])
        super().build(input_shape)


class _Mean(_Pooling):
    """A layer whose output is the mean over the whole image, on int8 by MEAN."""

    def parts_on_arm(self, inputs, y):
        """Whether some means round otherwise on 64-bit Arm; see `integer.halves`."""
        return y.type.storage == "int8" and integer.sums_part(self.pixels, *inputs, y, share=1 / self.pixels)


@quantizes(keras.layers.MaxPooling2D)
class QuantMaxPooling2D(_Pooling, keras.layers.MaxPooling2D):
    """`keras.layers.MaxPooling2D` on int8. Keeps the input's grid.

    Lowered to MAX_POOL_2D; with a window of one element, which XNNPACK's MAX_POOL_2D does not take, to a
    DEPTHWISE_CONV_2D with weight 1.

    Args: those of `keras.layers.MaxPooling2D`.
    """

    keeps_grid = True
    activation_types = (*NARROW, "int16")

    def integer_call(self, x, y):
        return ops.max_pool(x.integers, self.pool_size, self.strides, self.padding, self.data_format)


@quantizes(keras.layers.GlobalMaxPooling2D)
class QuantGlobalMaxPooling2D(_Pooling, keras.layers.GlobalMaxPooling2D):
    """`keras.layers.GlobalMaxPooling2D` on int8; lowered to REDUCE_MAX. Keeps the input's grid.

    Args: those of `keras.layers.GlobalMaxPooling2D`.
    """

    keeps_grid = True

    def integer_call(self, x, y):
        return ops.max(x.integers, axis=(1, 2), keepdims=self.keepdims)


@quantizes(keras.layers.GlobalAveragePooling2D)
class QuantGlobalAveragePooling2D(_Mean, keras.layers.GlobalAveragePooling2D):
    """`keras.layers.GlobalAveragePooling2D` on int8; lowered to MEAN.

    On int16 it is AVERAGE_POOL_2D and QUANTIZE.

    Args: those of `keras.layers.GlobalAveragePooling2D`, and `policy`, `output_quantizer`.
    """

    activation_types = (*NARROW, "int16")

    def integer_call(self, x, y):
        return integer.kernels(y).mean(x, y, (1, 2), self.keepdims)


@quantizes(keras.layers.AveragePooling2D)
class QuantAveragePooling2D(_Mean, keras.layers.AveragePooling2D):
    """`keras.layers.AveragePooling2D` on int8, on XNNPACK, which has no AVERAGE_POOL_2D of int8.

    A window over the whole image is lowered to MEAN, any other to DEPTHWISE_CONV_2D with the constant weights 1/n. Where
    padding makes the windows at the edges smaller, MUL by a constant image then gives each window its own count.

    On int16 it is AVERAGE_POOL_2D and QUANTIZE.

    Args: those of `keras.layers.AveragePooling2D`, and `policy`, `output_quantizer`.
    """

    activation_types = (*NARROW, "int16")

    def build(self, input_shape):
        image, window = tuple(input_shape[1:3]), tuple(self.pool_size)
        whole = image == window and (self.padding == "valid" or image == tuple(self.strides))
        self.form = "pool" if self.policy.storage == "int16" else "mean" if whole else "depthwise"
        shares = _share_of_window(image, window, self.strides, self.padding)
        if self.form == "depthwise" and np.any(shares < 1):
            self.afterwards.append(_count_correction(shares, f"{self.name}_edges"))
        super().build(input_shape)

    def float_call(self, inputs):
        if not self.afterwards:
            return super().float_call(inputs)
        # What the product with the counts then mends: every window over n, those at the edges too.
        kernel = ops.ones((*self.pool_size, inputs.shape[-1], 1)) / (self.pool_size[0] * self.pool_size[1])
        return ops.depthwise_conv(inputs, kernel, self.strides, self.padding, "channels_last")

    def folded_weights(self, x, y, channels):
        """As `QuantWeighted.folded_weights`, of the constant depthwise kernel."""
        kernel = ops.ones((*self.pool_size, channels, 1))
        one = ops.ones((channels,), "float64")
        window = self.pool_size[0] * self.pool_size[1]
        # The integer 127 with the scale 1 / (127 n).
        return integer.fold(kernel, one / 127.0, ops.zeros_like(one), one / window, x, y, (-1, 1))

    def integer_call(self, x, y):
        if self.form == "pool":
            pooled = integer.int16.average_pool(x, self.pool_size, self.strides, self.padding)
            return integer.int16.requantize(integer.Quantized(pooled, x.params), y)
        if self.form == "mean":
            return integer.mean(x, y, (1, 2), keepdims=True)
        weights = self.folded_weights(x.params, y, x.integers.shape[-1])
        return integer.depthwise_conv_2d(x, weights, y, strides=self.strides, padding=self.padding)

    def parts_on_arm(self, inputs, y):
        return self.form == "mean" and super().parts_on_arm(inputs, y)


def _share_of_window(image, window, strides, padding):
    """How much of each window lies on the image: `(1, rows, columns, 1)`, 1 for all of it."""
    ones = np.ones((1, *image, 1), "float32")
    sums = ops.depthwise_conv(ones, np.ones((*window, 1, 1), "float32"), strides, padding, "channels_last")
    return ops.convert_to_numpy(sums) / (window[0] * window[1])


def _count_correction(shares, name):
    """The product with 1 / share: a constant image whose int8 scale 1/d comes nearest to the few ratios that occur."""
    ratios = 1.0 / shares
    denominators = np.arange(1, int(127 / ratios.max()) + 1)
    scaled = np.unique(ratios)[None] * denominators[:, None]
    error = np.max(np.abs(np.rint(scaled) / scaled - 1.0), axis=1)
    layer = QuantMultiplyConstant(
        ratios.shape, constant_scale=1.0 / denominators[np.argmin(error)], name=name, trainable=False
    )
    layer.constant.assign(ratios)
    return layer
