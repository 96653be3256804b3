"""Quantized convolutions."""

import keras
from keras import ops

from keras_quant import integer, quantizers
from keras_quant.errors import UnsupportedLayerError
from keras_quant.layers.base import QuantComposite
from keras_quant.layers.registry import quantizes
from keras_quant.layers.weighted import QuantWeighted


def check_channels_last(layer):
    if layer.data_format != "channels_last":
        raise UnsupportedLayerError(
            f"Layer '{layer.name}' has `data_format='{layer.data_format}'`; the runtime's kernels are channels_last. "
            "Build the model with `data_format='channels_last'`."
        )


@quantizes(keras.layers.Conv2D)
class QuantConv2D(QuantWeighted, keras.layers.Conv2D):
    """`keras.layers.Conv2D` on int8, one weight scale a filter; lowered to CONV_2D.

    Args: those of `keras.layers.Conv2D`, and `kernel_quantizer`, `batch_norm`, `output_quantizer`.
    """

    def build(self, input_shape):
        check_channels_last(self)
        super().build(input_shape)

    def product(self, inputs, kernel):
        return ops.conv(inputs, kernel, self.strides, self.padding, self.data_format, self.dilation_rate)

    def integer_call(self, x, y):
        return integer.conv_2d(
            x, self.folded_weights(x.params, y), y, self.bounds, self.strides, self.padding, self.dilation_rate
        )


@quantizes(keras.layers.DepthwiseConv2D)
class QuantDepthwiseConv2D(QuantWeighted, keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` on int8, one weight scale an output channel; lowered to DEPTHWISE_CONV_2D.

    Args: those of `keras.layers.DepthwiseConv2D`, and `kernel_quantizer`, `batch_norm`, `output_quantizer`.
    """

    kernel_axes = (0, 1)

    def build(self, input_shape):
        check_channels_last(self)
        super().build(input_shape)

    def channel_shape(self):
        return self.kernel.shape[2:]

    def product(self, inputs, kernel):
        return ops.depthwise_conv(inputs, kernel, self.strides, self.padding, self.data_format, self.dilation_rate)

    def integer_call(self, x, y):
        return integer.depthwise_conv_2d(
            x, self.folded_weights(x.params, y), y, self.bounds, self.strides, self.padding, self.dilation_rate
        )


@quantizes(keras.layers.Conv2DTranspose)
class QuantConv2DTranspose(QuantWeighted, keras.layers.Conv2DTranspose):
    """`keras.layers.Conv2DTranspose` on int8, one weight scale a filter; lowered to TRANSPOSE_CONV.

    Args: those of `keras.layers.Conv2DTranspose`, and `kernel_quantizer`, `batch_norm`, `output_quantizer`. The operator
    has no dilation and no output padding.
    """

    kernel_axes = (0, 1, 3)

    def build(self, input_shape):
        check_channels_last(self)
        if self.output_padding is not None or any(d != 1 for d in self.dilation_rate):
            raise UnsupportedLayerError(
                f"Layer '{self.name}': TRANSPOSE_CONV has neither `output_padding` nor dilation. Leave both out. "
                f"Received: output_padding={self.output_padding}, dilation_rate={self.dilation_rate}"
            )
        super().build(input_shape)

    def channel_shape(self):
        return (-1, 1)

    def product(self, inputs, kernel):
        return ops.conv_transpose(inputs, kernel, self.strides, self.padding, None, self.data_format)

    def integer_call(self, x, y):
        return integer.transpose_conv(x, self.folded_weights(x.params, y), y, self.bounds, self.strides, self.padding)


@quantizes(keras.layers.SeparableConv2D)
class QuantSeparableConv2D(QuantComposite, keras.layers.SeparableConv2D):
    """`keras.layers.SeparableConv2D` on int8: a `QuantDepthwiseConv2D` and a pointwise `QuantConv2D`.

    Args: those of `keras.layers.SeparableConv2D`, and `kernel_quantizer`, `batch_norm`, `output_quantizer`.
    """

    def __init__(
        self,
        *args,
        kernel_quantizer="abs_max",
        batch_norm=None,
        output_quantizer="moving_average",
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.depthwise = QuantDepthwiseConv2D(
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
            name=f"{self.name}_depthwise",
        )
        self.pointwise = QuantConv2D(
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
        """Take the weights of a float `keras.layers.SeparableConv2D`."""
        self.depthwise.kernel.assign(layer.depthwise_kernel)
        self.pointwise.kernel.assign(layer.pointwise_kernel)
        if layer.use_bias:
            self.pointwise.bias.assign(layer.bias)

    def get_config(self):
        return {
            **super().get_config(),
            **{key: value for key, value in self.pointwise.get_config().items() if key in _OWN_ARGUMENTS},
        }


_OWN_ARGUMENTS = ("kernel_quantizer", "batch_norm", "output_quantizer")


def _another(quantizer):
    return quantizers.get(quantizers.serialize(quantizers.get(quantizer)))
