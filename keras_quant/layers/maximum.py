"""Quantized elementwise maximum and minimum."""

import keras
from keras import ops

from keras_quant.errors import UnsupportedLayerError
from keras_quant.layers.concatenate import OnOneGrid
from keras_quant.layers.registry import computes, quantizes


class _Extreme(OnOneGrid):
    function = None

    def build(self, input_shape):
        if len({tuple(shape) for shape in input_shape}) != 1:
            raise UnsupportedLayerError(
                f"Layer '{self.name}' compares tensors of different shapes; on int8 they are stacked. Repeat the smaller "
                f"one first. Received: shapes {[tuple(shape) for shape in input_shape]}"
            )
        super().build(input_shape)

    def float_call(self, inputs):
        return self._extreme(inputs)

    def integer_call(self, inputs, y):
        return self._extreme([x.integers for x in inputs])

    def _extreme(self, tensors):
        result, *rest = tensors
        for x in rest:
            result = type(self).function(result, x)
        return result


@quantizes(keras.layers.Maximum)
class QuantMaximum(_Extreme, keras.layers.Maximum):
    """`keras.layers.Maximum` on int8: MAXIMUM leaves XNNPACK, so the inputs are stacked and lowered to REDUCE_MAX.

    Args: those of `keras.layers.Maximum`, and `output_quantizer`.
    """

    function = staticmethod(ops.maximum)


@quantizes(keras.layers.Minimum)
class QuantMinimum(_Extreme, keras.layers.Minimum):
    """`keras.layers.Minimum` on int8: MINIMUM leaves XNNPACK, so the inputs are stacked and lowered to REDUCE_MIN.

    Args: those of `keras.layers.Minimum`, and `output_quantizer`.
    """

    function = staticmethod(ops.minimum)


@computes("numpy.Maximum")
def _maximum(operation, args, **arguments):
    return QuantMaximum(**arguments)


@computes("numpy.Minimum")
def _minimum(operation, args, **arguments):
    return QuantMinimum(**arguments)
