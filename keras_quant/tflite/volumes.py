"""Rules for layers of volumes, by operators of images: XNNPACK has none of three dimensions on int8.

The images of a volume lie in the batch, each with its neighbours in depth beside it on channels:

    (n, d, h, w, c) ──windows along depth──► (n, d', h·w, kd·c) ──RESHAPE──► (n·d', h, w, kd·c) ──CONV_2D──► …
"""

import dataclasses

from keras import ops

from keras_quant.integer.axis import axes, axis
from keras_quant.integer.phases import Phases
from keras_quant.layers import (
    QuantAveragePooling3D,
    QuantConv3D,
    QuantConv3DTranspose,
    QuantGlobalAveragePooling3D,
    QuantGlobalMaxPooling3D,
    QuantMaxPooling3D,
)
from keras_quant.tflite.columns import in_columns, kernel_of_columns, outputs_of_block
from keras_quant.tflite.conv import (
    Padding,
    convolve,
    convolve_transposed,
    depthwise,
    fused_activation,
    of_every_phase,
    over_columns,
    padding,
)
from keras_quant.tflite.lower import lowers, params_of
from keras_quant.tflite.pooling import global_average, global_maximum, pool_images
from keras_quant.tflite.reshape import cut, pad
from keras_quant.tflite.windows import windows_of_rows


@lowers(QuantConv3D)
def conv_3d(lowering, layer, x, output):
    weights = layer.folded_weights(params_of(x), output.params)
    depth, height, width = axes(layer, x.shape[1:-1], output.shape[:-1])
    if layer.groups == x.shape[-1] > 1 and width.dilation == 1:
        return _by_channel(lowering, layer, x, output, weights, (depth, height, width))
    frames = frames_of(output, depth.outputs)
    outputs = outputs_of_block(depth.taps * x.shape[-1], output.shape[-1], height, width)
    if outputs and layer.groups == 1 and layer.kernel_quantizer.stored_bits > 4 and not lowering.resizable:
        x = images(lowering, in_columns(lowering, x, output, height, width, outputs), output, depth)
        kernel = kernel_of_columns(ops.convert_to_numpy(weights.kernel), width, outputs)
        weights = of_every_phase(weights, outputs, kernel)
        y = over_columns(lowering, layer, frames, x, weights, lowering.activation(frames), height)
        return lowering.reshape(y, output, output.shape)
    x = images(lowering, x, output, depth, layer.groups)
    weights = dataclasses.replace(weights, kernel=image_kernel(weights.kernel))
    y = convolve(lowering, layer, x, frames, lowering.activation(frames), weights)
    return lowering.reshape(y, output, output.shape)


