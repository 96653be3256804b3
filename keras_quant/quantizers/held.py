"""Weights whose integers training may not change any more."""

from keras import ops


class HeldIntegers:
    """Which weights of a kernel are held, and at which integers. A plain object: no weight of the layer that it belongs to.

    A held weight is `s·n` with the scale of the moment. Where the scale is measured from the weights, it is from those that
    are not held; otherwise each would follow the other.

    Args:
        held: bool variable of the kernel's shape.
        integers: int8 variable of the kernel's shape.
    """

    def __init__(self, held, integers):
        self.held, self.integers = held, integers

    def scale(self, quantizer, kernel, reduce_axes):
        """The scale of the weights that are not held, args as of `WeightQuantizer.scale`."""
        return quantizer.scale(ops.where(self.held, 0.0, kernel), reduce_axes)

    def applied(self, quantizer, kernel, reduce_axes):
        """The kernel with the held weights at their integers, float32."""
        scale = quantizer.beside(self.scale(quantizer, kernel, reduce_axes), reduce_axes)
        return ops.where(self.held, ops.cast(self.integers, "float32") * scale, kernel)
