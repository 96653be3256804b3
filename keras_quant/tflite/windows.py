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


@dataclasses.dataclass(frozen=True)
class Axis:
    """One axis of the image.

    Attributes:
        size, outputs: of the image and of the convolution's output.
        taps, stride, dilation: of the kernel.
        before: zeros that the padding puts before the image.
    """

    size: int
    outputs: int
    taps: int
    stride: int
    dilation: int
    before: int

    @property
    def reach(self):
        """Places from the first tap to the last."""
        return (self.taps - 1) * self.dilation + 1

    @property
    def missing(self):
        """Zeros that the last window takes behind the image; below zero for places that no window sees."""
        return (self.outputs - 1) * self.stride + self.reach - self.before - self.size

    @property
    def offsets(self):
        """For each tap, the block of `stride` places that it begins in, and its place there."""
        return [divmod(tap * self.dilation, self.stride) for tap in range(self.taps)]

    @property
    def blocks(self):
        """Blocks of `stride` places that hold all windows and the whole image."""
        last, _ = self.offsets[-1]
        return max(-(-(self.before + self.size) // self.stride), self.outputs + last)

    @property
    def padding(self):
        """Zeros before and after the image."""
        return self.before, self.blocks * self.stride - self.before - self.size

    @property
    def operators(self):
        """How many operators the windows along this axis take."""
        if (self.taps, self.stride) == (1, 1):
            return 0
        joins = math.ceil((self.taps - 1) / (MOST_INPUTS - 1))
        return (self.stride > 1) + self.taps + joins


def axes(layer, image, outputs):
    """The `Axis` of each of the last axes, as many as there are sizes.

    Args:
        layer: convolution of a volume, of an image, or of a sequence, whose height is 1.
        image, outputs: sizes of its input and of its output, of an image height and width.
    """
    last = lambda values: ((1,) * len(image) + tuple(values))[-len(image) :]
    same = getattr(layer, "operator_padding", layer.padding) == "same"
    geometry = zip(image, outputs, *map(last, (layer.kernel_size, layer.strides, layer.dilation_rate)))
    return [axis(size, count, taps, stride, dilation, same) for size, count, taps, stride, dilation in geometry]


def axis(size, outputs, taps, stride, dilation=1, same=False):
    """The `Axis` of these sizes, with the zeros of "same" padding or none."""
    made = Axis(size, outputs, taps, stride, dilation, 0)
    return dataclasses.replace(made, before=max(made.missing, 0) // 2) if same else made


def pays(height, width, weights, bits):
    """Whether weights of `bits` bits instead of 8 save more bytes than the windows' operators take."""
    padded = any((*height.padding, *width.padding))
    operators = padded + height.operators + width.operators
    return weights * (8 - bits) / 8 > operators * OPERATOR_BYTES


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
