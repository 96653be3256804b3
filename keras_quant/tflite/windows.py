"""A convolution as a product over its windows, for weights of few bits: XNNPACK's CONV_2D has 8-bit weights only.

LiteRT's built-in CONV_2D takes them, but is no way out: for one and the same file its integers are others on x86-64 than on
64-bit Arm, and it takes four times as long as XNNPACK's for weights of 8 bits. What XNNPACK has is FULLY_CONNECTED:

    (h, w, c) ──PAD──► along the width: one slice a tap, CONCATENATION ──► along the height alike ──► (h', w', kh·kw·c)

With a stride of 2, every second column is the first half of the channels of an image of half the width, which is a RESHAPE.
"""

import dataclasses
import math

from keras_quant.tflite.concatenate import MOST_INPUTS, join
from keras_quant.tflite.lower import params_of
from keras_quant.tflite.reshape import cut, pad

# What an operator, its tensor and its constants take in the file.
OPERATOR_BYTES = 250


def pays(height, width, weights, bits):
    """Whether weights of `bits` bits instead of 8 save more bytes than the windows' operators take."""
    padded = any((*height.padding, *width.padding))
    operators = padded + _operators(height) + _operators(width)
    return weights * (8 - bits) / 8 > operators * OPERATOR_BYTES


def _operators(axis):
    """How many operators the windows along an axis take."""
    if (axis.taps, axis.stride) == (1, 1):
        return 0
    joins = math.ceil((axis.taps - 1) / (MOST_INPUTS - 1))
    return (axis.stride > 1) + axis.taps + joins


def windows(lowering, x, output, height, width):
    """The windows of an image.

    Args:
        lowering: `Lowering`.
        x: `Tensor` `(n, h, w, c)`.
        output: `Output` of the convolution.
        height, width: `Axis`.

    Returns:
        `Tensor` `(n, h', w', kh·kw·c)` on the grid of `x`.
    """
    output = dataclasses.replace(output, params=params_of(x))
    x = pad(lowering, x, output, [height.padding, width.padding, (0, 0)], "padded")
    _, rows, _, channels = x.shape
    blocks = lowering.reshape(x, output, (rows, width.blocks, width.stride * channels), "columns")
    parts = [
        cut(lowering, blocks, output, [(0, rows), (block, block + width.outputs), _share(place, channels)], "column")
        for block, place in width.offsets
    ]
    return windows_of_rows(lowering, _joined(lowering, parts, output, "wide"), output, height)


def windows_of_rows(lowering, x, output, height):
    """The windows along the first axis after the batch.

    Args:
        lowering: `Lowering`.
        x: `Tensor` `(n, rows, inner, c)`, padded.
        output: `Output` on the grid of `x`.
        height: `Axis` of the rows.

    Returns:
        `Tensor` `(n, rows', inner, taps·c)`.
    """
    _, _, inner, channels = x.shape
    blocks = lowering.reshape(x, output, (height.blocks, height.stride * inner, channels), "rows")
    parts = [
        cut(lowering, blocks, output, [(block, block + height.outputs), _share(place, inner), (0, channels)], "row")
        for block, place in height.offsets
    ]
    return _joined(lowering, parts, output, "windows")


def _share(place, size):
    return place * size, (place + 1) * size


def _joined(lowering, parts, output, name):
    if len(parts) == 1:
        return parts[0]
    shape = (*parts[0].shape[1:-1], sum(part.shape[-1] for part in parts))
    return join(lowering, parts, lowering.activation(output, name, shape), output, 3)
