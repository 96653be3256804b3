"""Kernels as steps of their grid, and back: for methods that choose the integers themselves."""

import numpy as np
from keras import ops


class Grid:
    """The grid of a layer's kernel.

    The largest weight of each channel keeps its integer and its value: most quantizers' scales depend on it.

    Args:
        layer: weighted layer.
    """

    def __init__(self, layer):
        quantizer, axes = layer.kernel_quantizer, layer.kernel_axes
        self.layer, self.limit = layer, quantizer.limit
        self.kernel = np.asarray(ops.convert_to_numpy(layer.kernel), np.float32)
        self.scale = ops.convert_to_numpy(quantizer.beside(quantizer.scale(layer.kernel, axes), axes))
        self.steps = np.float64(self.kernel) / self.scale
        size, axes = quantizer.by_group(np.abs(self.kernel), axes)
        self.is_free = (size < size.max(axis=axes, keepdims=True)).reshape(self.kernel.shape)

    @property
    def holds_kernel(self):
        """Whether the kernel lies on the grid already, as another method has left it."""
        return bool(np.all(np.abs(self.steps - np.rint(self.steps))[self.is_free] < 1e-3))

    @property
    def nearest(self):
        """The integers of rounding to nearest."""
        return np.clip(np.rint(self.steps), -self.limit, self.limit)

    def set(self, integers):
        """Let the layer have these integers."""
        values = np.float32(np.clip(integers, -self.limit, self.limit) * self.scale)
        self.layer.kernel.assign(np.where(self.is_free, values, self.kernel))
