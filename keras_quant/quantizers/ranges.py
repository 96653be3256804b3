"""Methods that choose a range from what was seen of a tensor's values: for calibration, and for weights."""

import keras
import numpy as np
from scipy import special

from keras_quant.errors import QuantizationError
from keras_quant.registry import Registry

# How far the searches go below the largest value, and in how many steps; few levels want to be clipped more.
CANDIDATES = 61
SMALLEST_SHARE, SMALLEST_SHARE_OF_FEW_LEVELS, FEW_LEVELS = 0.4, 0.1, 63


METHODS = Registry("A method that chooses ranges", lambda made: isinstance(made, RangeMethod))
register, get = METHODS.register, METHODS.get


def serialize(method):
    """The config from which `get` makes an equal method."""
    return keras.saving.serialize_keras_object(method)


class RangeMethod:
    """Chooses the range of a tensor."""

    # Whether it gives ranges of weights, too.
    takes_weights = True

    def range_of(self, seen, quantizer):
        """The range of an activation.

        Args:
            seen: `Distribution` of its values.
            quantizer: `ActivationQuantizer` that will have the range.

        Returns:
            `(low, high)`, floats.
        """
        raise NotImplementedError

    def largest_weights(self, channels, limit):
        """The weights that the largest integer stands for.

        Args:
            channels: float64 weights `(values, channels)`.
            limit: largest integer.

        Returns:
            float64 `(channels,)`.
        """
        raise NotImplementedError

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@register("min_max")
class MinMax(RangeMethod):
    """From the smallest to the largest value seen."""

    def range_of(self, seen, quantizer):
        return seen.low, seen.high

    def largest_weights(self, channels, limit):
        return np.abs(channels).max(0)


@register("moving_average")
class MovingMinMax(RangeMethod):
    """The moving average of the batches' extremes, as `MovingAverage` has it in training.

    Args:
        momentum: float in [0, 1).
    """

    takes_weights = False

    def __init__(self, momentum=0.9):
        if not 0 <= momentum < 1:
            raise QuantizationError(f"`momentum` must be in [0, 1). Received: momentum={momentum}")
        self.momentum = momentum

    def range_of(self, seen, quantizer):
        rates = np.append(1.0, np.full(len(seen.lows) - 1, 1.0 - self.momentum))
        # The weight of each batch in the average.
        weights = rates * np.append(np.cumprod((1.0 - rates)[:0:-1])[::-1], 1.0)
        return float(np.dot(weights, seen.lows)), float(np.dot(weights, seen.highs))

    def get_config(self):
        return {"momentum": self.momentum}


@register("percentile")
class Percentile(RangeMethod):
    """What leaves the same small share of values out on each side that has any.

    Args:
        percentile: float in (50, 100): 99.99 leaves out one value in 10,000 on each side.
    """

    def __init__(self, percentile=99.99):
        if not 50 < percentile <= 100:
            raise QuantizationError(f"`percentile` must be above 50 and at most 100. Received: percentile={percentile}")
        self.percentile = percentile

    def range_of(self, seen, quantizer):
        return seen.quantile(1.0 - self.percentile / 100.0), seen.quantile(self.percentile / 100.0)

    def largest_weights(self, channels, limit):
        return np.percentile(np.abs(channels), self.percentile, axis=0)

    def get_config(self):
        return {"percentile": self.percentile}


@register("mean_std")
class MeanStd(RangeMethod):
    """The mean and `k` standard deviations to either side, within what was seen.

    Args:
        k: positive float.
    """

    def __init__(self, k=6.0):
        if not k > 0:
            raise QuantizationError(f"`k` must be positive. Received: k={k}")
        self.k = k

    def range_of(self, seen, quantizer):
        reach = self.k * seen.std
        return max(seen.mean - reach, seen.low), min(seen.mean + reach, seen.high)

    def largest_weights(self, channels, limit):
        return np.minimum(np.abs(channels.mean(0)) + self.k * channels.std(0), np.abs(channels).max(0))

    def get_config(self):
        return {"k": self.k}


