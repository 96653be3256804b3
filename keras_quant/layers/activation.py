"""Quantized activations that no kernel fuses: sigmoid, tanh, SiLU and its hard form, softmax."""

import keras
import numpy as np
import scipy.special
from keras import ops

from keras_quant import backend, integer
from keras_quant.errors import UnsupportedLayerError
from keras_quant.integer.softmax import MOST_TERMS
from keras_quant.layers.affine import QuantHardSigmoid
from keras_quant.layers.base import (
    EndsInProduct,
    QuantComposite,
    QuantLayer,
)
from keras_quant.layers.dropout import QuantIdentity
from keras_quant.layers.functions import activation_layer, computes_activation
from keras_quant.layers.multiply import QuantMultiply
from keras_quant.layers.registry import computes, quantizes


class _Elementwise(QuantLayer):
    """An activation function as a layer; the format fixes the output's grid."""

    function = None
    settles_input = True

    def float_call(self, inputs):
        return type(self).function(inputs)

    def compute_output_shape(self, input_shape):
        return input_shape


class _FromLogits(_Elementwise):
    """A function whose losses are better computed from its input, in training and on exact outputs alike.

    An int8 probability of zero would otherwise cost an infinite logarithm, and pass no gradient.
    """

    def main_call(self, inputs, training=None):
        outputs = super().main_call(inputs, training)
        return outputs if backend.is_symbolic(outputs) else backend.keras_logits(outputs, inputs)


@computes_activation(keras.activations.sigmoid)
@keras.saving.register_keras_serializable(package="keras_quant")
class QuantSigmoid(_FromLogits, keras.layers.Layer):
    """Sigmoid on int8; lowered to LOGISTIC."""

    fixed_grid = (1 / 256, -128)
    function = staticmethod(keras.activations.sigmoid)

    def integer_call(self, x, y):
        return integer.logistic(x, y)

    def parts_elsewhere(self, inputs, y):
        """Whether other C libraries make another table; see `integer.halves`."""
        return integer.table_parts(scipy.special.expit, *inputs, y)


@computes_activation(keras.activations.tanh)
@keras.saving.register_keras_serializable(package="keras_quant")
class QuantTanh(_Elementwise, keras.layers.Layer):
    """Hyperbolic tangent on int8; lowered to TANH."""

    fixed_grid = (1 / 128, 0)
    function = staticmethod(keras.activations.tanh)

    def integer_call(self, x, y):
        return integer.tanh(x, y)

    def parts_elsewhere(self, inputs, y):
        """As `QuantSigmoid.parts_elsewhere`."""
        return integer.table_parts(np.tanh, *inputs, y)


@computes_activation(keras.activations.softmax)
@quantizes(keras.layers.Softmax)
class QuantSoftmax(_FromLogits, keras.layers.Softmax):
    """`keras.layers.Softmax` over the last axis on int8; lowered to SOFTMAX (a built-in kernel, off XNNPACK).

    Args: those of `keras.layers.Softmax`.
    """

    fixed_grid = (1 / 256, -128)

    def build(self, input_shape):
        axes = self.axis if isinstance(self.axis, (list, tuple)) else [self.axis]
        if [axis % len(input_shape) for axis in axes] != [len(input_shape) - 1]:
            raise UnsupportedLayerError(
                f"Layer '{self.name}': SOFTMAX runs over the last axis. Permute before it. Received: axis={self.axis}"
            )
        super().build(input_shape)

    def float_call(self, inputs):
        return ops.softmax(inputs)

    def integer_call(self, x, y):
        return integer.softmax(x, y)


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantInnerSoftmax(QuantSoftmax):
    """A softmax that the model goes on computing with, as attention does: its grid ends at the largest probability seen.

    The steps of the fixed grid are 1/256, and no more than that is what each of 256 tokens has. Exponentials have 8 bits, so
    that float32 adds them exactly on XNNPACK; with a policy that is `integer_only` it is SOFTMAX instead.

    Args: those of `keras.layers.Softmax`, and `output_quantizer`.
    """

    fixed_grid = None
    settles_input = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.output_quantizer.bounds = (0.0, 1.0)

    def parts_elsewhere(self, inputs, y):
        """As `QuantSigmoid.parts_elsewhere`, of the table of exponentials."""
        return not self.policy.integer_only and integer.exponentials_part(*inputs)

    def is_builtin(self, terms):
        """Whether it is the built-in kernel that computes rows of so many terms."""
        return self.policy.integer_only or terms > MOST_TERMS

    def integer_call(self, x, y):
        builtin = self.is_builtin(x.integers.shape[-1])
        return integer.softmax(x, y) if builtin else integer.exact_softmax(x, y)


