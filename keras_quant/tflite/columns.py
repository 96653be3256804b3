"""Convolutions of few channels, several columns of the image at a time.

XNNPACK's kernels take the channels of a place 4 or 8 at once, and zeros where there are fewer: of an image in colours they
waste most of their work. The columns of a block lie beside one another in memory, so they are channels of one place as well:

    (h, w, c) ──PAD──► RESHAPE ──► (h, w/(s·b), s·b·c) ──CONV_2D──► (h', w'/b, b·f) ──RESHAPE──► (h', w', f)

The kernel of a block holds that of the layer once for each of the `b` outputs, `s` columns further on each time, and zeros.
"""

import dataclasses

import numpy as np

from keras_quant.tflite.lower import params_of
from keras_quant.tflite.reshape import pad

# A tile of 4 places and 16 filters takes about so many instructions for each tap, and for each group of channels: of 1, 4 or
# 8, on Arm's oldest cores, with its dot products, and with its matrix products or on x86.
PER_TAP, PER_GROUP, FILTERS, GROUPS = 12, 16, 16, (1, 4, 8)
# Blocks take a PAD and two RESHAPEs, too: what they spare at least, and of how many outputs.
WORTH, FEWEST_OUTPUTS = 0.9, 8192


def outputs_of_block(channels, filters, height, width):
    """How many outputs along the width a block of columns gives at a time; 0 where blocks do not pay.

    Args:
        channels, filters: of the convolution.
        height, width: `Axis`.
    """
    few = height.outputs * width.outputs * filters < FEWEST_OUTPUTS
    if few or width.taps == 1 or (height.dilation, width.dilation) != (1, 1):
        return 0
    plain = _costs(width.taps, channels, filters)
    best, chosen = WORTH, 0
    for outputs in (1, 2, 4, 8):
        columns = _Columns(width, outputs)
        if width.outputs % outputs or columns.behind < 0 or columns.size == 1:
            continue
        made = _costs(columns.taps, columns.size * channels, filters * outputs) / outputs
        ratio = float(np.prod(made / plain))
        best, chosen = (ratio, outputs) if ratio < best else (best, chosen)
    return chosen


def _costs(taps, channels, filters):
    """What one place takes, by the channels that a kernel takes at once."""
    tiles = -(-filters // FILTERS)
    return np.array([tiles * taps * (PER_TAP + PER_GROUP * -(-channels // group)) for group in GROUPS], float)


@dataclasses.dataclass(frozen=True)
class _Columns:
    """Blocks of columns.

    Attributes:
        width: `Axis`.
        outputs: of a block.
    """

    width: object
    outputs: int

    @property
    def size(self):
        """Columns of a block."""
        return self.outputs * self.width.stride

    @property
    def taps(self):
        """Blocks that hold all that the outputs of one block are computed from."""
        return -(-((self.outputs - 1) * self.width.stride + self.width.taps) // self.size)

    @property
    def count(self):
        return self.width.outputs // self.outputs - 1 + self.taps

    @property
    def behind(self):
        """Zeros behind the last column."""
        return self.count * self.size - self.width.before - self.width.size

    def kernel(self, kernel):
        """A kernel `(h, w, c, f)` over blocks: `(h, taps, size·c, outputs·f)`."""
        height, width, channels, filters = kernel.shape
        made = np.zeros((height, self.taps * self.size, channels, self.outputs, filters), kernel.dtype)
        for output in range(self.outputs):
            first = output * self.width.stride
            made[:, first : first + width, :, output] = kernel
        return made.reshape(height, self.taps, self.size * channels, self.outputs * filters)


def in_columns(lowering, x, output, height, width, outputs):
    """Images in blocks of columns, with the zeros around them.

    Args:
        lowering: `Lowering`.
        x: `Tensor` `(n, …, h, w, c)`.
        output: `Output` of the convolution.
        height, width: `Axis`.
        outputs: of a block.

    Returns:
        `Tensor` `(n, …, h', blocks, columns·c)`.
    """
    columns, own = _Columns(width, outputs), dataclasses.replace(output, params=params_of(x))
    border = [(height.before, max(height.missing, 0)), (width.before, columns.behind), (0, 0)]
    x = pad(lowering, x, own, [(0, 0)] * (len(x.shape) - 4) + border, "bordered")
    return lowering.reshape(x, own, (*x.shape[1:-2], columns.count, columns.size * x.shape[-1]), "columns")


def kernel_of_columns(kernels, width, outputs):
    """A kernel over blocks, `(h, taps, columns·c, outputs·f)`.

    Args:
        kernels: the layer's, `(h, w, c, f)`, for each part of the channels.
        width: `Axis`.
        outputs: of a block.
    """
    columns = _Columns(width, outputs)
    return np.concatenate([columns.kernel(part) for part in kernels], axis=2)
