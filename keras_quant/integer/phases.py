"""A transposed convolution along one axis as a plain one, with the filters of all places between two strides.

With stride s, `y[s·q + r] = Σ_t x[q - t]·w[s·t + r]`: one window of x for the s places `r`, the phases.
"""

import dataclasses
import math

import numpy as np

from keras_quant.integer.axis import Axis


@dataclasses.dataclass(frozen=True)
class Phases:
    """One axis.

    Attributes:
        axis: `Axis` of the windows, with `x[q]` their last element.
        stride, dilation: of the layer.
        skipped: how much of what the windows give lies before the output.
    """

    axis: Axis
    stride: int
    dilation: int
    skipped: int

    @classmethod
    def of(cls, layer, place, size, wanted):
        """The phases of a layer along the axis `place` of its window, -1 for the last, from `size` to `wanted` elements."""
        at = lambda values: (1, *values)[place]
        taps, stride, dilation = map(at, (layer.kernel_size, layer.strides, layer.dilation_rate))
        reach = (taps - 1) * dilation + 1
        # As TensorFlow pads.
        skipped = max((size - 1) * stride + reach - wanted, 0) // 2 if layer.padding == "same" else 0
        first, last = skipped // stride, (skipped + wanted - 1) // stride
        taps = math.ceil(reach / stride)
        return cls(Axis(size, last - first + 1, taps, 1, 1, taps - 1 - first), stride, dilation, skipped - first * stride)

    def split(self, kernel, axis):
        """A kernel with its `axis` as two, taps of the windows and phases."""
        taps, stride = self.axis.taps, self.stride
        kernel = np.moveaxis(kernel, axis, 0)
        spread = np.zeros((taps * stride, *kernel.shape[1:]), kernel.dtype)
        spread[: (len(kernel) - 1) * self.dilation + 1 : self.dilation] = kernel
        # The last tap meets the first element of the window.
        split = np.flip(spread.reshape(taps, stride, *kernel.shape[1:]), 0)
        return np.moveaxis(split, (0, 1), (axis, axis + 1))
