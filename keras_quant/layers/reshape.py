"""Quantized layers that only move data: they keep the input's grid and compute nothing."""

import keras

from keras_quant.layers.base import QuantLayer
from keras_quant.layers.registry import quantizes


class _Movement(QuantLayer):
    keeps_grid = True

    def integer_call(self, x, y):
        # Zero is zero in centred integers too, so padding pads with the zero point.
        return self.float_call(x.integers)


@quantizes(keras.layers.Flatten)
class QuantFlatten(_Movement, keras.layers.Flatten):
    """`keras.layers.Flatten` on int8; lowered to RESHAPE. Args: those of `keras.layers.Flatten`."""


@quantizes(keras.layers.Reshape)
class QuantReshape(_Movement, keras.layers.Reshape):
    """`keras.layers.Reshape` on int8; lowered to RESHAPE. Args: those of `keras.layers.Reshape`."""


@quantizes(keras.layers.Permute)
class QuantPermute(_Movement, keras.layers.Permute):
    """`keras.layers.Permute` on int8; lowered to TRANSPOSE. Args: those of `keras.layers.Permute`."""


@quantizes(keras.layers.ZeroPadding2D)
class QuantZeroPadding2D(_Movement, keras.layers.ZeroPadding2D):
    """`keras.layers.ZeroPadding2D` on int8; lowered to PAD. Args: those of `keras.layers.ZeroPadding2D`."""


@quantizes(keras.layers.Cropping2D)
class QuantCropping2D(_Movement, keras.layers.Cropping2D):
    """`keras.layers.Cropping2D` on int8; lowered to STRIDED_SLICE. Args: those of `keras.layers.Cropping2D`."""
