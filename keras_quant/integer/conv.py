"""CONV_2D, DEPTHWISE_CONV_2D and TRANSPOSE_CONV, per channel; on sequences as on images of one row.

`c_y = rint(float32(Σ c_x·q_w + bias) · float32(float32(s_x·s_w[c]) / s_y))`, clamped to int8 and to the fused activation.
XNNPACK: `qs8-qc8w-gemm`, `-igemm` and `-dwconv` with float32 requantization (`minmax_fp32`).
"""

from keras import ops

from keras_quant.integer.arithmetic import weighted_sum


def conv_2d(x, weights, y, bounds=(None, None), strides=1, padding="valid", dilation_rate=1):
    """CONV_2D. Args: `x` a `Quantized` of `(n, [h,] w, c)`; `weights.kernel` `([h,] w, c / groups, filters)`."""

    def product(inputs, kernel):
        return ops.conv(inputs, kernel, strides, padding, "channels_last", dilation_rate)

    return weighted_sum(product, x, weights, _axes(weights, [-2]), y, bounds)


def depthwise_conv_2d(x, weights, y, bounds=(None, None), strides=1, padding="valid", dilation_rate=1):
    """DEPTHWISE_CONV_2D. Args: `x` a `Quantized` of `(n, [h,] w, c)`; `weights.kernel` `([h,] w, c, multiplier)`."""

    def product(inputs, kernel):
        return ops.depthwise_conv(inputs, kernel, strides, padding, "channels_last", dilation_rate)

    return weighted_sum(product, x, weights, _axes(weights, []), y, bounds)


def transpose_conv(x, weights, y, bounds=(None, None), strides=1, padding="valid", output_padding=None, dilation_rate=1):
    """TRANSPOSE_CONV. Args: `x` a `Quantized` of `(n, [h,] w, c)`; `weights.kernel` `([h,] w, filters, c)`."""

    def product(inputs, kernel):
        return ops.conv_transpose(inputs, kernel, strides, padding, output_padding, "channels_last", dilation_rate)

    return weighted_sum(product, x, weights, _axes(weights, [-1]), y, bounds)


def _axes(weights, channel_axes):
    """The kernel's axes that are summed over: the window's and `channel_axes`."""
    rank = len(weights.kernel.shape)
    return (*range(rank - 2), *(rank + axis for axis in channel_axes))
