"""Quantized choices by a mask."""

import keras
from keras import ops

from keras_quant import integer
from keras_quant.layers.annotation import annotation
from keras_quant.layers.base import QuantLayer
from keras_quant.layers.concatenate import OnOneGrid

# A number as far from zero as this stands for an infinite one: it is put at the end of the grid.
FAR = 1e4


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantWhere(OnOneGrid, keras.layers.Layer):
    """`ops.where` on int8; lowered to SELECT_V2.

    Inputs: a mask of booleans, unless `mask_shape` says that it is a constant, and the tensors to choose from.

    Masked scores, whose fill is `-1e9` or the like, become the lowest integer of the grid. `room` is how far below all that
    is kept that lies.

    Args:
        mask_shape: shape of a constant mask, which is then a weight; it broadcasts against the rest, batch included.
        on_true, on_false: what to choose where the mask is true, or false: a number, "array" for a weight of the layer, or
            `None` for the next input.
        array_shape: shape of that weight; it broadcasts as the mask does.
        room: real number.
        output_quantizer: name, config or object, see `quantizers.get`.
    """

    activation_types = (*OnOneGrid.activation_types, "int16")

    def __init__(self, mask_shape=None, on_true=None, on_false=None, room=0.0, array_shape=None, **kwargs):
        super().__init__(**kwargs)
        self.mask_shape = None if mask_shape is None else tuple(mask_shape)
        self.on_true, self.on_false, self.room = on_true, on_false, float(room)
        self.mask = self.array = None
        if mask_shape is not None:
            self.mask = self.add_weight(name="mask", shape=mask_shape, initializer="zeros", dtype="bool", trainable=False)
        self.array_shape = None if array_shape is None else tuple(array_shape)
        if array_shape is not None:
            self.array = self.add_weight(name="array", shape=array_shape, initializer="zeros")

    @property
    def integer_slots(self):
        """The mask."""
        return (0,) if self.mask is None else ()

    @property
    def numbers(self):
        """What is chosen where the mask is true, and where it is false; `None` for an input."""
        return self.on_true, self.on_false

    def parted(self, inputs):
        """The mask, and the operands, numbers among them."""
        rest = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        mask = rest.pop(0) if self.mask is None else self.mask
        return mask, [rest.pop(0) if number is None else number for number in self.numbers]

    def fill(self, number, y):
        """The centred integers of a number, or of the "array", on the grid `y`."""
        if number == "array":
            return integer.to_grid(self.array, y)
        if abs(number) >= FAR:
            return y.low if number < 0 else y.high
        return integer.to_grid(ops.convert_to_tensor(number, "float32"), y)

    def _tensors(self, inputs):
        return [x for x in self.parted(inputs)[1] if not isinstance(x, (float, str))]

    def connect(self, inputs):
        super().connect(self._tensors(inputs))

    def _train(self, inputs, quantizer):
        if any(number is not None for number in self.numbers):
            return QuantLayer._train(self, inputs, quantizer)
        tied = all(self.is_tied(annotation(x).quantizer) for x in self._tensors(inputs))
        return (self.float_call(inputs), None) if tied else QuantLayer._train(self, inputs, quantizer)

    def operands(self, inputs, y):
        mask, operands = self.parted(inputs)
        return mask, [self.fill(x, y) if isinstance(x, (float, str)) else self._moved(x, y).integers for x in operands]

    def float_call(self, inputs):
        mask, operands = self.parted(inputs)
        operands = [self.array if isinstance(x, str) else x for x in operands]
        number = next((x for x in operands if isinstance(x, float) and abs(x) >= FAR), None)
        if number is not None:
            # A finite number that does what an infinite one does, for a range to hold.
            sign, kept = (-1.0, ops.min) if number < 0 else (1.0, ops.max)
            zeros = [ops.zeros_like(x) if x is number else x for x in operands]
            end = ops.stop_gradient(kept(ops.where(mask, *zeros)) + sign * self.room)
            operands = [end if x is number else x for x in operands]
        return ops.where(mask, *operands)

    def integer_call(self, inputs, y):
        mask, operands = inputs
        return ops.where(mask, *operands)

    def compute_output_shape(self, input_shape):
        shapes = [input_shape] if isinstance(input_shape[0], (int, type(None))) else list(input_shape)
        shapes = [*(s for s in (self.mask_shape, self.array_shape) if s is not None), *shapes]
        shape = shapes[0]
        for other in shapes[1:]:
            shape = broadcast(shape, other)
        return shape

    def get_config(self):
        own = {"mask_shape": self.mask_shape, "on_true": self.on_true, "on_false": self.on_false, "room": self.room}
        return {**super().get_config(), **own, "array_shape": self.array_shape}


def broadcast(a, b):
    """The shape that two broadcast to; an open batch stays open."""
    rank = max(len(a), len(b))
    a, b = ((1,) * (rank - len(shape)) + tuple(shape) for shape in (a, b))
    return tuple(n if m == 1 else m for m, n in zip(a, b))
