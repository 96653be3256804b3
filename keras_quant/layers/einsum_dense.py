"""Quantized EinsumDense."""

import math

import keras
from keras import ops

from keras_quant.errors import UnsupportedLayerError
from keras_quant.layers.chain import QuantChain
from keras_quant.layers.dense import QuantDense
from keras_quant.layers.derived import derive, is_derived, plain_config, reshaped
from keras_quant.layers.registry import quantizes
from keras_quant.layers.reshape import QuantReshape
from keras_quant.policy import NARROW


@quantizes(keras.layers.EinsumDense)
class QuantEinsumDense(QuantChain, keras.layers.EinsumDense):
    """`keras.layers.EinsumDense` where it is a Dense layer over the last axes, on int8: reshapes around a `QuantDense`.

    Such as "abc,cd->abd", "abc,cde->abde" and "abcd,cde->abe", of which `MultiHeadAttention` is made.

    Args: those of `keras.layers.EinsumDense`, and `kernel_quantizer`, `output_quantizer`.
    """

    activation_types = (*NARROW, "int16")

    def __init__(self, *args, kernel_quantizer=None, output_quantizer=None, derived=None, **kwargs):
        super().__init__(*args, **kwargs)
        self._of_dense = {"kernel_quantizer": kernel_quantizer, "output_quantizer": output_quantizer}
        self._of_dense["derived"] = plain_config(derived)

    def make_parts(self, input_shape):
        kept, made = self._shape(input_shape)
        self.dense = QuantDense(
            math.prod(made),
            activation=self.activation,
            use_bias=self.bias_axes is not None,
            kernel_initializer=self.kernel_initializer,
            bias_initializer=self.bias_initializer,
            kernel_regularizer=self.kernel_regularizer,
            bias_regularizer=self.bias_regularizer,
            kernel_constraint=self.kernel_constraint,
            bias_constraint=self.bias_constraint,
            policy=self.policy,
            name=f"{self.name}_dense",
            **self._of_dense,
        )
        return [
            QuantReshape([*kept, math.prod(input_shape[1 + len(kept) :])], name=f"{self.name}_flat"),
            self.dense,
            QuantReshape([*kept, *made], name=f"{self.name}_split"),
        ]

    def _shape(self, input_shape):
        """The output's dimensions behind the batch: those of the input that are kept, and those that the kernel makes."""
        inputs, kernel, outputs = self._labels(len(input_shape))
        made = [label for label in kernel if label not in inputs]
        kept = len(outputs) - len(made) - 1
        return list(input_shape[1 : 1 + kept]), list(self.partial_output_shape[-len(made) :])

    def _labels(self, rank):
        left, _, outputs = self.equation.replace(" ", "").partition("->")
        inputs, _, kernel = left.partition(",")
        if "..." in self.equation:
            letters = "ABCDEFGHIJ"[: rank - len(inputs.replace("...", ""))]
            inputs, outputs = (text.replace("...", letters) for text in (inputs, outputs))
        summed = "".join(label for label in inputs if label in kernel)
        made = "".join(label for label in kernel if label not in inputs)
        dense = kernel == summed + made and inputs.endswith(summed) and outputs == inputs[: len(inputs) - len(summed)] + made
        whole_bias = self.bias_axes is None or set(self.bias_axes) == set(made)
        if not (dense and whole_bias and summed and made):
            raise UnsupportedLayerError(
                f"Layer '{self.name}': on int8 EinsumDense sums over its input's last axes, puts the new ones last, and has "
                f"its bias along all of them. Received: equation={self.equation!r}, bias_axes={self.bias_axes!r}"
            )
        return inputs, kernel, outputs

    def compute_output_shape(self, input_shape):
        kept, made = self._shape(input_shape)
        return (input_shape[0], *kept, *made)

    def copy_weights(self, layer):
        """Take the weights of a float `keras.layers.EinsumDense`."""
        self.dense.kernel.assign(ops.reshape(layer.kernel, self.dense.kernel.shape))
        if is_derived(layer.kernel):
            derive(self.dense, "kernel", *reshaped(layer.kernel, self.dense.kernel.shape))
        if layer.bias is not None:
            self.dense.bias.assign(ops.reshape(layer.bias, (-1,)))

    def get_config(self):
        own = self.dense.get_config() if self.parts else {}
        return {**super().get_config(), **self._of_dense, **{key: own[key] for key in self._of_dense if key in own}}
