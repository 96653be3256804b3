"""Quantized convolutions."""

import keras
from keras import ops

from keras_quant import integer, quantizers
from keras_quant.errors import UnsupportedLayerError
from keras_quant.layers.base import QuantComposite
from keras_quant.layers.registry import quantizes
from keras_quant.layers.weighted import QuantWeighted
from keras_quant.policy import NARROW


def check_channels_last(layer):
    if layer.data_format != "channels_last":
        raise UnsupportedLayerError(
            f"Layer '{layer.name}' has `data_format='{layer.data_format}'`; the runtime's kernels are channels_last. "
            "Build the model with `data_format='channels_last'`."
        )


class Convolves:
    """Mixin for the products of convolutions of any rank."""

    @property
    def kernel_axes(self):
        return tuple(range(self.rank + 1))

    @property
    def is_pointwise(self):
        """Whether it is a product along the last axis at each place, as a Dense layer is."""
        plain = self.groups == 1 and self.operator_padding != "causal"
        return plain and all(size == 1 for size in (*self.kernel_size, *self.strides))

    @property
    def operator_padding(self):
        """The padding that the operator itself does, "valid" or "same"."""
        return self.padding

    def build(self, input_shape):
        check_channels_last(self)
        super().build(input_shape)

    def product(self, inputs, kernel):
        return ops.conv(inputs, kernel, self.strides, self.operator_padding, self.data_format, self.dilation_rate)


class ConvolvesTransposed(Convolves):
    """Mixin for the products of transposed convolutions of any rank."""

    is_pointwise = False

    @property
    def kernel_axes(self):
        return (*range(self.rank), self.rank + 1)

    def product(self, inputs, kernel):
        return ops.conv_transpose(
            inputs, kernel, self.strides, self.padding, self.output_padding, self.data_format, self.dilation_rate
        )


class QuantConvolution(Convolves, QuantWeighted):
    """Mixin for convolutions of any rank."""

    activation_types = (*NARROW, "int16")

    def integer_call(self, x, y):
        weights = self.folded_weights(x.params, y)
        return integer.conv_2d(x, weights, y, self.bounds, self.strides, self.operator_padding, self.dilation_rate)


class QuantDepthwiseConvolution(QuantConvolution):
    """Mixin for depthwise convolutions of any rank."""

    is_pointwise = False

    @property
    def kernel_axes(self):
        return tuple(range(self.rank))

    def channel_shape(self):
        return self.kernel.shape[-2:]

    def product(self, inputs, kernel):
        return ops.depthwise_conv(inputs, kernel, self.strides, self.padding, self.data_format, self.dilation_rate)

    def integer_call(self, x, y):
        weights = self.folded_weights(x.params, y)
        return integer.depthwise_conv_2d(x, weights, y, self.bounds, self.strides, self.padding, self.dilation_rate)


class QuantTransposedConvolution(ConvolvesTransposed, QuantConvolution):
    """Mixin for transposed convolutions of any rank."""

    activation_types = NARROW

    def channel_shape(self):
        return (-1, 1)

    def integer_call(self, x, y):
        return integer.transpose_conv(
            x,
            self.folded_weights(x.params, y),
            y,
            self.bounds,
            self.strides,
            self.padding,
            self.output_padding,
            self.dilation_rate,
        )


@quantizes(keras.layers.Conv2D)
class QuantConv2D(QuantConvolution, keras.layers.Conv2D):
    """`keras.layers.Conv2D` on int8, one weight scale a filter; lowered to CONV_2D.

    Args: those of `keras.layers.Conv2D`, and `kernel_quantizer`, `batch_norm`, `output_quantizer`.
    """


@quantizes(keras.layers.DepthwiseConv2D)
class QuantDepthwiseConv2D(QuantDepthwiseConvolution, keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` on int8, one weight scale an output channel; lowered to DEPTHWISE_CONV_2D.

    Args: those of `keras.layers.DepthwiseConv2D`, and `kernel_quantizer`, `batch_norm`, `output_quantizer`.
    """


@quantizes(keras.layers.Conv2DTranspose)
class QuantConv2DTranspose(QuantTransposedConvolution, keras.layers.Conv2DTranspose):
    """`keras.layers.Conv2DTranspose` on int8, one weight scale a filter; lowered to a CONV_2D of all phases.

    Args: those of `keras.layers.Conv2DTranspose`, and `kernel_quantizer`, `batch_norm`, `output_quantizer`.
    """


class QuantSeparableConvolution(QuantComposite):
    """Mixin for a depthwise and a pointwise convolution; a subclass names the classes of both parts.

    Args:
        kernel_quantizer, batch_norm, output_quantizer: as in `QuantWeighted`.
    """

    depthwise_class, pointwise_class = None, None
    activation_types = (*NARROW, "int16")

    def __init__(
        self,
        *args,
        kernel_quantizer=None,
        batch_norm=None,
        output_quantizer=None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.depthwise = self.depthwise_class(
            self.kernel_size,
            strides=self.strides,
            padding=self.padding,
            depth_multiplier=self.depth_multiplier,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
            use_bias=False,
            depthwise_initializer=self.depthwise_initializer,
            depthwise_regularizer=self.depthwise_regularizer,
            depthwise_constraint=self.depthwise_constraint,
            kernel_quantizer=_another(kernel_quantizer),
            policy=self.policy,
            name=f"{self.name}_depthwise",
        )
        self.pointwise = self.pointwise_class(
            self.filters,
            1,
            data_format=self.data_format,
            activation=self.activation,
            use_bias=self.use_bias,
            kernel_initializer=self.pointwise_initializer,
            bias_initializer=self.bias_initializer,
            kernel_regularizer=self.pointwise_regularizer,
            bias_regularizer=self.bias_regularizer,
            kernel_constraint=self.pointwise_constraint,
            bias_constraint=self.bias_constraint,
            kernel_quantizer=kernel_quantizer,
            batch_norm=batch_norm,
            output_quantizer=output_quantizer,
            policy=self.policy,
            name=f"{self.name}_pointwise",
        )

    def build_parts(self, input_shape):
        self.depthwise.build(input_shape)
        self.pointwise.build(self.depthwise.compute_output_shape(input_shape))

    def compose(self, inputs, training=None):
        return self.pointwise(self.depthwise(inputs, training=training), training=training)

    @property
    def last_part(self):
        return self.pointwise.last_part

    def copy_weights(self, layer):
        """Take the weights of the float layer."""
        self.depthwise.kernel.assign(layer.depthwise_kernel)
        self.pointwise.kernel.assign(layer.pointwise_kernel)
        if layer.use_bias:
            self.pointwise.bias.assign(layer.bias)

    def get_config(self):
        return {
            **super().get_config(),
            **{key: value for key, value in self.pointwise.get_config().items() if key in _OWN_ARGUMENTS},
        }


@quantizes(keras.layers.SeparableConv2D)
class QuantSeparableConv2D(QuantSeparableConvolution, keras.layers.SeparableConv2D):
    """`keras.layers.SeparableConv2D` on int8: a `QuantDepthwiseConv2D` and a pointwise `QuantConv2D`.

    Args: those of `keras.layers.SeparableConv2D`, and `kernel_quantizer`, `batch_norm`, `output_quantizer`.
    """

    depthwise_class, pointwise_class = QuantDepthwiseConv2D, QuantConv2D


_OWN_ARGUMENTS = ("kernel_quantizer", "batch_norm", "output_quantizer")


def _another(quantizer):
    return None if quantizer is None else quantizers.get(quantizers.serialize(quantizers.get(quantizer)))
