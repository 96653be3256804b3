"""Counts of values over the integers of a grid."""

import dataclasses

import numpy as np
from keras import ops

# More bins than pixels tell nothing: wider grids are counted in bins of several integers.
MOST_BINS = 256


@dataclasses.dataclass(frozen=True)
class Histogram:
    """How many values each integer of a grid has.

    Attributes:
        counts: int64 `(bins,)`.
        low: the integer that the first bin begins with.
        width: integers in a bin; 1 up to 8 bits.
    """

    counts: np.ndarray
    low: int
    width: int = 1

    @property
    def edges(self):
        """Borders of the bins, half way between integers, `(bins + 1,)`."""
        return self.low - 0.5 + self.width * np.arange(len(self.counts) + 1)

    @property
    def used(self):
        """The number of bins that hold any value."""
        return int(np.count_nonzero(self.counts))

    def __add__(self, other):
        return Histogram(self.counts + other.counts, self.low, self.width)


def count(integers, low, high):
    """The `Histogram` of an array.

    Args:
        integers: whole numbers in `[low, high]`, any shape and dtype.
        low, high: the smallest and the largest of the grid.
    """
    levels = high - low + 1
    width = -(-levels // MOST_BINS)
    bins = (np.asarray(integers).reshape(-1).astype(np.int64) - low) // width
    return Histogram(np.bincount(bins, minlength=-(-levels // width)), low, width)


def weight_histogram(node):
    """The integers of a layer's kernel as the file holds them; `None` for a layer without, or with ranges not set.

    Args:
        node: `Node` of a quantized model.
    """
    layer = node.operation
    quantizer = getattr(layer, "kernel_quantizer", None)
    if quantizer is None:
        return None
    if hasattr(layer, "folded_weights"):
        grids = [value.note.quantizer for value in (node.inputs[0], node.output)]
        if not all(grid.is_set for grid in grids):
            return None
        x, y = (grid.params() for grid in grids)
        integers = ops.convert_to_numpy(layer.folded_weights(x, y.kernel).kernel)
    else:
        values = quantizer.fake_quant(layer.kernel, layer.kernel_axes)
        scale = quantizer.beside(quantizer.scale(layer.kernel, layer.kernel_axes), layer.kernel_axes)
        integers = np.rint(ops.convert_to_numpy(values / scale))
    return count(integers, -quantizer.limit, quantizer.limit)
