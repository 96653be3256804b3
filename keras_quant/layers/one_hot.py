"""Integers as rows of zeros and a one."""

import keras
from keras import ops

from keras_quant.errors import UnsupportedLayerError
from keras_quant.layers.base import QuantLayer
from keras_quant.layers.registry import computes


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantOneHot(QuantLayer, keras.layers.Layer):
    """`keras.ops.one_hot` on int8, with a step of 1; lowered to ONE_HOT. An integer beyond the classes makes zeros only.

    Args:
        num_classes: number of places.
        axis: where they lie in the output; the last by default.
    """

    integer_slots = (0,)
    fixed_grid = (1.0, 0)

    def __init__(self, num_classes, axis=-1, **kwargs):
        super().__init__(**kwargs)
        self.num_classes, self.axis = num_classes, axis

    def float_call(self, inputs):
        return ops.one_hot(ops.cast(inputs, "int32"), self.num_classes, self.axis, dtype="float32")

    def integer_call(self, x, y):
        return self.float_call(x)

    def compute_output_shape(self, input_shape):
        shape = list(input_shape)
        shape.insert(self.axis % (len(shape) + 1), self.num_classes)
        return tuple(shape)

    def get_config(self):
        return {**super().get_config(), "num_classes": self.num_classes, "axis": self.axis}


@computes("nn.OneHot", integer_slots=(0,))
def _one_hot(operation, args, **arguments):
    rank = len(args[0].shape)
    if operation.axis % (rank + 1) == 0:
        raise UnsupportedLayerError(
            f"Operation '{arguments['name']}' puts its places before the batch. Put them behind it, and move them after. "
            f"Received: axis={operation.axis}"
        )
    return QuantOneHot(operation.num_classes, operation.axis, **arguments)