@register("fixed")
class Truncation(RangeMethod):
    """Truncation at fixed values, within what was seen.

    Args:
        low, high: floats, `low <= 0 < high`; `-high` for `low` by default.
    """

    def __init__(self, high=6.0, low=None):
        low = -high if low is None else low
        if not (np.isfinite([low, high]).all() and low <= 0 < high):
            raise QuantizationError(f"Values are truncated at `low <= 0 < high`. Received: low={low}, high={high}")
        self.high, self.low = high, low

    def range_of(self, seen, quantizer):
        return max(self.low, seen.low), min(self.high, seen.high)

    def largest_weights(self, channels, limit):
        return np.minimum(self.high, np.abs(channels).max(0))

    def get_config(self):
        return {"high": self.high, "low": self.low}


class _Search(RangeMethod):
    """Tries ranges from the whole one down, both ends by the same share; a subclass gives `loss`."""

    def loss(self, centers, counts, low, high, levels):
        """How bad the grid from `low` to `high` is for these values."""
        raise NotImplementedError

    def range_of(self, seen, quantizer):
        low, high = min(seen.low, 0.0), max(seen.high, 0.0)
        if high <= low:
            return low, high
        levels = quantizer.type.levels
        centers, counts = seen.clipped(low, high)
        shares = candidates(levels)
        losses = [self.loss(centers, counts, *quantizer.ends(low * share, high * share), levels) for share in shares]
        best = shares[int(np.argmin(losses))]
        return low * best, high * best


@register("mse")
class LeastSquares(_Search):
    """The range with the least mean squared error after quantization.

    References:
        - [Post training 4-bit quantization of convolutional networks](https://arxiv.org/abs/1810.05723), whose analytic
          clipping this searches for on the values seen
    """

    def loss(self, centers, counts, low, high, levels):
        scale = (high - low) / levels
        quantized = np.clip(np.rint(centers / scale), np.rint(low / scale), np.rint(high / scale)) * scale
        return np.dot(counts, (quantized - centers) ** 2)

    def largest_weights(self, channels, limit):
        most = np.maximum(np.abs(channels).max(0), 1e-30)
        shares = candidates(2 * limit)
        losses = []
        for share in shares:
            scale = most * share / limit
            losses.append(np.square(np.clip(np.rint(channels / scale), -limit, limit) * scale - channels).sum(0))
        return most * shares[np.argmin(losses, axis=0)]


@register("entropy")
class Entropy(_Search):
    """The range whose quantized values have the distribution nearest to the real one's, by Kullback-Leibler divergence.

    References:
        - [8-bit inference with TensorRT](https://www.cse.iitd.ac.in/~rijurekha/course/tensorrt.pdf), Migacz, GTC 2017
    """

    takes_weights = False
    # Weight of a count that the quantized distribution gives to a value that it lost.
    FLOOR = 1e-4

    def loss(self, centers, counts, low, high, levels):
        inside = (centers >= low) & (centers <= high)
        if not inside.any():
            return np.inf
        scale = (high - low) / levels
        level = np.rint(np.clip(centers, low, high) / scale).astype(int)
        level -= level.min()
        # Zero is a level, whatever the range: it loses nothing.
        counts = np.where(centers == 0, 0, counts)
        # What is clipped counts at the ends in the reference, and is missing in the quantized distribution.
        reference = counts.copy()
        first, last = np.flatnonzero(inside)[[0, -1]]
        reference[first] += reference[:first].sum()
        reference[last] += reference[last + 1 :].sum()
        reference[:first] = reference[last + 1 :] = 0
        kept = np.where(inside, counts, 0)
        filled = (reference > 0) & inside
        in_level = np.bincount(level, weights=kept)
        share_of = np.bincount(level, weights=filled)
        spread = np.where(filled, in_level[level] / np.maximum(share_of[level], 1), 0)
        if not filled.any():
            return np.inf
        p = reference[filled] / reference[filled].sum()
        q = np.maximum(spread[filled], self.FLOOR)
        return special.rel_entr(p, q / q.sum()).sum()


def candidates(levels):
    """The shares of the whole range that the searches try."""
    return np.linspace(1.0, SMALLEST_SHARE_OF_FEW_LEVELS if levels <= FEW_LEVELS else SMALLEST_SHARE, CANDIDATES)
