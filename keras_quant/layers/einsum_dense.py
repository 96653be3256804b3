"""EinsumDense with integer weights, on int8 and with activations that are quantized at run time."""

import math

import keras
from keras import ops

from keras_quant.errors import UnsupportedLayerError
from keras_quant.layers.chain import QuantChain
from keras_quant.layers.dense import QuantDense
from keras_quant.layers.derived import derive, is_derived, plain_config, reshaped
from keras_quant.layers.dynamic import DynamicComposite, DynamicDense, computes_dynamically
from keras_quant.layers.registry import quantizes
from keras_quant.layers.reshape import QuantReshape
from keras_quant.layers.weighted import fit_weight_ranges
from keras_quant.policy import NARROW


class _OverLastAxes:
    """Mixin before `keras.layers.EinsumDense` where that is a Dense layer over the last axes: one between reshapes.

    Such as "abc,cd->abd", "abc,cde->abde" and "abcd,cde->abe", of which `MultiHeadAttention` is made.
    """

    dense_class, reshape_class = None, None

    def __init__(self, *args, derived=None, **kwargs):
        super().__init__(*args, **kwargs)
        self._of_dense = {"derived": plain_config(derived)}

    def make_parts(self, input_shape):
        """The reshapes that change anything, the Dense layer between them, which becomes `self.dense`, in order."""
        kept, made = self._shape(input_shape)
        self.dense = self.dense_class(
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
        summed = input_shape[1 + len(kept) :]
        flat = self.reshape_class([*kept, math.prod(summed)], name=f"{self.name}_flat")
        split = self.reshape_class([*kept, *made], name=f"{self.name}_split")
        return [*[flat] * (len(summed) > 1), self.dense, *[split] * (len(made) > 1)]

    def _shape(self, input_shape):
        """The output's dimensions behind the batch: those of the input that are kept, and those that the kernel makes."""
        labels = _labels(self, len(input_shape))
        if labels is None:
            raise UnsupportedLayerError(
                f"Layer '{self.name}': with integer weights EinsumDense sums over its input's last axes, puts the new ones "
                f"last, and has its bias along all of them. Received: equation={self.equation!r}, "
                f"bias_axes={self.bias_axes!r}"
            )
        summed, made = labels
        return list(input_shape[1 : len(input_shape) - len(summed)]), list(self.partial_output_shape[-len(made) :])

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
        own = self.dense.get_config() if self.built else {}
        return {**super().get_config(), **self._of_dense, **{key: own[key] for key in self._of_dense if key in own}}


def _labels(layer, rank):
    """Of an EinsumDense the labels that it sums over and those that it makes; `None` where it is no Dense layer."""
    left, _, outputs = layer.equation.replace(" ", "").partition("->")
    inputs, _, kernel = left.partition(",")
    if "..." in layer.equation:
        letters = "ABCDEFGHIJ"[: rank - len(inputs.replace("...", ""))]
        inputs, outputs = (text.replace("...", letters) for text in (inputs, outputs))
    summed = "".join(label for label in inputs if label in kernel)
    made = "".join(label for label in kernel if label not in inputs)
    dense = kernel == summed + made and inputs.endswith(summed) and outputs == inputs[: len(inputs) - len(summed)] + made
    whole_bias = layer.bias_axes is None or set(layer.bias_axes) == set(made)
    return (summed, made) if dense and whole_bias and summed and made else None


@quantizes(keras.layers.EinsumDense)
class QuantEinsumDense(_OverLastAxes, QuantChain, keras.layers.EinsumDense):
    """`keras.layers.EinsumDense` where it is a Dense layer over the last axes, on int8: reshapes around a `QuantDense`.

    Args: those of `keras.layers.EinsumDense`, and `kernel_quantizer`, `output_quantizer`.
    """

    activation_types = (*NARROW, "int16")
    dense_class, reshape_class = QuantDense, QuantReshape

    def __init__(self, *args, kernel_quantizer=None, output_quantizer=None, **kwargs):
        super().__init__(*args, **kwargs)
        self._of_dense |= {"kernel_quantizer": kernel_quantizer, "output_quantizer": output_quantizer}


@computes_dynamically(keras.layers.EinsumDense)
class DynamicEinsumDense(_OverLastAxes, DynamicComposite, keras.layers.EinsumDense):
    """`keras.layers.EinsumDense` where it is a Dense layer over the last axes: a `DynamicDense`, between reshapes.

    A grid is of all that is summed over: of a token with its heads, say.

    Args: those of `keras.layers.EinsumDense`, and `policy`.
    """

    dense_class, reshape_class = DynamicDense, keras.layers.Reshape

    @classmethod
    def takes(cls, layer, shape):
        return _labels(layer, len(shape)) is not None

    def build(self, input_shape):
        self.parts = self.make_parts(input_shape)
        for part in self.parts:
            part.build(input_shape)
            input_shape = part.compute_output_shape(input_shape)
        self.built = True

    def copy_weights(self, layer):
        super().copy_weights(layer)
        fit_weight_ranges(self)

    def call(self, inputs, training=None):
        for part in self.parts:
            inputs = part(inputs, training=training) if part is self.dense else part(inputs)
        return inputs
