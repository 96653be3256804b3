"""Quantized pooling of volumes."""

import keras

from keras_quant.layers.pooling import (
    QuantAveragePooling,
    QuantGlobalAveragePooling,
    QuantGlobalMaxPooling,
    QuantMaxPooling,
)
from keras_quant.layers.registry import quantizes


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
