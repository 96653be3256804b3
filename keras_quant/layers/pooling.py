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

    def parts_elsewhere(self, inputs, y):
        """Whether some means round otherwise on 64-bit Arm; see `integer.halves`."""
        return y.type.storage == "int8" and integer.sums_part(self.pixels, *inputs, y, share=1 / self.pixels)


class QuantMaxPooling(_Pooling):
    """Mixin for maximum pooling of any rank."""

    keeps_grid = True
    activation_types = (*NARROW, "int16")

    def integer_call(self, x, y):
        return ops.max_pool(x.integers, self.pool_size, self.strides, self.padding, self.data_format)


class QuantGlobalMaxPooling(_Pooling):
    """Mixin for the maximum over all places."""

    keeps_grid = True

    def integer_call(self, x, y):
        return ops.max(x.integers, axis=_places(x.integers), keepdims=self.keepdims)


class QuantGlobalAveragePooling(_Mean):
    """Mixin for the mean over all places."""

    activation_types = (*NARROW, "int16")

    def integer_call(self, x, y):
        return integer.kernels(y).mean(x, y, _places(x.integers), self.keepdims)


def _places(x):
    """The axes between batch and channels."""
    return tuple(range(1, len(x.shape) - 1))


@quantizes(keras.layers.MaxPooling2D)
class QuantMaxPooling2D(QuantMaxPooling, keras.layers.MaxPooling2D):
    """`keras.layers.MaxPooling2D` on int8. Keeps the input's grid.

    Lowered to MAX_POOL_2D; with a window of one element, which XNNPACK's MAX_POOL_2D does not take, to a
    DEPTHWISE_CONV_2D with weight 1.

    Args: those of `keras.layers.MaxPooling2D`.
    """


@quantizes(keras.layers.GlobalMaxPooling2D)
class QuantGlobalMaxPooling2D(QuantGlobalMaxPooling, keras.layers.GlobalMaxPooling2D):
    """`keras.layers.GlobalMaxPooling2D` on int8; lowered to REDUCE_MAX. Keeps the input's grid.

    Args: those of `keras.layers.GlobalMaxPooling2D`.
    """


@quantizes(keras.layers.GlobalAveragePooling2D)
class QuantGlobalAveragePooling2D(QuantGlobalAveragePooling, keras.layers.GlobalAveragePooling2D):
    """`keras.layers.GlobalAveragePooling2D` on int8; lowered to MEAN.

    On int16 it is AVERAGE_POOL_2D and QUANTIZE.

    Args: those of `keras.layers.GlobalAveragePooling2D`, and `policy`, `output_quantizer`.
    """


class QuantAveragePooling(_Mean):
    """Mixin for average pooling of any rank: each window by constant weights 1/n.

    Where padding makes the windows at the edges smaller, a product with a constant image gives each window its own count.
    """

    def build(self, input_shape):
        places, window = tuple(input_shape[1:-1]), tuple(self.pool_size)
        whole = places == window and (self.padding == "valid" or places == tuple(self.strides))
        self.form = "pool" if self.policy.storage == "int16" else "mean" if whole else "depthwise"
        shares = _share_of_window(places, window, self.strides, self.padding)
        if self.form == "depthwise" and np.any(shares < 1):
            self.afterwards.append(_count_correction(shares, f"{self.name}_edges"))
        super().build(input_shape)

    def float_call(self, inputs):
        if not self.afterwards:
            return super().float_call(inputs)
        # What the product with the counts then mends: every window over n, those at the edges too.
        sums = integer.window_sums(inputs, self.pool_size, self.strides, self.padding)
        return sums / math.prod(self.pool_size)

    def folded_weights(self, x, y, channels):
        """As `QuantWeighted.folded_weights`, of the constant depthwise kernel."""
        kernel = ops.ones((*self.pool_size, channels, 1))
        one = ops.ones((channels,), "float64")
        # The integer 127 with the scale 1 / (127 n).
        share = one / math.prod(self.pool_size)
        return integer.fold(kernel, one / 127.0, ops.zeros_like(one), share, x, y, (-1, 1))

    def integer_call(self, x, y):
        if self.form == "mean":
            return integer.mean(x, y, _places(x.integers), keepdims=True)
        weights = self.folded_weights(x.params, y, x.integers.shape[-1])
        return integer.weighted_windows(x, weights, y, self.strides, self.padding)

    def parts_elsewhere(self, inputs, y):
        return self.form == "mean" and super().parts_elsewhere(inputs, y)


@quantizes(keras.layers.AveragePooling2D)
class QuantAveragePooling2D(QuantAveragePooling, keras.layers.AveragePooling2D):
    """`keras.layers.AveragePooling2D` on int8, on XNNPACK, which has no AVERAGE_POOL_2D of int8.

    A window over the whole image is lowered to MEAN, any other to DEPTHWISE_CONV_2D with the constant weights 1/n. Where
    padding makes the windows at the edges smaller, MUL by a constant image then gives each window its own count.

    On int16 it is AVERAGE_POOL_2D and QUANTIZE.

    Args: those of `keras.layers.AveragePooling2D`, and `policy`, `output_quantizer`.
    """

    activation_types = (*NARROW, "int16")

    def integer_call(self, x, y):
        if self.form == "pool":
            pooled = integer.int16.average_pool(x, self.pool_size, self.strides, self.padding)
            return integer.int16.requantize(integer.Quantized(pooled, x.params), y)
        return super().integer_call(x, y)


@quantizes(keras.layers.MaxPooling3D)
class QuantMaxPooling3D(QuantMaxPooling, keras.layers.MaxPooling3D):
    """`keras.layers.MaxPooling3D` on int8; lowered to MAX_POOL_2D, over images and then over depth. Keeps the input's grid.

    Args: those of `keras.layers.MaxPooling3D`.
    """


@quantizes(keras.layers.AveragePooling3D)
class QuantAveragePooling3D(QuantAveragePooling, keras.layers.AveragePooling3D):
    """`keras.layers.AveragePooling3D` on int8; lowered as `QuantAveragePooling2D`, the images of a window side by side.

    Args: those of `keras.layers.AveragePooling3D`, and `policy`, `output_quantizer`.
    """


@quantizes(keras.layers.GlobalMaxPooling3D)
class QuantGlobalMaxPooling3D(QuantGlobalMaxPooling, keras.layers.GlobalMaxPooling3D):
    """`keras.layers.GlobalMaxPooling3D` on int8; lowered to REDUCE_MAX. Keeps the input's grid.

    Args: those of `keras.layers.GlobalMaxPooling3D`.
    """


@quantizes(keras.layers.GlobalAveragePooling3D)
class QuantGlobalAveragePooling3D(QuantGlobalAveragePooling, keras.layers.GlobalAveragePooling3D):
    """`keras.layers.GlobalAveragePooling3D` on int8; lowered to MEAN. On int16 it is AVERAGE_POOL_2D and QUANTIZE.

    Args: those of `keras.layers.GlobalAveragePooling3D`, and `policy`, `output_quantizer`.
    """


def _share_of_window(places, window, strides, padding):
    """How much of each window lies on the input: `(1, *places', 1)`, 1 for all of it."""
    covered = integer.window_sums(np.ones((1, *places, 1), "float32"), window, strides, padding)
    return ops.convert_to_numpy(covered) / math.prod(window)


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
