"""Rules for layers with a kernel: CONV_2D, DEPTHWISE_CONV_2D; sequences as images of one row."""

import dataclasses
import functools
import math

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from keras import activations, ops

from keras_quant.integer.axis import axes
from keras_quant.integer.phases import Phases
from keras_quant.layers import QuantConv1D
from keras_quant.layers.conv import QuantConvolution, QuantDepthwiseConvolution, QuantTransposedConvolution
from keras_quant.tflite.columns import in_columns, kernel_of_columns, outputs_of_block
from keras_quant.tflite.depth_to_space import to_space
from keras_quant.tflite.lower import lowers, params_of
from keras_quant.tflite.reshape import cut, pad
from keras_quant.tflite.windows import pays, windows
from keras_quant.tflite.writer import TensorType

# Version of FULLY_CONNECTED by the bits of its weights, and the release that brought it.
_NARROW_PRODUCT = {2: (14, (2, 21, 0)), 4: (10, (2, 17, 0))}
# Runtimes before this one take FULLY_CONNECTED's version, but read one scale for all channels: see docs/runtimes.md.
_PER_CHANNEL_SINCE = (2, 10, 0)
Padding, Activation = schema.Padding, schema.ActivationFunctionType
# XNNPACK's depthwise kernels reach up to 25 taps. Beyond, it computes a convolution with a group for each channel, whose
# vectors of 8 inputs hold one: blocks of 8 channels give the same integers in an eighth of the time, for 8 times the bytes.
MOST_TAPS, BLOCK = 25, 8
_ACTIVATIONS = {
    activations.linear: Activation.NONE,
    activations.relu: Activation.RELU,
    activations.relu6: Activation.RELU6,
}


def fused_code(function):
    """The format's number for an activation function, or `None` if no kernel fuses it."""
    return _ACTIVATIONS.get(function)


def fused_activation(layer):
    """The format's number for the activation that the kernel fuses."""
    return Activation.NONE if layer.bounds == (None, None) else _ACTIVATIONS[layer.activation]


def weight_constants(lowering, output, weights, kernel, axis):
    """Add the kernel.

    Args:
        lowering: `Lowering`.
        output: `Output` of the rule.
        weights: `FoldedWeights`.
        kernel: its kernel in the operator's layout.
        axis: of the output channels there.

    Returns:
        Index of the kernel, and the scales as an array.
    """
    scale = ops.convert_to_numpy(weights.scale)
    kernel = lowering.writer.constant(f"{output.name}/kernel", kernel.astype(np.int8), scale, axis)
    return kernel, scale


def bias_constant(lowering, output, weights, x, scale):
    """Add the bias, int32 or, beside int16, int64, at the scale that the format prescribes: s_x · s_w."""
    bias = ops.convert_to_numpy(weights.bias).astype(np.int64 if x.kind == TensorType.INT16 else np.int32)
    return lowering.writer.constant(f"{output.name}/bias", bias, x.scale * scale)


def padding(layer):
    """The format's number for a layer's padding."""
    return Padding.SAME if layer.padding == "same" else Padding.VALID


def geometry(layer):
    """The fields of the operator's options that say how the window moves."""
    strides, dilation = (_two(v) for v in (layer.strides, layer.dilation_rate))
    return {
        "padding": padding(layer),
        "strideH": strides[0],
        "strideW": strides[1],
        "dilationHFactor": dilation[0],
        "dilationWFactor": dilation[1],
    }


def _two(sizes):
    """Sizes along height and width of what may have a width only, or a depth before them."""
    return (1, *sizes)[-2:]


def _image_kernel(weights):
    """The kernel, with a height."""
    kernel = ops.convert_to_numpy(weights.kernel)
    return kernel[None] if kernel.ndim == 3 else kernel


