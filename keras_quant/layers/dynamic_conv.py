"""Convolutions with integer weights and float activations, which the kernel quantizes to 8 bits as it runs."""

import math

import keras
import numpy as np
from keras import ops

from keras_quant.integer.axis import axes
from keras_quant.integer.phases import Phases
from keras_quant.layers.conv import Convolves, ConvolvesTransposed
from keras_quant.layers.conv1d import ConvolvesSequence
from keras_quant.layers.dynamic import DynamicComposite, DynamicWeighted, computes_dynamically, on_own_grids
from keras_quant.layers.weighted import fit_weight_ranges

# XNNPACK's integer kernels compute one group after the other, and fill groups of few channels up with zeros.
FEWEST_IN_GROUP = 16


class DynamicConvolution(Convolves, DynamicWeighted):
    """Mixin for convolutions of any rank; weights of fewer than 8 bits are stored as int8."""

    @classmethod
    def pays(cls, layer, shape):
        return layer.groups == 1 or shape[-1] // layer.groups >= FEWEST_IN_GROUP

    def sample_axes(self, x):
        return (-1,) if self.has_grids_of_rows(x.shape[-1]) else tuple(range(1, len(x.shape)))

    def has_grids_of_rows(self, channels):
        """Whether XNNPACK makes a fully connected operator of it (`xnn_define_convolution_2d`): the grids are of rows then.

        Args:
            channels: of the inputs of its CONV_2D.
        """
        sizes = (*self.kernel_size[-2:], *self.strides[-2:])
        return self.groups == 1 and all(size == 1 for size in sizes) and channels + self.filters > 2


@computes_dynamically(keras.layers.Conv1D)
class DynamicConv1D(ConvolvesSequence, DynamicConvolution, keras.layers.Conv1D):
    """`keras.layers.Conv1D` with integer weights; lowered to a CONV_2D on XNNPACK.

    Args: those of `keras.layers.Conv1D`, and `policy`.
    """


@computes_dynamically(keras.layers.Conv2D)
class DynamicConv2D(DynamicConvolution, keras.layers.Conv2D):
    """`keras.layers.Conv2D` with integer weights; lowered to a CONV_2D on XNNPACK.

    Args: those of `keras.layers.Conv2D`, and `policy`.
    """


@computes_dynamically(keras.layers.Conv3D)
class DynamicConv3D(DynamicConvolution, keras.layers.Conv3D):
    """`keras.layers.Conv3D` with integer weights; lowered, as on int8, to a CONV_2D over the volume's images on XNNPACK.

    Each image has its neighbours in depth beside it on channels, and a grid for them all.

    Args: those of `keras.layers.Conv3D`, and `policy`.
    """

    def rounded_product(self, inputs, kernel, training=False):
        shape = self.compute_output_shape(inputs.shape)
        depth, *_ = axes(self, inputs.shape[1:-1], shape[1:-1])
        frames = _images(inputs, depth, self.groups)
        frames = on_own_grids(frames, (-1,) if self.has_grids_of_rows(frames.shape[-1]) else (1, 2, 3), training)
        kernel = ops.transpose(kernel, (1, 2, 0, 3, 4))
        kernel = ops.reshape(kernel, (*kernel.shape[:2], -1, kernel.shape[-1]))
        made = ops.conv(frames, kernel, self.strides[1:], self.padding, self.data_format, self.dilation_rate[1:])
        return ops.reshape(made, (-1, *shape[1:]))


