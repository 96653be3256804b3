"""Quantized log-softmax."""

import keras

from keras_quant.layers.add import QuantSubtract
from keras_quant.layers.base import QuantComposite
from keras_quant.layers.functions import computes_activation
from keras_quant.layers.reduce import QuantMax, QuantSum
from keras_quant.layers.registry import computes
from keras_quant.layers.table import QuantTable


@computes_activation(keras.activations.log_softmax)
@keras.saving.register_keras_serializable(package="keras_quant")
class QuantLogSoftmax(QuantComposite, keras.layers.Layer):
    """`keras.ops.log_softmax` on int8: `d - log(sum(exp(d)))` of the distance `d` from the largest value, on XNNPACK.

    The format's own LOG_SOFTMAX has the fixed grid of 1/16 down to -16; here the grid is that of the values.

    Args:
        axis: integer or integers, the batch not among them.
        output_quantizer: name, config or object, see `quantizers.get`.
    """

    def __init__(self, axis=-1, output_quantizer=None, **kwargs):
        super().__init__(**kwargs)
        own = {"policy": self.policy}
        self.axis = axis
        self.largest = QuantMax(axis, keepdims=True, name=f"{self.name}_max", **own)
        self.distance = QuantSubtract(name=f"{self.name}_distance", **own)
        self.powers = QuantTable("exponential", name=f"{self.name}_exp", **own)
        self.total = QuantSum(axis, keepdims=True, name=f"{self.name}_sum", **own)
        self.logarithm = QuantTable("log", name=f"{self.name}_log", **own)
        self.difference = QuantSubtract(output_quantizer=output_quantizer, name=f"{self.name}_difference", **own)

    def build_parts(self, input_shape):
        self.largest.build(input_shape)
        small = self.largest.compute_output_shape(input_shape)
        self.distance.build([input_shape, small])
        self.powers.build(input_shape)
        self.total.build(input_shape)
        self.logarithm.build(small)
        self.difference.build([input_shape, small])

    def compose(self, inputs, training=None):
        distance = self.distance([inputs, self.largest(inputs, training=training)], training=training)
        total = self.total(self.powers(distance, training=training), training=training)
        return self.difference([distance, self.logarithm(total, training=training)], training=training)

    @property
    def last_part(self):
        return self.difference

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        own = {"axis": self.axis, "output_quantizer": self.difference.get_config()["output_quantizer"]}
        return {**super().get_config(), **own}


@computes("nn.LogSoftmax")
def _log_softmax(operation, args, **arguments):
    return QuantLogSoftmax(operation.axis, **arguments)