def _on_images(rule):
    """Decorator: a sequence `(length, channels)` goes through the rule as the image `(1, length, channels)`.

    Of the two places for the length this is the one that XNNPACK computes faster, and its RESHAPEs take no time.
    """

    @functools.wraps(rule)
    def lowered(lowering, layer, x, output):
        if len(output.shape) == 3:
            return rule(lowering, layer, x, output, lowering.activation(output))
        x = lowering.reshape(x, output, (1, *x.shape[1:]), "image")
        y = lowering.activation(output, "row", (1, *output.shape))
        return lowering.reshape(rule(lowering, layer, x, output, y), output, output.shape)

    return lowered


# As of `geometry`.
AT_EACH_PIXEL = {"padding": Padding.VALID, "strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1}
_DEFAULTS = {**AT_EACH_PIXEL, "fusedActivationFunction": Activation.NONE}


def convolution(lowering, output, x, weights, y, groups=1, **fields):
    """CONV_2D from `FoldedWeights` with kernel `([h,] w, c / groups, filters)`."""
    kernel, scale = weight_constants(lowering, output, weights, _image_kernel(weights).transpose(3, 0, 1, 2), axis=0)
    plain = (4, (2, 3, 0)) if x.kind == TensorType.INT16 else (3, (1, 14, 0))
    version = plain if groups == 1 else (6, (2, 9, 0))
    operands = [x, kernel, bias_constant(lowering, output, weights, x, scale)]
    lowering.operator("CONV_2D", operands, y, *version, "Conv2DOptions", **{**_DEFAULTS, **fields})
    return y


@lowers(QuantConvolution)
@_on_images
def conv_2d(lowering, layer, x, output, y):
    return convolve(lowering, layer, x, output, y, layer.folded_weights(params_of(x), output.params))


def convolve(lowering, layer, x, output, y, weights):
    """A convolution layer over images, in the form that suits its weights.

    Args:
        lowering: `Lowering`.
        layer: `QuantConvolution`, of whose geometry height and width count.
        x, y: `Tensor`s `(n, h, w, c)` of input and output.
        output: `Output` of the rule.
        weights: `FoldedWeights` with a kernel `([h,] w, c / groups, filters)`.
    """
    if layer.kernel_quantizer.stored_bits <= 4 and layer.groups == 1 and x.kind == TensorType.INT8:
        kernel = _image_kernel(weights)
        rows = kernel.reshape(-1, kernel.shape[-1])
        height, width = axes(layer, x.shape[1:3], y.shape[1:3])
        bits = stored_bits(layer, len(rows))
        if bits < 8 and (layer.is_pointwise or pays(height, width, rows.size, bits)):
            return product(lowering, output, windows(lowering, x, output, height, width), weights, rows, y, layer)
    fields = {"fusedActivationFunction": fused_activation(layer), **geometry(layer)}
    if layer.groups == x.shape[-1] > 1:
        # XNNPACK computes both alike; older runtimes have no groups, and large kernels want blocks.
        single = ops.reshape(weights.kernel, (*weights.kernel.shape[:-2], layer.groups, -1))
        return depthwise(lowering, output, x, dataclasses.replace(weights, kernel=single), y, **fields)
    return _whole(lowering, layer, x, output, y, weights, fields)


def _whole(lowering, layer, x, output, y, weights, fields):
    """One CONV_2D; of few channels, over blocks of columns."""
    height, width = axes(layer, x.shape[1:3], y.shape[1:3])
    outputs = outputs_of_block(x.shape[-1], y.shape[-1], height, width)
    if layer.groups > 1 or lowering.resizable or x.kind != TensorType.INT8 or not outputs:
        return convolution(lowering, output, x, weights, y, layer.groups, **fields)
    x = in_columns(lowering, x, output, height, width, outputs)
    weights = of_every_phase(weights, outputs, kernel_of_columns([_image_kernel(weights)], width, outputs))
    return over_columns(lowering, layer, output, x, weights, y, height)


def over_columns(lowering, layer, output, x, weights, y, height):
    """CONV_2D over blocks of columns, `(n, h, blocks, c)`, and its outputs one behind the other."""
    fields = {"strideH": height.stride, "fusedActivationFunction": fused_activation(layer)}
    rows, columns, filters = y.shape[1:]
    outputs = weights.kernel.shape[-1] // filters
    if outputs == 1:
        return convolution(lowering, output, x, weights, y, **fields)
    made = lowering.activation(output, "blocks", (rows, columns // outputs, outputs * filters))
    return lowering.reshape(convolution(lowering, output, x, weights, made, **fields), output, y.shape[1:], into=y)


def stored_bits(layer, inputs):
    """Bits of one weight of a FULLY_CONNECTED in the file: XNNPACK wants the `inputs` of a unit to fill whole bytes.

    An odd number of inputs holds a weight a byte.
    """
    bits = layer.kernel_quantizer.stored_bits
    return next((width for width in (2, 4) if bits <= width and inputs * width % 8 == 0), 8)


def product(lowering, output, x, weights, kernel, y, layer):
    """FULLY_CONNECTED over the last axis, with a kernel `(inputs, units)` of 8 bits or, several weights a byte, fewer.

    For few bits this is what XNNPACK has; a 1×1 convolution of 4 bits is on the built-in kernel, which takes far longer.
    """
    scale, rows = ops.convert_to_numpy(weights.scale), np.ascontiguousarray(kernel.T)
    bits = stored_bits(layer, len(kernel)) if x.kind == TensorType.INT8 else 8
    if bits < 8:
        index = lowering.writer.narrow_constant(f"{output.name}/kernel", rows, scale, bits)
        version, since = _NARROW_PRODUCT[bits]
    else:
        index, _ = weight_constants(lowering, output, weights, rows, axis=0)
        version, since = (4 if len(x.shape) == 2 else 5), _PER_CHANNEL_SINCE
        version, since = (7, (2, 17, 0)) if x.kind == TensorType.INT16 else (version, since)
    lowering.operator(
        "FULLY_CONNECTED",
        [x, index, bias_constant(lowering, output, weights, x, scale)],
        y,
        version,
        since,
        options="FullyConnectedOptions",
        keepNumDims=len(x.shape) > 2,
        fusedActivationFunction=fused_activation(layer),
    )
    return y


@lowers(QuantConv1D)
def conv_1d(lowering, layer, x, output):
    on_grid_of_input = dataclasses.replace(output, params=params_of(x))
    x = pad(lowering, x, on_grid_of_input, [(layer.lead, 0), (0, 0)], "padded")
    return conv_2d(lowering, layer, x, output)


def depthwise(lowering, output, x, weights, y, **fields):
    """DEPTHWISE_CONV_2D from `FoldedWeights` with kernel `([h,] w, c, multiplier)`; if that is large, CONV_2D in blocks."""
    kernel = _image_kernel(weights)
    height, width, channels, multiplier = kernel.shape
    if height * width > MOST_TAPS and x.kind == TensorType.INT8:
        blocks = dataclasses.replace(weights, kernel=_in_blocks(kernel))
        return convolution(lowering, output, x, blocks, y, channels // blocks.kernel.shape[2], **fields)
    flat = kernel.reshape(1, height, width, channels * multiplier)
    index, scale = weight_constants(lowering, output, weights, flat, axis=3)
    operands = [x, index, bias_constant(lowering, output, weights, x, scale)]
    options = {**_DEFAULTS, "depthMultiplier": multiplier, **fields}
    version, since = (5, (2, 3, 0)) if x.kind == TensorType.INT16 else (3, (1, 14, 0))
    lowering.operator("DEPTHWISE_CONV_2D", operands, y, version, since, "DepthwiseConv2DOptions", **options)
    return y


def _in_blocks(kernel):
    """A depthwise kernel as that of a convolution in groups of up to `BLOCK` channels, all but the diagonals of them zero.

    Args:
        kernel: `(h, w, channels, multiplier)`.

    Returns:
        `(h, w, block, channels · multiplier)`.
    """
    height, width, channels, multiplier = kernel.shape
    block = channels if channels <= BLOCK else math.gcd(channels, BLOCK)
    place = np.arange(channels).repeat(multiplier) % block
    return kernel.reshape(height, width, 1, -1) * np.eye(block, dtype=kernel.dtype)[:, place]


@lowers(QuantDepthwiseConvolution)
@_on_images
def depthwise_conv_2d(lowering, layer, x, output, y):
    weights = layer.folded_weights(params_of(x), output.params)
    fields = {"fusedActivationFunction": fused_activation(layer), **geometry(layer)}
    return depthwise(lowering, output, x, weights, y, **fields)


@lowers(QuantTransposedConvolution)
@_on_images
def transpose_conv(lowering, layer, x, output, y):
    return convolve_transposed(lowering, layer, x, output, y, layer.folded_weights(params_of(x), output.params))


def convolve_transposed(lowering, layer, x, output, y, weights):
    """A CONV_2D of all phases: a fraction of the time of TRANSPOSE_CONV, which carries its whole output shape as well.

    Args: as of `convolve`, with a kernel `([h,] w, filters, c)`.
    """

    def convolved(x, kernel, phases, shape):
        repeated, made = of_every_phase(weights, phases, kernel), lowering.activation(output, "phases", shape)
        return convolution(lowering, output, x, repeated, made, fusedActivationFunction=fused_activation(layer))

    own = dataclasses.replace(output, params=params_of(x))
    return by_phases(lowering, layer, x, output, own, y.shape[1:], _image_kernel(weights), convolved)


def by_phases(lowering, layer, x, output, own, shape, kernel, convolved):
    """A transposed convolution by a plain one.

    Each window of the input gives the places of the output between two strides, which are put in order behind it.

    Args:
        lowering: `Lowering`.
        layer: of whose geometry height and width count.
        x: `Tensor` `(n, h, w, c)`.
        output: `Output` of the rule, and `own` on the grid of `x`.
        shape: `(h, w, filters)` of what is to be made.
        kernel: `(h, w, filters, c)`.
        convolved: function of the input with its border, a kernel `(taps, taps, c, phases · filters)`, how many phases there
            are, and the shape without batch of what it is to make; it returns that `Tensor`.
    """
    height, width, filters = shape
    sizes = zip((-2, -1), x.shape[1:3], (height, width))
    down, across = (Phases.of(layer, place, size, wanted) for place, size, wanted in sizes)
    border = [(phases.axis.before, max(phases.axis.missing, 0)) for phases in (down, across)]
    x = pad(lowering, x, own, [*border, (0, 0)], "bordered")
    kernel = across.split(down.split(kernel, 0), 2).transpose(0, 2, 5, 1, 3, 4)
    kernel = kernel.reshape(*kernel.shape[:3], -1)
    rows, columns = (size - taps + 1 for size, taps in zip(x.shape[1:3], kernel.shape))
    made = convolved(x, kernel, down.stride * across.stride, (rows, columns, kernel.shape[-1]))
    size = rows * down.stride, columns * across.stride, filters
    if lowering.resizable and down.stride == across.stride > 1:
        made = to_space(lowering, made, lowering.activation(output, "in_order", size), down.stride)
    else:
        made = _in_order(lowering, made, output, down.stride, size)
    ranges = [(phases.skipped, phases.skipped + size) for phases, size in ((down, height), (across, width))]
    return cut(lowering, made, output, [*ranges, (0, filters)], "image")


def _in_order(lowering, x, output, stride, size):
    """The phases of each window, which lie behind one another, at their rows and columns."""
    if stride > 1:
        rows, columns = x.shape[1:3]
        x = lowering.reshape(x, output, (rows, columns, stride, x.shape[-1] // stride), "rows")
        moved = lowering.activation(output, "moved", (rows, stride, columns, x.shape[-1]))
        order = lowering.ints(output, "order", [0, 1, 3, 2, 4])
        lowering.operator("TRANSPOSE", [x, order], moved, 2, (1, 14, 0), "TransposeOptions")
        x = moved
    return lowering.reshape(x, output, size, "in_order")


def of_every_phase(weights, phases, kernel):
    """`FoldedWeights` whose filters are there once for each phase, with the kernel of all of them."""
    every = {name: ops.tile(getattr(weights, name), phases) for name in ("bias", "scale", "multiplier")}
    return dataclasses.replace(weights, kernel=kernel, **every)
