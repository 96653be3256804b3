"""What was seen of a tensor's values, in fixed memory."""

import numpy as np


class Distribution:
    """A histogram that widens its bins as larger values come, its extremes exactly, mean and deviation.

    One bin lies around zero, so what a ReLU makes zero stays zero. Where a value falls outside, bins are merged in pairs
    until it fits: between 2,048 and 4,096 bins lie between zero and the largest absolute value.

    Attributes:
        low, high: extremes of all values.
        lows, highs: extremes of each batch.
        mean, std: of the samples.
    """

    SIDE = 4096

    def __init__(self):
        self.low, self.high = np.inf, -np.inf
        self.lows, self.highs = [], []
        self._counts = np.zeros(2 * self.SIDE + 1)
        self._width = 0.0
        self._number, self._zeros, self._total, self._squares = 0, 0, 0.0, 0.0

    def add(self, sample, low=None, high=None):
        """Take a batch.

        Args:
            sample: of its values, any shape, finite.
            low, high: extremes of all of them; the sample's by default.
        """
        sample = np.float64(np.ravel(sample))
        low, high = float(sample.min() if low is None else low), float(sample.max() if high is None else high)
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.lows.append(low)
        self.highs.append(high)
        self._number += sample.size
        self._zeros += np.count_nonzero(sample == 0)
        self._total += sample.sum()
        self._squares += np.square(sample).sum()
        self._widen(np.abs(sample).max())
        if self._width:
            places = np.rint(sample / self._width).astype(np.int64) + self.SIDE
            self._counts += np.bincount(places, minlength=self._counts.size)
        else:
            self._counts[self.SIDE] += sample.size

    def packed(self):
        """All of it but the extremes of single batches, as one float64 array, which `merge` takes."""
        batches = [np.mean(self.lows), np.mean(self.highs), len(self.lows)]
        return np.array(
            [
                *(self.low, self.high, *batches, self._width),
                *(self._number, self._zeros, self._total, self._squares, *self._counts),
            ]
        )

    @classmethod
    def merge(cls, arrays):
        """What was seen of several parts of the data, each as `packed` gives it."""
        made = cls()
        widest = max(array[5] for array in arrays)
        made._width = widest
        for low, high, mean_low, mean_high, batches, width, number, zeros, total, squares, *counts in map(
            np.asarray, arrays
        ):
            made.low, made.high = min(made.low, low), max(made.high, high)
            made.lows += [mean_low] * int(batches)
            made.highs += [mean_high] * int(batches)
            made._number, made._zeros = made._number + number, made._zeros + zeros
            made._total, made._squares = made._total + total, made._squares + squares
            places = (np.arange(len(counts)) - cls.SIDE) * ((width or widest) / (widest or 1.0))
            places = np.rint(places).astype(np.int64) + cls.SIDE
            made._counts += np.bincount(places, weights=counts, minlength=made._counts.size)
        return made

    def _widen(self, largest):
        if not self._width:
            self._width = largest / self.SIDE
            return
        while largest > self._width * self.SIDE:
            places = np.rint((np.arange(self._counts.size) - self.SIDE) / 2).astype(np.int64) + self.SIDE
            self._counts = np.bincount(places, weights=self._counts, minlength=self._counts.size)
            self._width *= 2

    @property
    def mean(self):
        return self._total / max(self._number, 1)

    @property
    def std(self):
        return np.sqrt(max(self._squares / max(self._number, 1) - self.mean**2, 0.0))

    def clipped(self, low, high):
        """Centers of the bins that hold anything, clipped to `[low, high]`, and their counts."""
        filled = np.flatnonzero(self._counts)
        return np.clip((filled - self.SIDE) * self._width, low, high), self._counts[filled]

    @property
    def reach(self):
        """The largest absolute value."""
        return max(-self.low, self.high)

    def has_gap(self, near, far):
        """Whether the samples have no absolute value between two, to within a bin."""
        distances = np.abs(self.clipped(-np.inf, np.inf)[0])
        return not np.any((distances > near) & (distances < far))

    def has_small(self, share):
        """Whether any sample is as close to zero as a share of the largest, to within a bin, and not zero."""
        centers, counts = self.clipped(-np.inf, np.inf)
        return counts[np.abs(centers) <= share * self.reach].sum() > self._zeros

    def quantile(self, share):
        """The value below which this share of the samples lies, to within a bin; 0 and 1 are the extremes."""
        if share <= 0 or share >= 1:
            return self.low if share <= 0 else self.high
        filled = np.flatnonzero(self._counts)
        below = np.cumsum(self._counts[filled])
        place = filled[min(np.searchsorted(below, share * below[-1]), filled.size - 1)]
        return float(np.clip((place - self.SIDE) * self._width, self.low, self.high))

    def within(self, least, most):
        """The same, of values that an activation clips to `[least, most]`; `None` for no bound."""
        least, most = (-np.inf if least is None else least), (np.inf if most is None else most)
        if least <= self.low and self.high <= most:
            return self
        clipped = Distribution()
        centers, counts = self.clipped(least, most)
        clipped._width = self._width
        places = (np.rint(centers / self._width) if self._width else centers).astype(np.int64) + self.SIDE
        clipped._counts = np.bincount(places, weights=counts, minlength=self._counts.size)
        clipped.low, clipped.high = np.clip([self.low, self.high], least, most)
        clipped.lows, clipped.highs = (list(np.clip(v, least, most)) for v in (self.lows, self.highs))
        clipped._number, clipped._total, clipped._zeros = counts.sum(), np.dot(counts, centers), self._zeros
        clipped._squares = np.dot(counts, centers**2)
        return clipped
