"""Quantized attention."""

import keras

from keras_quant.errors import UnsupportedLayerError
from keras_quant.layers.activation import QuantInnerSoftmax
from keras_quant.layers.base import QuantComposite
from keras_quant.layers.matmul import QuantEinsum
from keras_quant.layers.registry import computes


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantDotProductAttention(QuantComposite, keras.layers.Layer):
    """`keras.ops.dot_product_attention` without mask or bias on int8: two matrix products around a SOFTMAX.

    Inputs: query `(batch, T, heads, dim)`, key and value `(batch, S, heads, dim)`.

    Args:
        scale: float the query is multiplied by; `1 / sqrt(dim)` by default.
        output_quantizer: name, config or object, see `quantizers.get`.
    """

    def __init__(self, scale=None, output_quantizer="moving_average", **kwargs):
        super().__init__(**kwargs)
        self.scale = scale
        self.softmax = QuantInnerSoftmax(policy=self.policy, name=f"{self.name}_softmax")
        self.weighted = QuantEinsum("bnts,bsnh->btnh", output_quantizer=output_quantizer, name=f"{self.name}_weighted")

    def build_parts(self, input_shape):
        query, key, value = input_shape
        scale = query[-1] ** -0.5 if self.scale is None else self.scale
        self.scores = QuantEinsum("btnh,bsnh->bnts", input_scale=scale, name=f"{self.name}_scores")
        self.scores.build([query, key])
        scores = self.scores.compute_output_shape([query, key])
        self.softmax.build(scores)
        self.weighted.build([scores, value])

    def compose(self, inputs, training=None):
        query, key, value = inputs
        scores = self.scores([query, key], training=training)
        return self.weighted([self.softmax(scores, training=training), value], training=training)

    @property
    def last_part(self):
        return self.weighted.last_part

    def compute_output_shape(self, input_shape):
        query, _, value = input_shape
        return (*query[:-1], value[-1])

    def get_config(self):
        own = {"scale": self.scale, "output_quantizer": self.weighted.get_config()["output_quantizer"]}
        return {**super().get_config(), **own}


@computes("nn.DotProductAttention")
def _attention(operation, args, **arguments):
    if operation.is_causal or any(x is not None for x in args[3:5]):
        raise UnsupportedLayerError(
            f"Operation '{arguments['name']}' is attention with a mask or a bias, which has no quantized form. Leave "
            "both out, or keep it in float: `quantize(..., fallback='float')`."
        )
    return QuantDotProductAttention(args[5] if len(args) > 5 else None, **arguments)
