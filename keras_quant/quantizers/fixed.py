"""Quantizers of activations whose range is given."""

import numpy as np
from keras import ops

from keras_quant.errors import QuantizationError
from keras_quant.integer.params import INT8, QuantParams
from keras_quant.quantizers import in_steps
from keras_quant.quantizers.activation import ActivationQuantizer, UniformQuantizer
from keras_quant.quantizers.registry import register


@register("fixed_range")
class FixedRange(UniformQuantizer):
    """A range that is given, whatever the data: truncation at fixed values.

    Args:
        low, high: real numbers, `low <= 0 <= high`, not equal; clipped to what the activation lets through.
        bits, symmetric, narrow, power_of_two, rounding, seed: as in `UniformQuantizer`.
    """

    def __init__(self, low=-6.0, high=6.0, bits=8, **kwargs):
        super().__init__(bits, **kwargs)
        if not (np.isfinite([low, high]).all() and low <= 0 <= high and low < high):
            raise QuantizationError(f"A fixed range is finite, holds zero and has a width. Received: low={low}, high={high}")
        self.low, self.high = float(low), float(high)
        self.built = True

    def range(self):
        low, high = self._within_bounds(self.low, self.high)
        return ops.convert_to_tensor(low, "float32"), ops.convert_to_tensor(high, "float32")

    def get_config(self):
        return {**super().get_config(), "low": self.low, "high": self.high}


@register("fixed_grid")
class FixedGrid(ActivationQuantizer):
    """The grid that the format prescribes for an operator's output: softmax and sigmoid (1/256, -128), tanh (1/128, 0).

    Args:
        scale: float.
        zero_point: integer in [-128, 127].
    """

    tieable = False

    def __init__(self, scale=1 / 256, zero_point=-128, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale
        self.zero_point = zero_point
        self.built = True

    def range(self):
        low, high = (self.scale * (bound - self.zero_point) for bound in (INT8.low, INT8.high))
        return ops.convert_to_tensor(low, "float32"), ops.convert_to_tensor(high, "float32")

    def round_to_grid(self, x):
        # Gates and candidates of a recurrent layer: what they are made of was rounded to steps several times as large, and
        # what is made of them is rounded again.
        return x if in_steps.is_active() else super().round_to_grid(x)

    def params(self):
        return QuantParams(
            ops.convert_to_tensor(self.scale, "float32"), ops.convert_to_tensor(float(self.zero_point), "float32")
        )

    def get_config(self):
        return {**super().get_config(), "scale": self.scale, "zero_point": self.zero_point}
