"""Rule for transposed convolutions: a Conv for each place between two strides, and their outputs side by side.

ONNX Runtime computes ConvTranspose in float only. Along one axis, with stride s, `y[s·q + r] = Σ_t x[q - t]·w[s·t + r]`:
every r below s is a plain convolution with the taps of that r, and all of them together are one Conv with s times the
filters.

References:
    - [Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network](
      https://arxiv.org/abs/1609.05158)
"""

import dataclasses
import math

import numpy as np
from keras import ops

from keras_quant.layers.conv import QuantTransposedConvolution
from keras_quant.onnx.conv import in_order, weights_and_bias
from keras_quant.onnx.lower import lowers
from keras_quant.onnx.lowering import Made


@lowers(QuantTransposedConvolution)
def conv_transpose(lowering, layer, x, output):
    weights = layer.folded_weights(x.params, output.params)
    strides, window = layer.strides, len(layer.strides)
    kernel = with_holes(layer.dilation_rate, ops.convert_to_numpy(weights.kernel))
    skipped = skipped_of(layer.padding, strides, x.shape, output.shape, kernel.shape)
    phases = math.prod(strides)
    repeated = dataclasses.replace(weights, scale=ops.tile(weights.scale, phases), bias=ops.tile(weights.bias, phases))
    kernel, taps = by_phase(kernel, strides, x.shape, output.shape, skipped)
    operands = weights_and_bias(lowering, x, repeated, kernel, 0, layer.kernel_quantizer.stored_bits)
    pads = in_order([(size - 1, size - 1) for size in taps])
    y = lowering.node("Conv", [lowering.real(x, True), *operands], kernel_shape=taps, pads=pads)
    made = lowering.activate(y, layer.bounds, output, True)
    if phases > 1:
        sizes = [old + size - 1 for old, size in zip(x.shape, taps)]
        y = made.value
        if not made.integers:
            y = lowering.node("QuantizeLinear", [y, *lowering.grid(output.name, output.params)], "phases/quantized")
        made = Made(interleaved(lowering, y, strides, output.shape[-1], sizes), True, integers=True)
    full = [stride * (old + size - 1) for stride, old, size in zip(strides, x.shape, taps)]
    if list(full) != list(output.shape[:-1]):
        ends = [cut + wanted for cut, wanted in zip(skipped, output.shape)]
        limits = [lowering.ints(n, v) for n, v in (("starts", skipped), ("ends", ends), ("axes", range(2, 2 + window)))]
        made = dataclasses.replace(made, value=lowering.node("Slice", [made.value, *limits]))
    return made


def with_holes(dilation, kernel):
    """A dilated kernel with its zeros."""
    sizes = [(size - 1) * rate + 1 for size, rate in zip(kernel.shape, dilation)]
    spread = np.zeros((*sizes, *kernel.shape[-2:]), kernel.dtype)
    spread[tuple(slice(None, None, rate) for rate in dilation)] = kernel
    return spread


def skipped_of(padding, strides, shape, made, window):
    """How much of the full output is cut off before the first element along each axis; TensorFlow's padding."""
    full = [(size - 1) * stride + taps for size, stride, taps in zip(shape, strides, window)]
    return [max(size - wanted, 0) // 2 if padding == "same" else 0 for size, wanted in zip(full, made)]


def by_phase(kernel, strides, shape, made, skipped):
    """A kernel `(*window, filters, channels)` as that of a Conv, `(phases · filters, channels, *taps)`, and the taps.

    The last tap of a phase meets the first element, so each axis is turned round.
    """
    # Enough taps for each place that the output goes as far as it has to.
    taps = [
        max(math.ceil(size / stride), math.ceil((cut + wanted) / stride) - old + 1)
        for size, stride, cut, wanted, old in zip(kernel.shape, strides, skipped, made, shape)
    ]
    missing = [(0, stride * size - old) for stride, size, old in zip(strides, taps, kernel.shape)]
    kernel = np.pad(kernel, [*missing, (0, 0), (0, 0)])
    count = len(strides)
    split = kernel.reshape(*(size for pair in zip(taps, strides) for size in pair), *kernel.shape[-2:])
    split = np.flip(split, tuple(range(0, 2 * count, 2)))
    order = [*range(1, 2 * count, 2), 2 * count, 2 * count + 1, *range(0, 2 * count, 2)]
    return split.transpose(order).reshape(-1, kernel.shape[-1], *taps), taps


def interleaved(lowering, y, strides, filters, sizes):
    """`(n, phases · filters, *sizes)` as `(n, filters, *(size · stride))`."""
    count = len(strides)
    y = lowering.reshape(y, (-1, *strides, filters, *sizes))
    pairs = [axis for i in range(count) for axis in (2 + count + i, 1 + i)]
    y = lowering.node("Transpose", [y], perm=[0, 1 + count, *pairs])
    return lowering.reshape(y, (-1, filters, *(size * stride for size, stride in zip(sizes, strides))))
