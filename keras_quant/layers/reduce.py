"""Quantized reductions over any axes but the batch."""

import math

import keras
from keras import ops

from keras_quant import integer
from keras_quant.errors import UnsupportedLayerError
from keras_quant.layers.base import QuantLayer
from keras_quant.layers.registry import computes


class _Reduction(QuantLayer, keras.layers.Layer):
    """A reduction; a subclass gives `function`, that of `keras.ops`."""

    function = None
    homogeneous = True

    def __init__(self, axis=None, keepdims=False, **kwargs):
        super().__init__(**kwargs)
        self.axis, self.keepdims = axis, keepdims

    def build(self, input_shape):
        rank = len(input_shape)
        axes = range(1, rank) if self.axis is None else [self.axis] if isinstance(self.axis, int) else self.axis
        self.axes = tuple(sorted(axis % rank for axis in axes))
        if 0 in self.axes:
            raise UnsupportedLayerError(
                f"Layer '{self.name}' reduces over the batch, whose size the runtime fixes. Reduce over the other axes. "
                f"Received: axis={self.axis}"
            )
        self.count = math.prod(input_shape[axis] for axis in self.axes)
        super().build(input_shape)

    def float_call(self, inputs):
        return type(self).function(inputs, axis=self.axes, keepdims=self.keepdims)

    def compute_output_shape(self, input_shape):
        kept = [1 if axis in self.axes else size for axis, size in enumerate(input_shape)]
        return tuple(kept) if self.keepdims else tuple(s for a, s in enumerate(input_shape) if a not in self.axes)

    def get_config(self):
        return {**super().get_config(), "axis": self.axis, "keepdims": self.keepdims}


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantMean(_Reduction):
    """`keras.ops.mean` on int8; lowered to MEAN.

    Args:
        axis: integer or integers, the batch not among them; all others by default.
        keepdims: keep them as ones.
        output_quantizer: name, config or object, see `quantizers.get`.
    """

    function = staticmethod(ops.mean)

    def integer_call(self, x, y):
        return integer.mean(x, y, self.axes, self.keepdims)

    def parts_elsewhere(self, inputs, y):
        """Whether some sums round otherwise on 64-bit Arm; see `integer.halves`."""
        return integer.sums_part(self.count, *inputs, y, share=1 / self.count)


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantSum(_Reduction):
    """`keras.ops.sum` on int8; lowered to SUM.

    Args:
        axis: integer or integers, the batch not among them; all others by default.
        keepdims: keep them as ones.
        output_quantizer: name, config or object, see `quantizers.get`.
    """

    function = staticmethod(ops.sum)

    def integer_call(self, x, y):
        return integer.sum(x, y, self.axes, self.keepdims)

    def parts_elsewhere(self, inputs, y):
        """As `QuantMean.parts_elsewhere`."""
        return integer.sums_part(self.count, *inputs, y)


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantMax(_Reduction):
    """`keras.ops.max` on int8; lowered to REDUCE_MAX. Keeps the input's grid.

    Args:
        axis: integer or integers, the batch not among them; all others by default.
        keepdims: keep them as ones.
    """

    keeps_grid = True
    function = staticmethod(ops.max)

    def integer_call(self, x, y):
        return self.float_call(x.integers)


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantMin(QuantMax):
    """`keras.ops.min` on int8; lowered to REDUCE_MIN. Keeps the input's grid.

    Args:
        axis: integer or integers, the batch not among them; all others by default.
        keepdims: keep them as ones.
    """

    function = staticmethod(ops.min)


@computes("numpy.Mean")
def _mean(operation, args, **arguments):
    return QuantMean(_axes(operation, args), operation.keepdims, **arguments)


@computes("numpy.Sum")
def _sum(operation, args, **arguments):
    return QuantSum(_axes(operation, args), operation.keepdims, **arguments)


@computes("numpy.Max", "numpy.Amax")
def _max(operation, args, **arguments):
    return QuantMax(_axes(operation, args), operation.keepdims, **arguments)


@computes("numpy.Min", "numpy.Amin")
def _min(operation, args, **arguments):
    return QuantMin(_axes(operation, args), operation.keepdims, **arguments)


def _axes(operation, args):
    """The axes of an operation, whose default, unlike the layer's, is all of them."""
    axis = operation.axis
    return list(range(len(args[0].shape))) if axis is None else axis if isinstance(axis, int) else list(axis)
