"""Patches of images and volumes: movement alone."""

import math

import numpy as np
from keras.src.ops import image, nn, numpy

from keras_quant.graph.expand import expands
from keras_quant.graph.steps import Steps


@expands(image, "ExtractPatches")
def _extract_patches(node):
    """Patches side by side, as a vision transformer cuts them, are only moved; of others each place is a slice."""
    x, operation, steps = node.inputs[0], node.operation, Steps(node)
    count = len(operation.size)
    size, dilation = _each(operation.size, count), _each(operation.dilation_rate, count)
    strides = _each(operation.strides or size, count)
    if len(x.shape) != count + 2 or operation.data_format != "channels_last":
        return [node]
    counts = node.output.shape[1:-1]
    ends = [(n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(counts, strides, size, dilation)]
    missing = [max(end - length, 0) for end, length in zip(ends, x.shape[1:-1])]
    if any(missing):
        x = steps(numpy.Pad([(0, 0), *((m // 2, m - m // 2) for m in missing), (0, 0)]), x)
    if size == strides and set(dilation) == {1}:
        return steps.end(_side_by_side(steps, x, size, counts))
    return steps.end(steps(numpy.Concatenate(-1), _places(steps, x, size, strides, dilation, counts)))


def _each(value, count):
    return (value,) * count if isinstance(value, int) else tuple(value)


def _places(steps, x, size, strides, dilation, counts):
    """For each place in a patch, what all patches have there."""
    places = []
    for offset in np.ndindex(*size):
        begins = [place * step for place, step in zip(offset, dilation)]
        ends = [begin + (n - 1) * step + 1 for begin, n, step in zip(begins, counts, strides)]
        places.append(steps(numpy.GetItem(), x, (slice(None), *map(slice, begins, ends, strides))))
    return places


def _side_by_side(steps, x, size, counts):
    """Axis by axis, the last one first, each patch's values move behind the patches, before the values that are there."""
    lengths = [n * k for n, k in zip(counts, size)]
    if list(x.shape[1:-1]) != lengths:
        x = steps(numpy.GetItem(), x, (slice(None), *(slice(0, length) for length in lengths)))
    patches, values = counts[-1], size[-1] * x.shape[-1]
    for axis in reversed(range(len(size) - 1)):
        before = [math.prod(lengths[:axis])] * (axis > 0)
        x = steps(numpy.Reshape((-1, *before, counts[axis], size[axis], patches, values)), x)
        x = steps(numpy.Transpose((0, 1, 2, 4, 3, 5) if before else (0, 1, 3, 2, 4)), x)
        patches, values = patches * counts[axis], values * size[axis]
    return x


@expands(nn, "Unfold")
def _unfold(node):
    """As `extract_patches`, of images with the channels first, which also come first in each patch."""
    x, operation, steps = node.inputs[0], node.operation, Steps(node)
    size, dilation, strides, border = (
        _each(value, 2) for value in (operation.kernel_size, operation.dilation, operation.stride, operation.padding)
    )
    x = steps(numpy.Transpose((0, 2, 3, 1)), x)
    if any(border):
        x = steps(numpy.Pad([(0, 0), *((b, b) for b in border), (0, 0)]), x)
    counts = [(length - d * (k - 1) - 1) // s + 1 for length, d, k, s in zip(x.shape[1:3], dilation, size, strides)]
    patches = steps(numpy.Concatenate(-1), _places(steps, x, size, strides, dilation, counts))
    parted = steps(numpy.Reshape((-1, math.prod(counts), math.prod(size), x.shape[-1])), patches)
    return steps.end(steps(numpy.Transpose((0, 3, 2, 1)), parted))
