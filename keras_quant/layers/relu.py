"""Quantized ReLU with any bound, and LeakyReLU, where they stand alone."""

import keras
import numpy as np
from keras import ops

from keras_quant import integer
from keras_quant.errors import UnsupportedLayerError
from keras_quant.layers.base import QuantLayer
from keras_quant.layers.functions import computes_activation
from keras_quant.layers.registry import computes, quantizes
from keras_quant.policy import NARROW


class _PinnedRange:
    """Mixin: the activation is the clamp of this layer's own grid, so that grid may be shared with nobody.

    Nor may it reach beyond its range: a quantizer that is symmetric or has powers of two is made anew without.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        own = self.output_quantizer
        if own.type.storage == "int8" and (own.symmetric or own.power_of_two):
            own = type(own).from_config({**own.get_config(), "symmetric": False, "power_of_two": False})
            if own.symmetric:
                raise UnsupportedLayerError(
                    f"Layer '{self.name}': its output's grid has to end where the activation does, and that of "
                    f"{type(own).__name__} is symmetric. Give the layer another `output_quantizer`: 'moving_average'."
                )
            self.output_quantizer = own
        own.tieable = False


@computes_activation(keras.activations.relu)
@computes_activation(keras.activations.relu6, max_value=6.0)
@quantizes(keras.layers.ReLU)
class QuantReLU(_PinnedRange, QuantLayer, keras.layers.ReLU):
    """`keras.layers.ReLU` on int8, where no layer before it can fuse it.

    The built-in kernel would leave XNNPACK. Instead the output's grid begins at zero (and ends at `max_value`) and the
    operator QUANTIZE moves onto it, clamping; with a negative slope it is LEAKY_RELU.

    On int16, whose grids hold as much below zero, it is RELU.

    Args: those of `keras.layers.ReLU`, but `threshold`, and `policy`, `output_quantizer`.
    """

    activation_types = (*NARROW, "int16")

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.threshold:
            raise UnsupportedLayerError(
                f"Layer '{self.name}': no int8 kernel has a ReLU with a jump. Leave `threshold` at 0. "
                f"Received: threshold={self.threshold}"
            )
        if self.negative_slope and self.policy.storage == "int16":
            raise UnsupportedLayerError(self._refusal())
        self.output_quantizer.bounds = (None if self.negative_slope else 0.0, self.max_value)

    @property
    def bounds(self):
        return (None, None)

    def follow_input(self, x):
        """Take the step of the input's grid as the own one: the positive integers then pass unrounded.

        A finer step holds nothing more. A bound and a slope want a grid of their own, int16 has zero in its middle.

        Args:
            x: `QuantParams` of the input.
        """
        own = self.output_quantizer
        plain = not self.negative_slope and self.max_value is None
        if plain and x.type == own.type and own.type.storage == "int8":
            own.set_range(0.0, own.type.levels * float(ops.convert_to_numpy(x.scale)))

    def train_arithmetic(self, inputs):
        clamps = self.output_quantizer.clamps(self.output_quantizer.bounds)
        return self.float_call(inputs) if self.negative_slope or not clamps else inputs

    def integer_call(self, x, y):
        if self.negative_slope:
            return integer.leaky_relu(x, y, float(self.negative_slope))
        return integer.kernels(y).relu(x, y)

    def compute_output_shape(self, input_shape):
        return input_shape


@computes_activation(keras.activations.leaky_relu, negative_slope=0.2)
@quantizes(keras.layers.LeakyReLU)
class QuantLeakyReLU(QuantLayer, keras.layers.LeakyReLU):
    """`keras.layers.LeakyReLU` on int8; lowered to LEAKY_RELU.

    Args: those of `keras.layers.LeakyReLU`, and `output_quantizer`.
    """

    def integer_call(self, x, y):
        return integer.leaky_relu(x, y, float(self.negative_slope))

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantAbsolute(QuantLayer, keras.layers.Layer):
    """`keras.ops.abs` on int8: a leaky ReLU of slope -1; lowered to LEAKY_RELU.

    Args:
        output_quantizer: name, config or object, see `quantizers.get`.
    """

    negative_slope = -1.0

    def float_call(self, inputs):
        return ops.abs(inputs)

    def integer_call(self, x, y):
        return integer.leaky_relu(x, y, self.negative_slope)

    def compute_output_shape(self, input_shape):
        return input_shape


@computes_activation("hard_tanh", low=-1.0, high=1.0)
@keras.saving.register_keras_serializable(package="keras_quant")
class QuantClip(_PinnedRange, QuantLayer, keras.layers.Layer):
    """`keras.ops.clip` with bounds around zero on int8: the clamp of the output's own grid; lowered to QUANTIZE.

    Args:
        low, high: real bounds, `None` for none; `low <= 0 <= high`.
        output_quantizer: name, config or object, see `quantizers.get`.
    """

    def __init__(self, low=None, high=None, **kwargs):
        super().__init__(**kwargs)
        if (low or 0) > 0 or (high or 0) < 0:
            raise UnsupportedLayerError(
                f"Layer '{self.name}': every int8 grid holds zero, so the bounds of a clip have to lie around it. Shift the "
                f"tensor first. Received: low={low}, high={high}"
            )
        self.low, self.high = low, high
        self.output_quantizer.bounds = (low, high)

    def float_call(self, inputs):
        low, high = (-np.inf if self.low is None else self.low), (np.inf if self.high is None else self.high)
        return ops.clip(inputs, low, high)

    def train_arithmetic(self, inputs):
        return inputs if self.output_quantizer.fake_quant_enabled else self.float_call(inputs)

    def integer_call(self, x, y):
        return integer.requantize(x, y)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "low": self.low, "high": self.high}


@computes("numpy.Clip")
def _clip(operation, args, **arguments):
    return QuantClip(operation.x_min, operation.x_max, **arguments)


@computes("nn.HardTanh")
def _hard_tanh(operation, args, **arguments):
    return QuantClip(-1.0, 1.0, **arguments)


@computes("numpy.Absolute")
def _absolute(operation, args, **arguments):
    return QuantAbsolute(**arguments)


@computes("nn.Relu")
def _relu(operation, args, **arguments):
    return QuantReLU(**arguments)


@computes("nn.Relu6")
def _relu6(operation, args, **arguments):
    return QuantReLU(max_value=6.0, **arguments)


@computes("nn.LeakyRelu")
def _leaky_relu(operation, args, **arguments):
    return QuantLeakyReLU(operation.negative_slope, **arguments)
