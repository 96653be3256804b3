"""Where the windows of a convolution lie along an axis of its input."""

import dataclasses


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