class _Gated(EndsInProduct):
    """Mixin: `x · gate(x)`.

    Args:
        output_quantizer: name, config or object, see `quantizers.get`.
    """

    gate_class = None

    def __init__(self, output_quantizer="moving_average", **kwargs):
        super().__init__(**kwargs)
        self.gate = self.gate_class(name=f"{self.name}_gate")
        self.product = QuantMultiply(output_quantizer=output_quantizer, name=f"{self.name}_multiply")

    def build_parts(self, input_shape):
        self.gate.build(input_shape)
        self.product.build([input_shape, input_shape])

    def compose(self, inputs, training=None):
        return self.product([inputs, self.gate(inputs, training=training)], training=training)

    def compute_output_shape(self, input_shape):
        return input_shape


@computes_activation(keras.activations.silu)
@keras.saving.register_keras_serializable(package="keras_quant")
class QuantSiLU(_Gated, keras.layers.Layer):
    """SiLU (swish) on int8: `x · sigmoid(x)`, lowered to LOGISTIC and MUL, both on XNNPACK.

    Args:
        output_quantizer: name, config or object, see `quantizers.get`.
    """

    gate_class = QuantSigmoid


@computes_activation(keras.activations.hard_silu)
@keras.saving.register_keras_serializable(package="keras_quant")
class QuantHardSiLU(_Gated, keras.layers.Layer):
    """Hard SiLU (hard swish) on int8: `x · hard_sigmoid(x)`, lowered to DEPTHWISE_CONV_2D and MUL, both on XNNPACK.

    Args:
        output_quantizer: name, config or object, see `quantizers.get`.
    """

    gate_class = QuantHardSigmoid


@quantizes(keras.layers.Activation)
class QuantActivation(QuantComposite, keras.layers.Activation):
    """`keras.layers.Activation` on int8: whatever function has a quantized form, see `activation_layer`.

    Args: those of `keras.layers.Activation`.
    """

    def __init__(self, activation, **kwargs):
        super().__init__(activation, **kwargs)
        if self.activation is keras.activations.linear:
            self.layer = QuantIdentity(name=f"{self.name}_identity")
        else:
            self.layer = activation_layer(self.activation, name=f"{self.name}_{self.activation.__name__}")

    def build_parts(self, input_shape):
        self.layer.build(input_shape)

    def compose(self, inputs, training=None):
        return self.layer(inputs, training=training)

    @property
    def last_part(self):
        return self.layer

    def compute_output_shape(self, input_shape):
        return input_shape


@computes("nn.Sigmoid")
def _sigmoid(operation, args, **arguments):
    return QuantSigmoid(**arguments)


@computes("numpy.Tanh")
def _tanh(operation, args, **arguments):
    return QuantTanh(**arguments)


@computes("nn.Silu")
def _silu(operation, args, **arguments):
    return QuantSiLU(**arguments)


@computes("nn.HardSilu")
def _hard_silu(operation, args, **arguments):
    return QuantHardSiLU(**arguments)


@computes("nn.Softmax")
def _softmax(operation, args, **arguments):
    return QuantSoftmax(axis=operation.axis, **arguments)
