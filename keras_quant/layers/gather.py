"""Quantized layers that pick along axes by constant indices: take, flip, roll."""

import keras
import numpy as np
from keras import ops

from keras_quant.errors import UnsupportedLayerError
from keras_quant.layers.registry import computes
from keras_quant.layers.reshape import Movement, axes_of


class QuantGather(Movement):
    """Mixin: along each axis the output takes the input's elements by constant indices, in any order, any number of times.

    A subclass gives `picks`, and `source_shape` where the input is reshaped first, and `compute_output_shape` where the
    output is reshaped afterwards. One rule lowers them all, to slices and concatenations, see `tflite/gather.py`.
    """

    def source_shape(self, input_shape):
        """The shape, with the batch, in which `picks` counts axes."""
        return tuple(input_shape)

    def picks(self, shape):
        """The indices.

        Args:
            shape: as `source_shape` gives it.

        Returns:
            Dict from axes to NumPy integers: what the output takes along this axis, in order.
        """
        raise NotImplementedError

    def build(self, input_shape):
        if 0 in self.compute_output_shape(input_shape)[1:]:
            raise UnsupportedLayerError(
                f"Layer '{self.name}' takes nothing from its input. Take at least one element along each axis. "
                f"Received: a tensor of shape {tuple(input_shape)}"
            )
        super().build(input_shape)

    def compute_output_shape(self, input_shape):
        shape = list(self.source_shape(input_shape))
        for axis, indices in self.picks(shape).items():
            shape[axis] = len(indices)
        return tuple(shape)

    def float_call(self, inputs):
        shape = self.source_shape(inputs.shape)
        for axis, indices in self.picks(shape).items():
            inputs = ops.take(inputs, indices, axis)
        return inputs


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantTake(QuantGather, keras.layers.Layer):
    """`ops.take` of constant indices on int8; runs of indices are lowered to slices and CONCATENATION.

    Where single elements are picked here and there, the operator is GATHER, which leaves XNNPACK.

    Args:
        indices: integer or nested list of integers; negative ones count from the end.
        axis: of the input; not the batch.
    """

    def __init__(self, indices, axis=-1, **kwargs):
        super().__init__(**kwargs)
        self.indices, self.axis = np.asarray(indices).tolist(), axis

    def build(self, input_shape):
        size, indices = input_shape[self.axis], np.asarray(self.indices)
        if indices.size and not (-size <= indices.min() and indices.max() < size):
            raise UnsupportedLayerError(
                f"Layer '{self.name}' takes elements that its input lacks. Use indices from {-size} to {size - 1}. "
                f"Received: indices={self.indices}"
            )
        super().build(input_shape)

    def picks(self, shape):
        indices = np.ravel(np.asarray(self.indices, np.int64))
        return {self.axis % len(shape): indices % shape[self.axis]}

    def compute_output_shape(self, input_shape):
        (axis,) = axes_of(self.axis, len(input_shape), self.name)
        return (*input_shape[:axis], *np.shape(self.indices), *input_shape[axis + 1 :])

    def float_call(self, inputs):
        return ops.take(inputs, np.asarray(self.indices, np.int64) % inputs.shape[self.axis], self.axis)

    def get_config(self):
        return {**super().get_config(), "indices": self.indices, "axis": self.axis}


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantFlip(QuantGather, keras.layers.Layer):
    """`ops.flip` on int8; a short axis is lowered to slices and CONCATENATION.

    For a long one, or the last, the operator is REVERSE_V2, which leaves XNNPACK.

    Args:
        axis: integer, or several; not the batch.
    """

    def __init__(self, axis, **kwargs):
        super().__init__(**kwargs)
        self.axis = axis

    def picks(self, shape):
        return {axis: np.arange(shape[axis])[::-1] for axis in axes_of(self.axis, len(shape), self.name)}

    def float_call(self, inputs):
        # One at a time: Keras 3.5 takes no tuple here.
        for axis in axes_of(self.axis, len(inputs.shape), self.name):
            inputs = ops.flip(inputs, axis)
        return inputs

    def get_config(self):
        return {**super().get_config(), "axis": self.axis}


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantRoll(QuantGather, keras.layers.Layer):
    """`ops.roll` on int8; lowered to two slices and a CONCATENATION for each axis.

    Args:
        shift: integer, or one for each axis.
        axis: integer, or several; not the batch.
    """

    def __init__(self, shift, axis, **kwargs):
        super().__init__(**kwargs)
        self.shift, self.axis = shift, axis

    def _shifts(self, rank):
        """Dict from axes to their shifts."""
        axes, shifts = axes_of(self.axis, rank, self.name), {}
        for axis, shift in zip(axes, np.broadcast_to(self.shift, (len(axes),)).tolist()):
            shifts[axis] = shifts.get(axis, 0) + shift
        return shifts

    def picks(self, shape):
        return {axis: np.roll(np.arange(shape[axis]), shift) for axis, shift in self._shifts(len(shape)).items()}

    def float_call(self, inputs):
        shifts = self._shifts(len(inputs.shape))
        return ops.roll(inputs, tuple(shifts.values()), tuple(shifts))

    def get_config(self):
        return {**super().get_config(), "shift": self.shift, "axis": self.axis}


@computes("numpy.Take", constants=True)
def _take(operation, args, **arguments):
    x, indices = args
    constant = not any(hasattr(i, "note") for i in keras.tree.flatten(indices)) and operation.axis is not None
    if not constant:
        raise UnsupportedLayerError(
            f"Operation '{arguments['name']}' takes by indices that are computed, or from a flattened tensor; only constant "
            f"indices along an axis have a quantized form. Received: axis={operation.axis}"
        )
    axes_of(operation.axis, len(x.shape), arguments["name"])
    return QuantTake(ops.convert_to_numpy(indices), operation.axis, **arguments)


@computes("numpy.TakeAlongAxis", constants=True)
def _take_along_axis(operation, args, **arguments):
    """Those that `graph.moved` knows are other operations by now."""
    x, places = args
    computed = [hasattr(operand, "note") for operand in args]
    if all(computed) and operation.axis % len(x.shape):
        cause = (
            "takes at places for which a value is to be repeated along another axis. Repeat the places, "
            "`ops.repeat(places, n, axis)`, until they are as many as the values along each axis but that one."
        )
    elif computed[1] and operation.axis is not None and operation.axis % len(x.shape):
        cause = "takes constants at places that the model computes. Use `ops.take(table, places, axis=0)`."
    else:
        cause = (
            "takes along the batch, or at constant places that differ between samples. Take along another axis, at "
            "constants of shape (1, ...) or at places that are an input of the model."
        )
    sizes = f"{tuple(x.shape)} and {tuple(np.shape(places))}"
    raise UnsupportedLayerError(f"Operation '{arguments['name']}' {cause} Received: axis={operation.axis}, shapes {sizes}")


@computes("numpy.Flip")
def _flip(operation, args, **arguments):
    return QuantFlip(axes_of(operation.axis, len(args[0].shape), arguments["name"]), **arguments)


@computes("numpy.Roll")
def _roll(operation, args, **arguments):
    axes = axes_of(operation.axis, len(args[0].shape), arguments["name"])
    return QuantRoll(np.asarray(operation.shift).tolist(), axes, **arguments)
