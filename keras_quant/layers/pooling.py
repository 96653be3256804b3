"""Quantized pooling."""

import keras
from keras import ops

from keras_quant import integer
from keras_quant.layers.base import QuantLayer
from keras_quant.layers.conv import check_channels_last
from keras_quant.layers.registry import quantizes


class _Pooling(QuantLayer):
    def build(self, input_shape):
        check_channels_last(self)
        super().build(input_shape)


@quantizes(keras.layers.MaxPooling2D)
class QuantMaxPooling2D(_Pooling, keras.layers.MaxPooling2D):
    """`keras.layers.MaxPooling2D` on int8; lowered to MAX_POOL_2D. Keeps the input's grid.

    Args: those of `keras.layers.MaxPooling2D`.
    """

    keeps_grid = True

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
class QuantGlobalAveragePooling2D(_Pooling, keras.layers.GlobalAveragePooling2D):
    """`keras.layers.GlobalAveragePooling2D` on int8; lowered to MEAN.

    Args: those of `keras.layers.GlobalAveragePooling2D`, and `output_quantizer`.
    """

    def integer_call(self, x, y):
        return integer.mean(x, y, (1, 2), self.keepdims)


@quantizes(keras.layers.AveragePooling2D)
class QuantAveragePooling2D(_Pooling, keras.layers.AveragePooling2D):
    """`keras.layers.AveragePooling2D` on int8.

    AVERAGE_POOL_2D itself leaves XNNPACK. A window over the whole image is lowered to MEAN, any other without padding to
    DEPTHWISE_CONV_2D with the constant weights 1/n; where padding makes windows of unequal size the built-in kernel
    stays, on the input's grid.

    Args: those of `keras.layers.AveragePooling2D`, and `output_quantizer`.
    """

    def build(self, input_shape):
        super().build(input_shape)
        self.form = self._choose_form(input_shape)

    def _choose_form(self, input_shape):
        image = tuple(input_shape[1:3])
        if image == tuple(self.pool_size) and (self.padding == "valid" or image == tuple(self.strides)):
            return "mean"
        covered = all(s % k == 0 and k == d for s, k, d in zip(image, self.pool_size, self.strides))
        return "depthwise" if self.padding == "valid" or covered else "average_pool"

    def _train(self, inputs, quantizer):
        if self.form == "average_pool":
            # On the input's grid, but off its levels: round without a range of its own.
            return quantizer.fake_quant(self.float_call(inputs))
        return super()._train(inputs, quantizer)

    def grid_of_output(self, inputs):
        return self._grid_of_input(inputs) if self.form == "average_pool" else self.output_quantizer

    def folded_weights(self, x, y, channels):
        """As `QuantWeighted.folded_weights`, of the constant depthwise kernel."""
        kernel = ops.ones((*self.pool_size, channels, 1))
        one = ops.ones((channels,), "float64")
        window = self.pool_size[0] * self.pool_size[1]
        # The integer 127 with the scale 1 / (127 n).
        return integer.fold(kernel, one / 127.0, ops.zeros_like(one), one / window, x, y, (-1, 1))

    def integer_call(self, x, y):
        if self.form == "average_pool":
            return integer.average_pool_2d(x, self.pool_size, self.strides, self.padding)
        if self.form == "mean":
            return integer.mean(x, y, (1, 2), keepdims=True)
        weights = self.folded_weights(x.params, y, x.integers.shape[-1])
        return integer.depthwise_conv_2d(x, weights, y, strides=self.strides, padding="valid")
