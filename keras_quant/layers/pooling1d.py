"""Quantized pooling of sequences: that of images, on images of one row."""

import keras

from keras_quant.layers.pooling import (
    QuantAveragePooling2D,
    QuantAveragePooling3D,
    QuantGlobalAveragePooling2D,
    QuantGlobalMaxPooling2D,
    QuantMaxPooling2D,
    QuantMaxPooling3D,
)
from keras_quant.layers.registry import computes, quantizes
from keras_quant.layers.sequence import QuantOverImage, QuantOverImageWithGrid


@quantizes(keras.layers.MaxPooling1D)
class QuantMaxPooling1D(QuantOverImage, keras.layers.MaxPooling1D):
    """`keras.layers.MaxPooling1D` on int8; lowered as `QuantMaxPooling2D`. Keeps the input's grid.

    Args: those of `keras.layers.MaxPooling1D`.
    """

    def make_image_layer(self, name):
        return QuantMaxPooling2D((1, *self.pool_size), (1, *self.strides), self.padding, name=name)


@quantizes(keras.layers.AveragePooling1D)
class QuantAveragePooling1D(QuantOverImageWithGrid, keras.layers.AveragePooling1D):
    """`keras.layers.AveragePooling1D` on int8; lowered as `QuantAveragePooling2D`.

    Args: those of `keras.layers.AveragePooling1D`, and `output_quantizer`.
    """

    def make_image_layer(self, name):
        # One row in, one row out whatever the stride along the height; TensorFlow's depthwise kernels want equal strides.
        return QuantAveragePooling2D(
            (1, *self.pool_size),
            (*self.strides, *self.strides),
            self.padding,
            output_quantizer=self._output_quantizer,
            name=name,
        )


@quantizes(keras.layers.GlobalMaxPooling1D)
class QuantGlobalMaxPooling1D(QuantOverImage, keras.layers.GlobalMaxPooling1D):
    """`keras.layers.GlobalMaxPooling1D` on int8; lowered to REDUCE_MAX. Keeps the input's grid.

    Args: those of `keras.layers.GlobalMaxPooling1D`.
    """

    def make_image_layer(self, name):
        return QuantGlobalMaxPooling2D(name=name)


@quantizes(keras.layers.GlobalAveragePooling1D)
class QuantGlobalAveragePooling1D(QuantOverImageWithGrid, keras.layers.GlobalAveragePooling1D):
    """`keras.layers.GlobalAveragePooling1D` on int8; lowered to MEAN.

    Args: those of `keras.layers.GlobalAveragePooling1D`, and `output_quantizer`.
    """

    def make_image_layer(self, name):
        return QuantGlobalAveragePooling2D(output_quantizer=self._output_quantizer, name=name)


def _pooling(*classes):
    """The function for `computes`: whether it is of sequences, images or volumes, the operation's input tells."""

    def factory(operation, args, **arguments):
        cls = classes[len(args[0].shape) - 3]
        strides, layout = operation.strides, operation.data_format
        return cls(operation.pool_size, strides, operation.padding, data_format=layout, **arguments)

    return factory


computes("nn.MaxPool")(_pooling(QuantMaxPooling1D, QuantMaxPooling2D, QuantMaxPooling3D))
computes("nn.AveragePool")(_pooling(QuantAveragePooling1D, QuantAveragePooling2D, QuantAveragePooling3D))
