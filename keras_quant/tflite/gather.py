"""Rule for what picks along axes by constant indices: slices, concatenations and reshapes that stay on XNNPACK.

GATHER, TILE, REVERSE_V2, MIRROR_PAD and a STRIDED_SLICE with steps all leave it. Rolling, padding and tiling are faster this
way too; for a flip of a long axis, or single elements picked here and there, the built-in kernel wins and is taken.
"""

import math

import numpy as np

from keras_quant.layers import QuantPad
from keras_quant.layers.gather import QuantGather
from keras_quant.tflite.concatenate import MOST_INPUTS, join
from keras_quant.tflite.lower import lowers
from keras_quant.tflite.reshape import cut, pad

# Beyond these the built-in kernel, a single operator, is faster: slices of one axis; the bytes of a slice that is a single
# element, and how often such a slice may be copied.
MOST_PIECES, SHORTEST_PIECE, MOST_SHORT_PIECES = 32, 64, 256


@lowers(QuantPad)
def padding(lowering, layer, x, output):
    if layer.mode != "constant":
        return gather(lowering, layer, x, output)
    return pad(lowering, x, output, [*layer.pad_width, *[(0, 0)] * (len(output.shape) - len(layer.pad_width))])


@lowers(QuantGather)
def gather(lowering, layer, x, output):
    x = lowering.reshape(x, output, layer.source_shape(x.shape)[1:], "source")
    picks = layer.picks(x.shape)
    ranges = [(0, size) for size in x.shape[1:]]
    for axis, indices in picks.items():
        ranges[axis - 1] = _span(indices, x.shape[axis])
    x = cut(lowering, x, output, ranges)
    for axis, indices in picks.items():
        x = _pick(lowering, x, output, axis, indices - ranges[axis - 1][0])
    return lowering.reshape(x, output, output.shape)


def _step(indices):
    """The constant difference between neighbours, or `None`."""
    steps = set(np.diff(indices).tolist())
    return steps.pop() if len(steps) == 1 else None


def _span(indices, size):
    """The part of an axis that holds the indices; with a step k whole rows of k, as far as the axis has them."""
    begin, end = int(indices.min()), int(indices.max()) + 1
    step = abs(_step(indices) or 1)
    return begin, min(max(end, begin + len(indices) * step), size) if step > 1 else end


def _pick(lowering, x, output, axis, indices):
    """Take `indices` along one axis in the form that suits them."""
    size, count = x.shape[axis], len(indices)
    step = _step(indices)
    if np.array_equal(indices, np.arange(size)):
        return x
    if size > 1 and count % size == 0 and np.array_equal(indices, np.repeat(np.arange(size), count // size)):
        return repeat(lowering, x, output, axis, count // size)
    if step is not None and abs(step) > 1:
        x = _every(lowering, x, output, axis, abs(step), count)
        return _pick(lowering, x, output, axis, np.arange(count)[:: int(np.sign(step))])
    runs = _runs(indices)
    if not _too_scattered(x, axis, len(runs), count):
        return _assemble(lowering, x, output, axis, runs)
    if step == -1 and size == count:
        return _built_in(lowering, x, output, x.shape[1:], [axis], "REVERSE_V2", 3, (2, 5, 0), "ReverseV2Options")
    shape = _with_axis(x, axis, count)
    return _built_in(lowering, x, output, shape, indices, "GATHER", 2, (1, 14, 0), "GatherOptions", axis=axis)


def _too_scattered(x, axis, runs, count):
    """Whether a built-in kernel is the faster form: many slices, or slices of a few bytes each."""
    outer, inner = _around(x, axis)
    return runs > MOST_PIECES or (2 * runs > count and inner < SHORTEST_PIECE and outer * runs > MOST_SHORT_PIECES)


def _runs(indices):
    """Ascending runs as `[start, length, times]`, equal neighbours counted together."""
    runs = []
    breaks = np.flatnonzero(np.diff(indices) != 1) + 1
    for run in np.split(indices, breaks):
        start, length = int(run[0]), len(run)
        if runs and runs[-1][:2] == [start, length]:
            runs[-1][2] += 1
        else:
            runs.append([start, length, 1])
    return runs


def _assemble(lowering, x, output, axis, runs):
    """Concatenate slices."""
    slices, pieces = {}, []
    for start, length, times in runs:
        if (start, length) not in slices:
            slices[start, length] = _slice(lowering, x, output, axis, start, length)
        pieces.append(_copies(lowering, slices[start, length], output, axis, times))
    return _joined(lowering, pieces, output, axis)


def _slice(lowering, x, output, axis, start, length):
    ranges = [(0, size) for size in x.shape[1:]]
    ranges[axis - 1] = (start, start + length)
    return cut(lowering, x, output, ranges, "slice")


def _joined(lowering, pieces, output, axis):
    if len(pieces) == 1:
        return pieces[0]
    shape = list(pieces[0].shape[1:])
    shape[axis - 1] = sum(piece.shape[axis] for piece in pieces)
    return join(lowering, pieces, lowering.activation(output, "joined", shape), output, axis)


def _copies(lowering, x, output, axis, times):
    """The tensor `times` times along an axis; copies are made of copies."""
    if times == 1:
        return x
    if times <= MOST_INPUTS:
        return _joined(lowering, [x] * times, output, axis)
    share, rest = divmod(times, MOST_INPUTS)
    part = _copies(lowering, x, output, axis, share)
    if rest == 0:
        return _joined(lowering, [part] * MOST_INPUTS, output, axis)
    last = _copies(lowering, x, output, axis, share + rest)
    return _joined(lowering, [part] * (MOST_INPUTS - 1) + [last], output, axis)


def _around(x, axis):
    """How many elements of a sample lie before and behind one of this axis."""
    return math.prod(x.shape[1:axis]), math.prod(x.shape[axis + 1 :])


def _with_axis(x, axis, count):
    return (*x.shape[1:axis], count, *x.shape[axis + 1 :])


def repeat(lowering, x, output, axis, times):
    """Each element several times: copies side by side in memory of what lies behind the axis."""
    shape = _with_axis(x, axis, x.shape[axis] * times)
    outer, inner = _around(x, axis)
    x = lowering.reshape(x, output, (outer, x.shape[axis], inner), "rows")
    x = _copies(lowering, x, output, 3, times)
    return lowering.reshape(x, output, shape)


def _every(lowering, x, output, axis, step, count):
    """Every `step`-th element: rows of `step` elements, and the first of each."""
    shape = _with_axis(x, axis, count)
    widths = [(0, 0)] * (len(x.shape) - 1)
    widths[axis - 1] = (0, step * count - x.shape[axis])
    x = pad(lowering, x, output, widths, "filled")
    outer, inner = _around(x, axis)
    x = lowering.reshape(x, output, (outer, count, step * inner), "rows")
    x = cut(lowering, x, output, [(0, outer), (0, count), (0, inner)], "first")
    return lowering.reshape(x, output, shape)


def _built_in(lowering, x, output, shape, operand, name, *args, **fields):
    y = lowering.activation(output, None, shape)
    lowering.operator(name, [x, lowering.ints(output, "indices", operand)], y, *args, **fields)
    return y
