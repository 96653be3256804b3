"""Quantizers of activations whose range follows the data."""

from keras import ops

from keras_quant import backend
from keras_quant.errors import QuantizationError
from keras_quant.quantizers.activation import WIDEST, UniformQuantizer
from keras_quant.quantizers.registry import register


@register("moving_average")
class MovingAverage(UniformQuantizer):
    """Range by an exponential moving average of each training batch's minimum and maximum.

    `min ← m·min + (1-m)·min(x)`, and the same for the maximum; the first batch sets the range outright, one that is not
    finite is left out. The range always holds zero. Frozen with `trainable = False`.

    Args:
        momentum: float in [0, 1).
        bits, symmetric, narrow, power_of_two, rounding, seed: as in `UniformQuantizer`.

    References:
        - [Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference](
          https://arxiv.org/abs/1712.05877), section 3.1
    """

    def __init__(self, momentum=0.9, bits=8, **kwargs):
        super().__init__(bits, **kwargs)
        if not 0 <= momentum < 1:
            raise QuantizationError(f"`momentum` must be in [0, 1). Received: momentum={momentum}")
        self.momentum = momentum
        options = {"shape": (), "initializer": "zeros", "trainable": False, "dtype": "float32", "aggregation": "mean"}
        self.low = self.add_weight(name="low", **options)
        self.high = self.add_weight(name="high", **options)
        self.built = True

    def range(self):
        low = ops.zeros(()) if self.bounds[0] == 0 else backend.read(self.low)
        return low, backend.read(self.high)

    @property
    def observes(self):
        return self.trainable and self.range_phase != "frozen"

    def summary(self, x):
        return [ops.zeros(()), backend.largest(x)] if self.bounds[0] == 0 else super().summary(x)

    def take(self, summary):
        least, most = self._within_bounds(*backend.extremes_of_replicas(-summary[0], summary[1]))
        # NaN fails the comparison, too.
        is_finite = most - least < backend.constant(WIDEST)
        low, high = self.range()
        rate = backend.constant(1.0 - self.momentum)
        if not backend.is_positive_now(self.high):
            rate = ops.where(high > low, rate, backend.constant(1.0))
        moved = lambda old, new: ops.where(is_finite, old + rate * (new - old), old)
        if self.bounds[0] != 0:
            self.low.assign(moved(low, least))
        self.high.assign(moved(high, most))

    def set_range(self, low, high):
        low, high = self._within_bounds(float(low), float(high))
        self.low.assign(low)
        # A tensor that is zero throughout needs some grid: any holds it exactly.
        self.high.assign(ops.where(high > low, high, 1.0))

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum}


@register("symmetric16")
class Symmetric16(MovingAverage):
    """As `MovingAverage`, on the int16 grid that the format has: `s = max(-min, max) / 32767`, zero point 0.

    Args:
        momentum: float in [0, 1).
    """

    widths = (16,)

    def __init__(self, momentum=0.9, bits=16, **kwargs):
        super().__init__(momentum, bits, **kwargs)


@register("symmetric")
class Symmetric(MovingAverage):
    """As `MovingAverage`, on a grid with zero point 0: `s = max(-min, max) / 127`, for the operators that want one.

    Args:
        momentum: float in [0, 1).
    """

    tieable = False

    def __init__(self, momentum=0.9, bits=8, **kwargs):
        super().__init__(momentum, bits, **{**kwargs, "symmetric": True})