def images(lowering, x, output, depth, groups=1):
    """The images of a volume as a batch, the windows along depth on channels.

    Args:
        lowering: `Lowering`.
        x: `Tensor` `(n, d, h, w, c)`.
        output: `Output` of the rule.
        depth: `Axis`.
        groups: of channels, each with its own window.

    Returns:
        `Tensor` `(n·d', h, w, groups·kd·c/groups)` on the grid of `x`.
    """
    _, _, height, width, channels = x.shape
    own = dataclasses.replace(output, params=params_of(x))
    if (depth.taps, depth.stride) != (1, 1):
        x = lowering.reshape(x, own, (depth.size, height * width * groups, channels // groups), "planes")
        x = pad(lowering, x, own, [depth.padding, (0, 0), (0, 0)], "deep")
        x = windows_of_rows(lowering, x, own, depth)
    return lowering.reshape(x, frames_of(own, depth.outputs), (height, width, depth.taps * channels), "images")


def frames_of(output, depth):
    """The `Output` of which each volume is `depth` images in the batch."""
    return dataclasses.replace(output, shape=output.shape[1:], rows=output.rows * depth)


def image_kernel(kernel):
    """A kernel `(kd, h, w, c, f)` over `images`: `(h, w, kd·c, f)`."""
    kernel = ops.convert_to_numpy(kernel).transpose(1, 2, 0, 3, 4)
    return kernel.reshape(*kernel.shape[:2], -1, kernel.shape[-1])


def _side_by_side(lowering, x, output, places):
    """The images of each window side by side: as `images`, but `(n·d', h, w·kd, c)`, with the zeros around it written out.

    A window of `(kd, kh, kw)` is one of `(kh, kw·kd)` then, and each channel stays one.
    """
    depth, *image = places
    channels = x.shape[-1]
    x = images(lowering, x, output, depth)
    frames = frames_of(dataclasses.replace(output, params=params_of(x)), depth.outputs)
    border = [(a.before, max(a.missing, 0)) for a in image]
    x = pad(lowering, x, frames, [*border, (0, 0)], "bordered")
    _, height, width, _ = x.shape
    return lowering.reshape(x, frames, (height, width * depth.taps, channels), "side_by_side")


def _by_channel(lowering, layer, x, output, weights, places):
    """A convolution with a group for each channel."""
    depth, height, width = places
    kernel = ops.convert_to_numpy(weights.kernel).transpose(1, 2, 0, 3, 4)
    kernel = kernel.reshape(height.taps, width.taps * depth.taps, x.shape[-1], -1)
    weights = dataclasses.replace(weights, kernel=kernel)
    fields = {"fusedActivationFunction": fused_activation(layer), "dilationHFactor": height.dilation}
    return _depthwise(lowering, x, output, weights, places, **fields)


def _depthwise(lowering, x, output, weights, places, **fields):
    """DEPTHWISE_CONV_2D of a kernel `(kh, kw·kd, c, multiplier)` over images side by side."""
    depth, height, width = places
    x = _side_by_side(lowering, x, output, places)
    frames = frames_of(output, depth.outputs)
    strides = {"strideH": height.stride, "strideW": width.stride * depth.taps}
    y = lowering.activation(frames)
    y = depthwise(lowering, frames, x, weights, y, padding=Padding.VALID, **strides, **fields)
    return lowering.reshape(y, output, output.shape)


@lowers(QuantConv3DTranspose)
def conv_3d_transpose(lowering, layer, x, output):
    """All images that lie between two strides at once, as channels of one convolution, and then one after the other."""
    weights, phases = layer.folded_weights(params_of(x), output.params), Phases.of(layer, -3, x.shape[1], output.shape[0])
    x = images(lowering, x, output, phases.axis)
    frames = frames_of(output, phases.axis.outputs)
    weights = of_every_phase(weights, phases.stride, phase_kernel(phases, weights.kernel))
    y = lowering.activation(frames, shape=(*frames.shape[:-1], phases.stride * frames.shape[-1]))
    return in_order(lowering, convolve_transposed(lowering, layer, x, frames, y, weights), output, phases)


def phase_kernel(phases, kernel):
    """A kernel `(kd, h, w, filters, c)` over `images` along `phases.axis`: `(h, w, stride·filters, taps·c)`."""
    _, height, width, filters, channels = kernel.shape
    split = phases.split(ops.convert_to_numpy(kernel), 0).transpose(2, 3, 1, 4, 0, 5)
    return split.reshape(height, width, phases.stride * filters, phases.axis.taps * channels)


def in_order(lowering, y, output, phases):
    """`(n·q, h, w, stride·f)` as `(n, d, h, w, f)`."""
    depth, height, width, filters = output.shape
    frames = frames_of(output, phases.axis.outputs)
    if phases.stride > 1:
        y = lowering.reshape(y, frames, (height * width, phases.stride, filters), "phases")
        moved = lowering.activation(frames, "moved", (phases.stride, height * width, filters))
        order = lowering.ints(output, "order", [0, 2, 1, 3])
        lowering.operator("TRANSPOSE", [y, order], moved, 2, (1, 14, 0), "TransposeOptions")
        y = moved
    y = lowering.reshape(y, output, (phases.axis.outputs * phases.stride, height * width, filters), "deep")
    own = phases.skipped, phases.skipped + depth
    y = cut(lowering, y, output, [own, (0, height * width), (0, filters)], "depth")
    return lowering.reshape(y, output, output.shape)


@lowers(QuantMaxPooling3D)
def max_pool_3d(lowering, layer, x, output):
    return pool_volume(lowering, layer, x, output, "MAX_POOL_2D")


def pool_volume(lowering, layer, x, output, name):
    """A pooling operator over images, and then over depth."""
    (deep, *window), (step, *strides) = layer.pool_size, layer.strides
    depth, height, width, channels = output.shape
    frames = frames_of(output, x.shape[1])
    x = lowering.reshape(x, frames, x.shape[2:], "images")
    pooled = pool_images(lowering, x, frames, name, window, strides, padding(layer))
    planes = dataclasses.replace(output, shape=(depth, height * width, channels))
    x = lowering.reshape(pooled, planes, (frames.rows // output.rows, height * width, channels), "planes")
    x = pool_images(lowering, x, planes, name, (deep, 1), (step, 1), padding(layer))
    return lowering.reshape(x, output, output.shape)


@lowers(QuantAveragePooling3D)
def average_pool_3d(lowering, layer, x, output):
    if layer.form == "mean":
        return _over_all(lowering, x, output, global_average)
    weights = layer.folded_weights(params_of(x), output.params, x.shape[-1])
    sizes = zip(x.shape[1:-1], output.shape[:-1], layer.pool_size, layer.strides)
    places = [axis(*size, same=layer.padding == "same") for size in sizes]
    depth, height, width = places
    # All taps are alike, so their order is no matter.
    kernel = ops.reshape(weights.kernel, (height.taps, width.taps * depth.taps, x.shape[-1], 1))
    return _depthwise(lowering, x, output, dataclasses.replace(weights, kernel=kernel), places)


@lowers(QuantGlobalAveragePooling3D)
def global_average_pool_3d(lowering, layer, x, output):
    return _over_all(lowering, x, output, global_average)


@lowers(QuantGlobalMaxPooling3D)
def global_max_pool_3d(lowering, layer, x, output):
    return _over_all(lowering, x, output, global_maximum)


def _over_all(lowering, x, output, reduction):
    """A reduction over depth, height and width: over an image of all of them, which every runtime has."""
    depth, height, width, channels = x.shape[1:]
    x = lowering.reshape(x, output, (depth * height, width, channels), "image")
    flat = dataclasses.replace(output, shape=(channels,))
    return lowering.reshape(reduction(lowering, x, flat, keepdims=False), output, output.shape)
