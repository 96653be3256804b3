"""Rules for layers that quantize activations as they run: XNNPACK's kernels `qd8-f32`, real numbers by integer weights."""

import dataclasses

import numpy as np
from keras import ops

from keras_quant.integer.axis import axes
from keras_quant.integer.phases import Phases
from keras_quant.layers import (
    DynamicConv1D,
    DynamicConv1DTranspose,
    DynamicConv2D,
    DynamicConv2DTranspose,
    DynamicConv3D,
    DynamicConv3DTranspose,
    DynamicDense,
)
from keras_quant.quantizers.weight import integers_and_scale
from keras_quant.tflite.conv import geometry
from keras_quant.tflite.float_weighted import bias_of, fully_connected, transposed, weighted
from keras_quant.tflite.lower import lowers_float
from keras_quant.tflite.reshape import pad
from keras_quant.tflite.volumes import frames_of, image_kernel, images, in_order, phase_kernel

# Version of CONV_2D and the release that computes it, by measurement that of groups.
_PLAIN, _GROUPED = (5, (2, 4, 0)), (6, (2, 14, 0))


@lowers_float(DynamicDense)
def dense(lowering, layer, inputs, output):
    rows, scale = _integers(layer)
    rows = np.ascontiguousarray(rows.T)
    size, since = layer.kernel_quantizer.group_size, (2, 17, 0)
    if size is not None:
        kernel, since = lowering.writer.grouped_constant(f"{output.name}/kernel", rows, scale.T, size), (2, 21, 0)
    elif layer.kernel_quantizer.stored_bits <= 4 and rows.shape[1] % 2 == 0:
        kernel = lowering.writer.narrow_constant(f"{output.name}/kernel", rows, scale, 4)
    else:
        kernel = lowering.writer.constant(f"{output.name}/kernel", rows, scale)
    return fully_connected(lowering, layer, inputs, output, kernel, 12, since, asymmetricQuantizeInputs=True)


@lowers_float(DynamicConv2D)
def conv_2d(lowering, layer, inputs, output):
    kernel, scale = _integers(layer)
    return _convolution(lowering, layer, *inputs, output, kernel, scale)


def _convolution(lowering, layer, x, output, kernel, scale):
    """CONV_2D with a kernel `(h, w, c / groups, filters)`."""
    kernel = lowering.writer.constant(f"{output.name}/kernel", kernel.transpose(3, 0, 1, 2), scale)
    operands = [x, kernel, bias_of(lowering, output, layer.filters, layer.bias)]
    version = _PLAIN if layer.groups == 1 else _GROUPED
    return weighted(lowering, layer, output, "CONV_2D", operands, *version, "Conv2DOptions", **geometry(layer))


@lowers_float(DynamicConv1D)
def conv_1d(lowering, layer, inputs, output):
    x = pad(lowering, *inputs, output, [(layer.lead, 0), (0, 0)], "padded")
    kernel, scale = _integers(layer)
    x, row = _row(lowering, x, output)
    return lowering.reshape(_convolution(lowering, layer, x, row, kernel[None], scale), output, output.shape)


def _row(lowering, x, output):
    """A sequence as an image of one row, and the `Output` of one."""
    x = lowering.reshape(x, output, (1, *x.shape[1:]), "image")
    return x, dataclasses.replace(output, shape=(1, *output.shape))


@lowers_float(DynamicConv3D)
def conv_3d(lowering, layer, inputs, output):
    (x,) = inputs
    kernel, scale = _integers(layer)
    depth, *_ = axes(layer, x.shape[1:-1], output.shape[:-1])
    x, frames = images(lowering, x, output, depth, layer.groups), frames_of(output, depth.outputs)
    return lowering.reshape(_convolution(lowering, layer, x, frames, image_kernel(kernel), scale), output, output.shape)


@lowers_float(DynamicConv2DTranspose)
def transpose_conv(lowering, layer, inputs, output):
    return _transposed(lowering, layer, *inputs, output, *_integers(layer), layer.bias)


@lowers_float(DynamicConv1DTranspose)
def transpose_conv_1d(lowering, layer, inputs, output):
    kernel, scale = _integers(layer)
    x, row = _row(lowering, *inputs, output)
    y = _transposed(lowering, layer, x, row, kernel[None], scale, layer.bias)
    return lowering.reshape(y, output, output.shape)


@lowers_float(DynamicConv3DTranspose)
def transpose_conv_3d(lowering, layer, inputs, output):
    (x,) = inputs
    kernel, scale = _integers(layer)
    phases = Phases.of(layer, -3, x.shape[1], output.shape[0])
    frames = frames_of(output, phases.axis.outputs)
    frames = dataclasses.replace(frames, shape=(*frames.shape[:-1], phases.stride * frames.shape[-1]))
    bias = None if layer.bias is None else np.tile(ops.convert_to_numpy(layer.bias), phases.stride)
    x = images(lowering, x, output, phases.axis)
    kernel, scale = phase_kernel(phases, kernel), np.tile(scale, phases.stride)
    return in_order(lowering, _transposed(lowering, layer, x, frames, kernel, scale, bias), output, phases)


def _transposed(lowering, layer, x, output, kernel, scale, bias):
    """Of a kernel `(h, w, filters, c)`."""
    name = f"{output.name}/kernel"
    constant = lambda kernel, phases: lowering.writer.constant(name, kernel, np.tile(scale, phases))
    return transposed(lowering, layer, x, output, kernel, bias, constant, *_PLAIN)


def _integers(layer):
    """int8 integers of a layer's kernel, in the Keras layout, and the scales of its output channels."""
    integers, scale = integers_and_scale(layer.kernel_quantizer, layer.kernel, layer.kernel_axes)
    return ops.convert_to_numpy(integers).astype(np.int8), ops.convert_to_numpy(scale)
