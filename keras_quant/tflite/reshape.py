"""Rules for layers that only move data: RESHAPE, TRANSPOSE, PAD, STRIDED_SLICE; identities become nothing."""

import math

from keras_quant.layers import (
    QuantCropping2D,
    QuantCropping3D,
    QuantFlatten,
    QuantPermute,
    QuantRegroup,
    QuantReshape,
    QuantZeroPadding2D,
    QuantZeroPadding3D,
)
from keras_quant.layers.dropout import QuantIdentityInInference
from keras_quant.tflite.lower import lowers


@lowers(QuantIdentityInInference)
def identity(lowering, layer, x, output):
    return x


@lowers(QuantFlatten, QuantReshape, QuantRegroup)
def reshape(lowering, layer, x, output):
    return lowering.reshape(x, output, output.shape)


@lowers(QuantPermute)
def transpose(lowering, layer, x, output):
    y = lowering.activation(output)
    order = lowering.ints(output, "order", [0, *layer.dims])
    lowering.operator("TRANSPOSE", [x, order], y, 2, (1, 14, 0), "TransposeOptions")
    return y


@lowers(QuantZeroPadding2D, QuantZeroPadding3D)
def zero_padding(lowering, layer, x, output):
    return pad(lowering, x, output, [*layer.padding, (0, 0)])


@lowers(QuantCropping2D, QuantCropping3D)
def crop(lowering, layer, x, output):
    begins = [*(before for before, _ in layer.cropping), 0]
    return cut(lowering, x, output, [(begin, begin + size) for begin, size in zip(begins, output.shape)])


def pad(lowering, x, output, widths, name=None):
    """PAD with the zero point by `(before, after)` for each axis after the batch; nothing where all are zero.

    XNNPACK copies what lies behind the last padded axis at a time, the channels of a pixel, say. So that axis takes it in:

        (h, w, c) ──RESHAPE──► (h, w·c) ──PAD──► (h', w'·c) ──RESHAPE──► (h', w', c)
    """
    if not any(map(any, widths)):
        return x
    shape = [before + size + after for size, (before, after) in zip(x.shape[1:], widths)]
    last = max(axis for axis, width in enumerate(widths) if any(width))
    run = math.prod(shape[last + 1 :])
    if lowering.resizable or last == len(shape) - 1:
        return _padded(lowering, x, output, widths, name, shape)
    ends = [size * run for size in widths[last]]
    x = lowering.reshape(x, output, (*x.shape[1 : last + 1], x.shape[last + 1] * run), f"{name or 'pad'}_rows")
    y = _padded(lowering, x, output, [*widths[:last], ends], f"{name or 'pad'}_wide", [*shape[:last], shape[last] * run])
    return lowering.reshape(y, output, shape, name or "reshape")


def _padded(lowering, x, output, widths, name, shape):
    y = lowering.activation(output, name, shape)
    amounts = lowering.ints(output, f"{name or 'pad'}_amounts", [(0, 0), *widths])
    lowering.operator("PAD", [x, amounts], y, 2, (1, 14, 0), "PadOptions")
    return y


def cut(lowering, x, output, ranges, name=None):
    """STRIDED_SLICE of the `range(begin, end)` for each axis after the batch; nothing where all are whole."""
    if list(ranges) == [(0, size) for size in x.shape[1:]]:
        return x
    y = lowering.activation(output, name, [end - begin for begin, end in ranges])
    begin = lowering.ints(output, "begin", [0, *(begin for begin, _ in ranges)])
    end = lowering.ints(output, "end", [0, *(end for _, end in ranges)])
    steps = lowering.ints(output, "steps", [1] * len(x.shape))
    # The batch, whatever it is at run time.
    masks = {"beginMask": 1, "endMask": 1}
    lowering.operator("STRIDED_SLICE", [x, begin, end, steps], y, 2, (1, 14, 0), "StridedSliceOptions", **masks)
    return y
