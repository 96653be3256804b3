"""Rules for resizing: RESIZE_BILINEAR; nearest as STRIDED_SLICE and CONCATENATION between RESHAPEs."""

import math

import numpy as np

from keras_quant.integer import nearest_indices
from keras_quant.layers import QuantResize, QuantUpSampling2D
from keras_quant.tflite.concatenate import join
from keras_quant.tflite.depth_to_space import to_space
from keras_quant.tflite.lower import lowers

# With more slices than this along one axis, a built-in kernel is the better choice.
MOST_SLICES = 16


@lowers(QuantUpSampling2D, QuantResize)
def resize(lowering, layer, x, output):
    if tuple(x.shape[1:]) == tuple(output.shape):
        return x
    if layer.interpolation == "nearest":
        times = [after / before for before, after in zip(x.shape[1:3], output.shape)]
        repeats = lowering.resizable and times[0] == times[1] == int(times[0])
        return _repeated(lowering, x, output, int(times[0])) if repeats else _nearest(lowering, x, output)
    y = lowering.activation(output)
    size = lowering.ints(output, "size", output.shape[:2])
    lowering.operator("RESIZE_BILINEAR", [x, size], y, 3, (2, 2, 0), "ResizeBilinearOptions", halfPixelCenters=True)
    return y


def _nearest(lowering, x, output):
    """Copies side by side in memory are repeated pixels.

    In `(h, w, c)` order, f copies of a pixel's channels after one another are f equal pixels; f copies of a row after one
    another are f equal rows. Where sizes have the ratio a : b, each a pixels (rows) become b, always in the same way.
    """
    (height, width, channels), (high, wide, _) = x.shape[1:], output.shape
    down, across = _pattern(height, high), _pattern(width, wide)
    if down is None or across is None:
        y = lowering.activation(output)
        size = lowering.ints(output, "size", (high, wide))
        options = {"halfPixelCenters": True}
        lowering.operator("RESIZE_NEAREST_NEIGHBOR", [x, size], y, 3, (2, 3, 0), "ResizeNearestNeighborOptions", **options)
        return y
    groups = math.gcd(width, wide)
    x = lowering.reshape(x, output, (height, groups, width // groups * channels), "columns")
    x = _pick(lowering, x, output, across, width // groups, "across")
    groups = math.gcd(height, high)
    x = lowering.reshape(x, output, (groups, 1, height // groups * wide * channels), "rows")
    x = _pick(lowering, x, output, down, height // groups, "down")
    return lowering.reshape(x, output, output.shape)


def _repeated(lowering, x, output, times):
    """Each pixel `times` times both ways: its channels so many times behind one another, moved to space; of any size."""
    height, width, channels = x.shape[1:]
    stacked = lowering.activation(output, "stacked", (height, width, times * times * channels))
    stacked = join(lowering, [x] * times**2, stacked, output, axis=3)
    return to_space(lowering, stacked, lowering.activation(output), times)


def _pattern(size, wanted):
    """Runs `(start, stop)` of places whose concatenation is what each group becomes; `None` if there is no simple one."""
    groups = math.gcd(size, wanted)
    each = size // groups
    indices = nearest_indices(size, wanted).reshape(groups, -1) - each * np.arange(groups)[:, None]
    if np.any(indices != indices[0]):
        return None
    runs = []
    for index in indices[0].tolist():
        if runs and runs[-1][1] == index:
            runs[-1] = (runs[-1][0], index + 1)
        else:
            runs.append((index, index + 1))
    return runs if len(set(runs) - {(0, each)}) <= MOST_SLICES else None


def _pick(lowering, x, output, runs, places, name):
    """Concatenate runs of the `places` that lie along the last axis."""
    unit = x.shape[-1] // places
    slices = {run: _slice(lowering, x, output, *(unit * place for place in run), name) for run in dict.fromkeys(runs)}
    pieces = [slices[run] for run in runs]
    if len(pieces) == 1:
        return pieces[0]
    y = lowering.activation(output, name, (*x.shape[1:-1], sum(piece.shape[-1] for piece in pieces)))
    return join(lowering, pieces, y, output, axis=len(x.shape) - 1)


def _slice(lowering, x, output, start, stop, name):
    """Part of the last axis."""
    if (start, stop) == (0, x.shape[-1]):
        return x
    y = lowering.activation(output, f"{name}_part", (*x.shape[1:-1], stop - start))
    before = (0,) * (len(x.shape) - 1)
    begin, end = lowering.ints(output, "begin", (*before, start)), lowering.ints(output, "end", (*before, stop))
    steps = lowering.ints(output, "steps", (1,) * len(x.shape))
    masks = dict.fromkeys(("beginMask", "endMask"), (1 << len(before)) - 1)
    lowering.operator("STRIDED_SLICE", [x, begin, end, steps], y, 2, (1, 14, 0), "StridedSliceOptions", **masks)
    return y
