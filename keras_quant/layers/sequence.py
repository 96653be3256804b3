"""Quantized layers of sequences that need no kernel: each is its 2-D form on an image of one row."""

import keras

from keras_quant import quantizers
from keras_quant.layers.chain import QuantChain
from keras_quant.layers.conv import check_channels_last
from keras_quant.layers.registry import quantizes
from keras_quant.layers.reshape import QuantCropping2D, QuantReshape, QuantZeroPadding2D
from keras_quant.layers.upsampling import QuantUpSampling2D


class QuantOverImage(QuantChain):
    """Mixin: a layer of `(length, channels)` as a layer of `(1, length, channels)` between two reshapes, which are free.

    A subclass gives `make_image_layer`.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if hasattr(self, "data_format"):
            check_channels_last(self)
        self.image_layer = self.make_image_layer(name=f"{self.name}_row")

    def make_image_layer(self, name):
        """The quantized layer of images that does the work."""
        raise NotImplementedError

    def make_parts(self, input_shape):
        to_image = QuantReshape((1, *input_shape[1:]), name=f"{self.name}_image")
        to_sequence = QuantReshape(self.compute_output_shape(input_shape)[1:], name=f"{self.name}_sequence")
        return [to_image, self.image_layer, to_sequence]


class QuantOverImageWithGrid(QuantOverImage):
    """Mixin: one whose output has a grid of its own.

    Args:
        output_quantizer: name, config or object, see `quantizers.get`.
    """

    def __init__(self, *args, output_quantizer="moving_average", **kwargs):
        self._output_quantizer = output_quantizer
        super().__init__(*args, **kwargs)

    @property
    def output_quantizer(self):
        return self.image_layer.output_quantizer

    def get_config(self):
        return {**super().get_config(), "output_quantizer": quantizers.serialize(self.output_quantizer)}


@quantizes(keras.layers.ZeroPadding1D)
class QuantZeroPadding1D(QuantOverImage, keras.layers.ZeroPadding1D):
    """`keras.layers.ZeroPadding1D` on int8; lowered to PAD. Keeps the input's grid.

    Args: those of `keras.layers.ZeroPadding1D`.
    """

    def make_image_layer(self, name):
        return QuantZeroPadding2D(((0, 0), self.padding), name=name)


@quantizes(keras.layers.Cropping1D)
class QuantCropping1D(QuantOverImage, keras.layers.Cropping1D):
    """`keras.layers.Cropping1D` on int8; lowered to STRIDED_SLICE. Keeps the input's grid.

    Args: those of `keras.layers.Cropping1D`.
    """

    def make_image_layer(self, name):
        return QuantCropping2D(((0, 0), self.cropping), name=name)


@quantizes(keras.layers.UpSampling1D)
class QuantUpSampling1D(QuantOverImage, keras.layers.UpSampling1D):
    """`keras.layers.UpSampling1D` on int8; lowered to concatenations. Keeps the input's grid.

    Args: those of `keras.layers.UpSampling1D`.
    """

    def make_image_layer(self, name):
        return QuantUpSampling2D((1, self.size), name=name)
