"""Rules for layers with a kernel: Conv, Gemm.

Images and sequences have their channels first from the first convolution to the last. Zeros put around an image join the
convolution that reads it, whose padding is written out.
"""

import math

import numpy as np
from keras import ops

from keras_quant.layers import QuantConv1D, QuantDense
from keras_quant.layers.affine import QuantAffine
from keras_quant.layers.conv import QuantConvolution, QuantDepthwiseConvolution
from keras_quant.onnx.lower import lowers
from keras_quant.onnx.lowering import Made


def _spatial_first(kernel, *channels):
    """A kernel with its window's axes last: `channels` are the axes that come first."""
    window = range(kernel.ndim - 2)
    return kernel.transpose(*(axis % kernel.ndim for axis in channels), *window)


def weights_and_bias(lowering, x, weights, kernel, axis, bits):
    """Add a kernel, one scale for each place along `axis`, and its bias of int32 at s_x · s_w; returns both names."""
    scale = ops.convert_to_numpy(weights.scale)
    bias = ops.convert_to_numpy(weights.bias).astype(np.int32)
    kernel = lowering.dequantized("kernel", kernel.astype(np.int8), scale, axis, bits)
    return kernel, lowering.dequantized("bias", bias, x.scale * scale, 0)


def pads_of(layer, shape, window):
    """Zeros before and after along each axis of the window, of `padding="same"` as TensorFlow sets them."""
    if getattr(layer, "padding", "valid") != "same":
        return [(0, 0)] * len(window)
    dilation = getattr(layer, "dilation_rate", (1,) * len(window))
    totals = [
        max((math.ceil(size / stride) - 1) * stride + (taps - 1) * rate + 1 - size, 0)
        for size, taps, stride, rate in zip(shape, window, layer.strides, dilation)
    ]
    return [(total // 2, total - total // 2) for total in totals]


def in_order(pads):
    """ONNX's order: all that goes before, then all that goes after."""
    return [before for before, _ in pads] + [after for _, after in pads]


def _unpadded(x, window):
    """The tensor inside a border of zeros, and the border; the tensor itself where there is none."""
    source, widths = x.padded or (x, [(0, 0)] * len(x.shape))
    if any(widths[-1]) or len(widths) != len(window) + 1:
        return x, [(0, 0)] * len(window)
    return source, widths[:-1]


def _convolution(lowering, layer, x, output, kernel, weights, groups, lead=0):
    """Conv from a kernel `(filters, channels / groups, *window)`."""
    window = kernel.shape[2:]
    pads = pads_of(layer, x.shape, window)
    source, border = _unpadded(x, window)
    pads = [(a + c + lead, b + d) for (a, b), (c, d) in zip(pads, border)]
    operands = [
        lowering.real(source, True),
        *weights_and_bias(lowering, x, weights, kernel, 0, layer.kernel_quantizer.stored_bits),
    ]
    y = lowering.node(
        "Conv",
        operands,
        kernel_shape=window,
        strides=list(layer.strides),
        dilations=list(layer.dilation_rate),
        pads=in_order(pads),
        group=groups,
    )
    return lowering.activate(y, layer.bounds, output, True)


@lowers(QuantConvolution)
def conv(lowering, layer, x, output):
    weights = layer.folded_weights(x.params, output.params)
    kernel = _spatial_first(ops.convert_to_numpy(weights.kernel), -1, -2)
    lead = layer.lead if isinstance(layer, QuantConv1D) else 0
    return _convolution(lowering, layer, x, output, kernel, weights, layer.groups, lead)


@lowers(QuantDepthwiseConvolution)
def depthwise(lowering, layer, x, output):
    weights = layer.folded_weights(x.params, output.params)
    kernel = ops.convert_to_numpy(weights.kernel)
    *window, channels, multiplier = kernel.shape
    kernel = _spatial_first(kernel.reshape(*window, 1, channels * multiplier), -1, -2)
    return _convolution(lowering, layer, x, output, kernel, weights, channels)


@lowers(QuantDense)
def dense(lowering, layer, x, output):
    weights = layer.folded_weights(x.params, output.params)
    kernel = ops.convert_to_numpy(weights.kernel)
    bits = layer.kernel_quantizer.stored_bits
    if x.first:
        kernel = kernel.T.reshape(kernel.shape[1], kernel.shape[0], *[1] * (x.rank - 2))
        y = lowering.node("Conv", [lowering.real(x), *weights_and_bias(lowering, x, weights, kernel, 0, bits)])
        return lowering.activate(y, layer.bounds, output, True)
    rows = rows_of(lowering, x, (-1, kernel.shape[0]))
    operands = [rows, *weights_and_bias(lowering, x, weights, kernel.T, 0, bits)]
    y = lowering.node("Gemm", operands, transB=1)
    return from_rows(lowering, lowering.activate(y, layer.bounds, output), x, output)


def rows_of(lowering, x, shape):
    """The real numbers of a tensor with its integers in another shape, -1 for all that comes before."""
    if x.rank == len(shape) == 2:
        return lowering.real(x)
    integers = lowering.reshape(lowering.integers(x, False), shape)
    grid = lowering.grid(f"{lowering.path}/rows", x.params)
    return lowering.node("DequantizeLinear", [integers, *grid], "rows/dequantized")


def from_rows(lowering, made, x, output, rank=2):
    """What was made in rows as the integers of the output, in its shape."""
    if x.rank == rank:
        return made
    integers = made.value
    if not made.integers:
        grid = lowering.grid(output.name, output.params)
        integers = lowering.node("QuantizeLinear", [made.value, *grid], "rows/quantized")
    return Made(lowering.reshape(integers, (-1, *output.shape)), integers=True)


@lowers(QuantAffine)
def affine(lowering, layer, x, output):
    """A Conv of one tap for each channel, which has the int32 bias of the `.tflite`; rows of channels are images of one."""
    weights = layer.folded_weights(x.params, output.params)
    channels = output.shape[-1]
    spatial = x.rank - 2 if x.first else 2
    kernel = ops.convert_to_numpy(weights.kernel).reshape(channels, 1, *[1] * spatial)
    rows = lowering.real(x) if x.first else rows_of(lowering, x, (-1, channels, 1, 1))
    y = lowering.node("Conv", [rows, *weights_and_bias(lowering, x, weights, kernel, 0, 8)], group=channels)
    made = lowering.activate(y, layer.bounds, output, x.first)
    return made if x.first else from_rows(lowering, made, x, output, rank=None)
