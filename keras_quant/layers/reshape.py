"""Quantized layers that only move data: they keep the input's grid and compute nothing."""

import math

import keras

from keras_quant.errors import UnsupportedLayerError
from keras_quant.layers.base import QuantLayer
from keras_quant.layers.conv import check_channels_last
from keras_quant.layers.registry import computes, quantizes
from keras_quant.policy import NARROW


class Movement(QuantLayer):
    """Mixin: the output holds the input's values, or zeros, on the input's grid."""

    activation_types = (*NARROW, "int16")
    keeps_grid, homogeneous = True, True

    def integer_call(self, x, y):
        # Zero is zero in centred integers too, so padding pads with the zero point.
        return self.float_call(x.integers)


@quantizes(keras.layers.Flatten)
class QuantFlatten(Movement, keras.layers.Flatten):
    """`keras.layers.Flatten` on int8; lowered to RESHAPE. Args: those of `keras.layers.Flatten`."""


@quantizes(keras.layers.Reshape)
class QuantReshape(Movement, keras.layers.Reshape):
    """`keras.layers.Reshape` on int8; lowered to RESHAPE. Args: those of `keras.layers.Reshape`."""

    def float_call(self, inputs):
        sample = self.compute_output_shape(inputs.shape)[1:]
        # The size of the batch, which Keras asks for, is ten operations in a graph, all of which take time to optimize.
        return super().float_call(inputs) if None in sample else keras.ops.reshape(inputs, (-1, *sample))


@quantizes(keras.layers.Permute)
class QuantPermute(Movement, keras.layers.Permute):
    """`keras.layers.Permute` on int8; lowered to TRANSPOSE. Args: those of `keras.layers.Permute`."""


@quantizes(keras.layers.ZeroPadding2D)
class QuantZeroPadding2D(Movement, keras.layers.ZeroPadding2D):
    """`keras.layers.ZeroPadding2D` on int8; lowered to PAD. Args: those of `keras.layers.ZeroPadding2D`."""


@quantizes(keras.layers.Cropping2D)
class QuantCropping2D(Movement, keras.layers.Cropping2D):
    """`keras.layers.Cropping2D` on int8; lowered to STRIDED_SLICE. Args: those of `keras.layers.Cropping2D`."""


class _OfVolumes(Movement):
    def build(self, input_shape):
        check_channels_last(self)
        super().build(input_shape)


@quantizes(keras.layers.ZeroPadding3D)
class QuantZeroPadding3D(_OfVolumes, keras.layers.ZeroPadding3D):
    """`keras.layers.ZeroPadding3D` on int8; lowered to PAD. Args: those of `keras.layers.ZeroPadding3D`."""


@quantizes(keras.layers.Cropping3D)
class QuantCropping3D(_OfVolumes, keras.layers.Cropping3D):
    """`keras.layers.Cropping3D` on int8; lowered to STRIDED_SLICE. Args: those of `keras.layers.Cropping3D`."""


def check_batch_stays(stays, name, received):
    """Refuse an operation that does not keep the first axis as it is."""
    if not stays:
        raise UnsupportedLayerError(
            f"Operation '{name}' moves, cuts or merges the batch, whose size the runtime sets. Leave the first axis whole "
            f"and work on the others. Received: {received}"
        )


def axes_of(axis, rank, name):
    """An operation's `axis` (one, several, or `None` for all) as non-negative integers, none of them the batch."""
    axes = range(rank) if axis is None else axis if isinstance(axis, (list, tuple)) else [axis]
    axes = [int(a) % rank for a in axes]
    check_batch_stays(0 not in axes, name, f"axis={axis}")
    return axes


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantRegroup(Movement, keras.layers.Layer):
    """`ops.reshape(x, (-1, *target_shape))` on int8, where parts of a sample become rows of the batch, or rows join again.

    Windows of an image and frames of a clip are handled so, each as a sample of its own. Lowered to RESHAPE.

    Args:
        target_shape: of a row of the output.
    """

    def __init__(self, target_shape, **kwargs):
        super().__init__(**kwargs)
        self.target_shape = tuple(int(size) for size in target_shape)

    def compute_output_shape(self, input_shape):
        batch, *sample = input_shape
        rows = None if batch is None else batch * math.prod(sample) // math.prod(self.target_shape)
        return (rows, *self.target_shape)

    def float_call(self, inputs):
        return keras.ops.reshape(inputs, (-1, *self.target_shape))

    def get_config(self):
        return {**super().get_config(), "target_shape": self.target_shape}


@computes("numpy.Reshape")
def _reshape(operation, args, **arguments):
    (batch, *sample), shape = operation.newshape or (0,), args[0].shape
    received = f"newshape={operation.newshape} of a tensor of shape {shape}"
    check_batch_stays(batch == -1 and None not in (*sample, *shape[1:]), arguments["name"], received)
    regroups = math.prod(sample) != math.prod(shape[1:])
    return (QuantRegroup if regroups else QuantReshape)(sample, **arguments)


@computes("numpy.ExpandDims", "numpy.Squeeze")
def _expand_or_squeeze(operation, args, **arguments):
    before, after = args[0].shape, operation.compute_output_spec(_spec(args[0])).shape
    stays = len(after) > 0 and after[0] == before[0] and math.prod(after[1:]) == math.prod(before[1:])
    # Only a fixed batch of one could pass for another axis of size one.
    stays = stays and 0 not in _named_axes(operation, len(after if len(after) > len(before) else before))
    check_batch_stays(stays, arguments["name"], f"axis={operation.axis} of a tensor of shape {before}")
    return QuantReshape(after[1:], **arguments)


def _named_axes(operation, rank):
    axis = () if operation.axis is None else operation.axis
    return [a % rank for a in (axis if isinstance(axis, (list, tuple)) else [axis])]


def _spec(value):
    return keras.KerasTensor(value.shape, dtype=value.dtype)


@computes("numpy.Transpose")
def _transpose(operation, args, **arguments):
    rank = len(args[0].shape)
    axes = range(rank)[::-1] if operation.axes is None else operation.axes
    return _permute([a % rank for a in axes], **arguments)


@computes("numpy.Swapaxes")
def _swapaxes(operation, args, **arguments):
    order = list(range(len(args[0].shape)))
    a, b = operation.axis1, operation.axis2
    order[a], order[b] = order[b], order[a]
    return _permute(order, **arguments)


@computes("numpy.Moveaxis")
def _moveaxis(operation, args, **arguments):
    rank = len(args[0].shape)
    sources, destinations = ([a % rank for a in axes] for axes in (operation.source, operation.destination))
    order = [axis for axis in range(rank) if axis not in sources]
    for destination, source in sorted(zip(destinations, sources)):
        order.insert(destination, source)
    return _permute(order, **arguments)


def _permute(order, **arguments):
    check_batch_stays(order[0] == 0, arguments["name"], f"the order of axes {tuple(order)}")
    return QuantPermute(tuple(order[1:]), **arguments)