def _images(x, depth, groups=1):
    """The images of a volume as a batch, the windows along depth on channels.

    Args:
        x: tensor `(n, d, h, w, c)`.
        depth: `Axis`.
        groups: of channels, each with its own window.

    Returns:
        Tensor `(n·d', h, w, groups·kd·c/groups)`.
    """
    _, _, height, width, channels = x.shape
    x = ops.pad(x, [(0, 0), (depth.before, max(depth.missing, 0)), (0, 0), (0, 0), (0, 0)])
    x = ops.reshape(x, (-1, *x.shape[1:4], groups, channels // groups))
    reach = (depth.outputs - 1) * depth.stride + 1
    starts = [tap * depth.dilation for tap in range(depth.taps)]
    windows = ops.concatenate([x[:, start : start + reach : depth.stride] for start in starts], axis=-1)
    return ops.reshape(windows, (-1, height, width, depth.taps * channels))


class DynamicTransposedConvolution(ConvolvesTransposed, DynamicWeighted):
    """Mixin for transposed convolutions of any rank; weights of fewer than 8 bits are stored as int8.

    The file has a CONV_2D that makes all places of the output between two strides at once.
    """

    def sample_axes(self, x):
        return (-1,) if self.has_grids_of_rows(x.shape[-1]) else tuple(range(1, len(x.shape)))

    def has_grids_of_rows(self, channels):
        """As of `DynamicConvolution`: where no place of the output sees two of the input."""
        reaches = [(size - 1) * rate + 1 for size, rate in zip(self.kernel_size, self.dilation_rate)][-2:]
        single = all(reach <= stride for reach, stride in zip(reaches, self.strides[-2:]))
        return single and channels + math.prod(self.strides) * self.filters > 2


@computes_dynamically(keras.layers.Conv1DTranspose)
class DynamicConv1DTranspose(DynamicTransposedConvolution, keras.layers.Conv1DTranspose):
    """`keras.layers.Conv1DTranspose` with integer weights; lowered to a CONV_2D on XNNPACK.

    Args: those of `keras.layers.Conv1DTranspose`, and `policy`.
    """


@computes_dynamically(keras.layers.Conv2DTranspose)
class DynamicConv2DTranspose(DynamicTransposedConvolution, keras.layers.Conv2DTranspose):
    """`keras.layers.Conv2DTranspose` with integer weights; lowered to a CONV_2D on XNNPACK.

    Args: those of `keras.layers.Conv2DTranspose`, and `policy`.
    """


@computes_dynamically(keras.layers.Conv3DTranspose)
class DynamicConv3DTranspose(DynamicTransposedConvolution, keras.layers.Conv3DTranspose):
    """`keras.layers.Conv3DTranspose` with integer weights; lowered to a CONV_2D on XNNPACK, as Conv3D is.

    All images that lie between two strides are made at once, and have one grid for what they are made of.

    Args: those of `keras.layers.Conv3DTranspose`, and `policy`.
    """

    def rounded_product(self, inputs, kernel, training=False):
        depth, *shape = self.compute_output_shape(inputs.shape)[1:]
        phases = Phases.of(self, -3, inputs.shape[1], depth)
        frames = _images(inputs, phases.axis)
        frames = on_own_grids(frames, (-1,) if self.has_grids_of_rows(frames.shape[-1]) else (1, 2, 3), training)
        extra = None if self.output_padding is None else tuple(np.broadcast_to(self.output_padding, 3)[1:].tolist())
        geometry = self.strides[1:], self.padding, extra, self.data_format, self.dilation_rate[1:]
        made = ops.conv_transpose(frames, _phase_kernel(phases, kernel), *geometry)
        *image, filters = shape
        made = ops.reshape(made, (-1, phases.axis.outputs, *image, phases.stride, filters))
        made = ops.reshape(ops.transpose(made, (0, 1, 4, 2, 3, 5)), (-1, phases.axis.outputs * phases.stride, *shape))
        return made[:, phases.skipped : phases.skipped + depth]


def _phase_kernel(phases, kernel):
    """A kernel `(kd, h, w, filters, c)` over `_images` along `phases.axis`: `(h, w, stride·filters, taps·c)`."""
    size, height, width, filters, channels = kernel.shape
    # Beyond the kernel, and in its holes, there are zeros.
    place = phases.split(np.arange(1, size + 1), 0)
    split = ops.take(ops.pad(kernel, [(1, 0), *[(0, 0)] * 4]), place.ravel(), axis=0)
    split = ops.reshape(split, (phases.axis.taps, phases.stride, height, width, filters, channels))
    shape = height, width, phases.stride * filters, phases.axis.taps * channels
    return ops.reshape(ops.transpose(split, (2, 3, 1, 4, 0, 5)), shape)


class DynamicSeparableConvolution(DynamicComposite):
    """Mixin for a depthwise convolution in float32, of which there is no other kernel, and a pointwise one.

    A subclass names the classes of both parts.

    Args: those of the Keras layer, and `policy`.
    """

    depthwise_class, pointwise_class = None, None

    def __init__(self, *args, **kwargs):
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
            dtype="float32",
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
            policy=self.policy,
            name=f"{self.name}_pointwise",
        )

    def build(self, input_shape):
        self.depthwise.build(input_shape)
        self.pointwise.build(self.depthwise.compute_output_shape(input_shape))
        self.built = True

    def call(self, inputs, training=None):
        return self.pointwise(self.depthwise(inputs), training=training)

    def copy_weights(self, layer):
        """Take the weights of the float layer."""
        self.depthwise.kernel.assign(layer.depthwise_kernel)
        self.pointwise.kernel.assign(layer.pointwise_kernel)
        if layer.use_bias:
            self.pointwise.bias.assign(layer.bias)
        fit_weight_ranges(self)


@computes_dynamically(keras.layers.SeparableConv1D)
class DynamicSeparableConv1D(DynamicSeparableConvolution, keras.layers.SeparableConv1D):
    """`keras.layers.SeparableConv1D` with a pointwise part of integer weights: a `DynamicConv1D` behind a DepthwiseConv1D.

    Args: those of `keras.layers.SeparableConv1D`, and `policy`.
    """

    depthwise_class, pointwise_class = keras.layers.DepthwiseConv1D, DynamicConv1D


@computes_dynamically(keras.layers.SeparableConv2D)
class DynamicSeparableConv2D(DynamicSeparableConvolution, keras.layers.SeparableConv2D):
    """`keras.layers.SeparableConv2D` with a pointwise part of integer weights: a `DynamicConv2D` behind a DepthwiseConv2D.

    Args: those of `keras.layers.SeparableConv2D`, and `policy`.
    """

    depthwise_class, pointwise_class = keras.layers.DepthwiseConv2D, DynamicConv2D
