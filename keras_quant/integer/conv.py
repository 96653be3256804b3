"""CONV_2D, DEPTHWISE_CONV_2D and TRANSPOSE_CONV, per channel; on sequences as on images of one row; on volumes alike.

`c_y = rint(float32(Σ c_x·q_w + bias) · float32(float32(s_x·s_w[c]) / s_y))`, clamped to int8 and to the fused activation.
XNNPACK: `qs8-qc8w-gemm`, `-igemm` and `-dwconv` with float32 requantization (`minmax_fp32`).
"""

from keras import ops

from keras_quant.integer.arithmetic import weighted_sum
from keras_quant.integer.pooling import window_sums


def conv_2d(x, weights, y, bounds=(None, None), strides=1, padding="valid", dilation_rate=1):
    """CONV_2D. Args: `x` a `Quantized` of `(n, *places, c)`; `weights.kernel` `(*window, c / groups, filters)`."""

    def product(inputs, kernel):
        return ops.conv(inputs, kernel, strides, padding, "channels_last", dilation_rate)

    return weighted_sum(product, x, weights, _axes(weights, [-2]), y, bounds)


def depthwise_conv_2d(x, weights, y, bounds=(None, None), strides=1, padding="valid", dilation_rate=1):
    """DEPTHWISE_CONV_2D. Args: `x` a `Quantized` of `(n, *places, c)`; `weights.kernel` `(*window, c, multiplier)`."""

    def product(inputs, kernel):
        return ops.depthwise_conv(inputs, kernel, strides, padding, "channels_last", dilation_rate)

    return weighted_sum(product, x, weights, _axes(weights, []), y, bounds)


def weighted_windows(x, weights, y, strides, padding):
    """DEPTHWISE_CONV_2D whose taps are all alike, as an average has them, over windows of any rank.

    Args:
        x: `Quantized` of `(n, *places, c)`.
        weights: `FoldedWeights` with a kernel `(*window, c, 1)`.
        y: `QuantParams` of the output.
        strides, padding: of the window.
    """
    *window, _, _ = weights.kernel.shape

    def product(inputs, kernel):
        return window_sums(inputs, window, strides, padding) * kernel[(*[0] * len(window), slice(None), 0)]

    return weighted_sum(product, x, weights, _axes(weights, []), y, (None, None))


def transpose_conv(x, weights, y, bounds=(None, None), strides=1, padding="valid", output_padding=None, dilation_rate=1):
    """TRANSPOSE_CONV, for which files hold a CONV_2D that does the same.

    Args: `x` a `Quantized` of `(n, *places, c)`; `weights.kernel` `(*window, filters, c)`.
    """

    def product(inputs, kernel):
        return ops.conv_transpose(inputs, kernel, strides, padding, output_padding, "channels_last", dilation_rate)

    return weighted_sum(product, x, weights, _axes(weights, [-1]), y, bounds)


def _axes(weights, channel_axes):
    """The kernel's axes that are summed over: the window's and `channel_axes`."""
    rank = len(weights.kernel.shape)
    return (*range(rank - 2), *(rank + axis for axis in channel_axes))
