"""Quantized repetition: of elements, of whole tensors, of vectors, and broadcasting."""

import keras
import numpy as np
from keras import ops

from keras_quant.errors import UnsupportedLayerError
from keras_quant.layers.gather import QuantGather
from keras_quant.layers.registry import computes, quantizes
from keras_quant.layers.reshape import axes_of, check_batch_stays


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantRepeat(QuantGather, keras.layers.Layer):
    """`ops.repeat` on int8: each element several times; lowered to CONCATENATION of the tensor with itself.

    Args:
        repeats: integer, or one for each element.
        axis: of the input; not the batch.
    """

    def __init__(self, repeats, axis, **kwargs):
        super().__init__(**kwargs)
        self.repeats, self.axis = np.asarray(repeats).tolist(), axis

    def float_call(self, inputs):
        return ops.repeat(inputs, self.repeats, self.axis)

    def picks(self, shape):
        (axis,) = axes_of(self.axis, len(shape), self.name)
        return {axis: np.repeat(np.arange(shape[axis]), self.repeats)}

    def get_config(self):
        return {**super().get_config(), "repeats": self.repeats, "axis": self.axis}


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantTile(QuantGather, keras.layers.Layer):
    """`ops.tile` on int8: the whole tensor several times along axes; lowered to CONCATENATION of it with itself.

    Args:
        repeats: one integer for each axis after the batch.
    """

    def __init__(self, repeats, **kwargs):
        super().__init__(**kwargs)
        self.repeats = [int(r) for r in repeats]

    def picks(self, shape):
        return {axis: np.tile(np.arange(shape[axis]), times) for axis, times in enumerate(self.repeats, 1) if times != 1}

    def float_call(self, inputs):
        return ops.tile(inputs, (1, *self.repeats))

    def get_config(self):
        return {**super().get_config(), "repeats": self.repeats}


@quantizes(keras.layers.RepeatVector)
class QuantRepeatVector(QuantGather, keras.layers.RepeatVector):
    """`keras.layers.RepeatVector` on int8; lowered to CONCATENATION of the vector with itself and RESHAPE.

    Args: those of `keras.layers.RepeatVector`.
    """

    def source_shape(self, input_shape):
        batch, size = input_shape
        return (batch, 1, size)

    def picks(self, shape):
        return {1: np.zeros(self.n, int)}

    def float_call(self, inputs):
        return ops.tile(ops.expand_dims(inputs, 1), (1, self.n, 1))


@computes("numpy.Repeat")
def _repeat(operation, args, **arguments):
    (axis,) = axes_of(operation.axis, len(args[0].shape), arguments["name"])
    return QuantRepeat(ops.convert_to_numpy(operation.repeats), axis, **arguments)


@computes("numpy.Tile")
def _tile(operation, args, **arguments):
    repeats, shape = operation.repeats, args[0].shape
    repeats = [repeats] if isinstance(repeats, int) else [int(r) for r in repeats]
    repeats = [1] * (len(shape) - len(repeats)) + repeats
    received = f"repeats={operation.repeats} of a tensor of shape {shape}"
    check_batch_stays(len(repeats) == len(shape) and repeats[0] == 1, arguments["name"], received)
    return QuantTile(repeats[1:], **arguments)


@computes("numpy.BroadcastTo")
def _broadcast_to(operation, args, **arguments):
    """Tiles the axes of size one; a batch of one in the wanted shape broadcasts to the actual one."""
    shape, wanted, name = args[0].shape, tuple(operation.shape), arguments["name"]
    stays = len(shape) == len(wanted) and wanted[0] in (None, -1, shape[0])
    check_batch_stays(stays, name, f"shape={wanted} for a tensor of shape {shape}")
    if any(new != old and old != 1 for old, new in zip(shape[1:], wanted[1:])):
        raise UnsupportedLayerError(
            f"Operation '{name}' broadcasts axes that are larger than one. Use `ops.repeat` or `ops.tile`. Received: "
            f"shape={wanted} for a tensor of shape {shape}"
        )
    return QuantTile([new if old == 1 else 1 for old, new in zip(shape[1:], wanted[1:])], **arguments)
