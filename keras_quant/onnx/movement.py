"""Rules for layers that only move data."""

import numpy as np

from keras_quant.layers import (
    QuantConcatenate,
    QuantCropping2D,
    QuantCropping3D,
    QuantDepthToSpace,
    QuantFlatten,
    QuantPad,
    QuantPermute,
    QuantRegroup,
    QuantReshape,
    QuantSpaceToDepth,
    QuantZeroPadding2D,
    QuantZeroPadding3D,
)
from keras_quant.layers.gather import QuantGather
from keras_quant.onnx.lower import lowers
from keras_quant.onnx.lowering import Made, axis_in


@lowers(QuantFlatten, QuantReshape)
def reshape(lowering, layer, x, output):
    if tuple(x.shape) == tuple(output.shape):
        return x
    # An image of one pixel lies in memory alike, whether its channels are first or last.
    value = lowering.real(x) if all(size == 1 for size in x.shape[:-1]) else lowering.real(x, False)
    *places, channels = output.shape
    if len(places) > 1 and all(size == 1 for size in places):
        return Made(lowering.reshape(value, (0, channels, *places)), True)
    return Made(lowering.reshape(value, (0, *output.shape)))


@lowers(QuantRegroup)
def regroup(lowering, layer, x, output):
    return Made(lowering.reshape(lowering.real(x, False), (-1, *output.shape)))


@lowers(QuantPermute)
def permute(lowering, layer, x, output):
    return Made(lowering.node("Transpose", [lowering.real(x, False)], perm=[0, *layer.dims]))


@lowers(QuantZeroPadding2D, QuantZeroPadding3D)
def zero_padding(lowering, layer, x, output):
    return _pad(lowering, x, output, [*layer.padding, (0, 0)])


@lowers(QuantPad)
def pad(lowering, layer, x, output):
    if layer.mode != "constant":
        return gather(lowering, layer, x, output)
    return _pad(lowering, x, output, [*layer.pad_width, *[(0, 0)] * (len(output.shape) - len(layer.pad_width))])


def _pad(lowering, x, output, widths):
    """Pad with zeros; a convolution behind it pads itself and leaves this node unread."""
    if not any(map(any, widths)):
        return x
    widths = [tuple(map(int, pair)) for pair in widths]
    placed = [(0, 0)] * x.rank
    for axis, pair in enumerate(widths, 1):
        placed[axis_in(axis, x.rank, x.first)] = pair
    amounts = lowering.ints("pads", [before for before, _ in placed] + [after for _, after in placed])
    value = lowering.node("Pad", [lowering.real(x), amounts])
    return lowering.quantized(value, output.name, output.shape, output.params, x.first, padded=(x, widths))


@lowers(QuantCropping2D, QuantCropping3D)
def cropping(lowering, layer, x, output):
    sizes = enumerate(zip(layer.cropping, output.shape), 1)
    picks = {axis: np.arange(before, before + size) for axis, ((before, _), size) in sizes}
    return Made(_picked(lowering, lowering.real(x), x.shape, picks, x.rank, x.first), x.first)


@lowers(QuantGather)
def gather(lowering, layer, x, output):
    source = tuple(layer.source_shape((None, *x.shape))[1:])
    picks = layer.picks((None, *source))
    picked = list(source)
    for axis, indices in picks.items():
        picked[axis - 1] = len(indices)
    first = x.first and source == tuple(x.shape) and tuple(picked) == tuple(output.shape)
    y = lowering.real(x, first)
    if source != tuple(x.shape):
        y = lowering.reshape(y, (0, *source))
    y = _picked(lowering, y, source, picks, len(source) + 1, first)
    return Made(y if tuple(picked) == tuple(output.shape) else lowering.reshape(y, (0, *output.shape)), first)


def _picked(lowering, value, shape, picks, rank, first):
    """Slice where a step leads from one index to the next, Gather elsewhere."""
    slices = []
    for axis, indices in picks.items():
        size, place = shape[axis - 1], axis_in(axis, rank, first)
        steps = set(np.diff(indices).tolist()) or {1}
        if np.array_equal(indices, np.arange(size)):
            continue
        if len(steps) == 1 and 0 not in steps:
            step = steps.pop()
            end = int(indices[-1]) + (1 if step > 0 else -1)
            slices.append((int(indices[0]), end if end >= 0 else -size - 1, place, step))
        else:
            value = lowering.node("Gather", [value, lowering.ints("indices", indices)], axis=place)
    if not slices:
        return value
    names = "starts", "ends", "axes", "steps"
    return lowering.node("Slice", [value, *map(lowering.ints, names, zip(*slices))])


@lowers(QuantConcatenate)
def concatenate(lowering, layer, inputs, output):
    names, first = lowering.alike(inputs)
    rank = len(output.shape) + 1
    return Made(lowering.node("Concat", names, axis=axis_in(layer.axis % rank, rank, first)), first)


@lowers(QuantDepthToSpace)
def depth_to_space(lowering, layer, x, output):
    return Made(lowering.node("DepthToSpace", [lowering.real(x, True)], blocksize=layer.block_size, mode="DCR"), True)


@lowers(QuantSpaceToDepth)
def space_to_depth(lowering, layer, x, output):
    return Made(lowering.node("SpaceToDepth", [lowering.real(x, True)], blocksize=layer.block_size), True)
