"""Rules for float layers with weights, in float32 and in float16."""

import dataclasses
import types

import keras
import numpy as np
from keras import ops

from keras_quant.errors import ExportError
from keras_quant.integer.axis import axes
from keras_quant.integer.phases import Phases
from keras_quant.layers.weighted import gain_and_shift
from keras_quant.tflite.conv import AT_EACH_PIXEL, Padding, by_phases, fused_code, geometry
from keras_quant.tflite.float_elementwise import activate, before_activation, check_activation, scale_and_shift
from keras_quant.tflite.lower import lowers_float
from keras_quant.tflite.volumes import frames_of, image_kernel, images, in_order, phase_kernel

L = keras.layers


def weights(lowering, output, name, array):
    """A constant; of a float16 layer as FLOAT16 and DEQUANTIZE, which XNNPACK resolves when it loads the file."""
    array = np.ascontiguousarray(array, np.float32)
    if output.dtype != "float16":
        return lowering.writer.constant(f"{output.name}/{name}", array)
    stored = lowering.writer.constant(f"{output.name}/{name}_float16", array.astype(np.float16))
    unpacked = lowering.writer.unpacked(f"{output.name}/{name}", array.shape)
    lowering.operator("DEQUANTIZE", [stored], unpacked, 3, (2, 1, 0))
    return unpacked


def bias_of(lowering, output, units, values):
    array = np.zeros(units) if values is None else ops.convert_to_numpy(values)
    return weights(lowering, output, "bias", array)


def _activation(layer):
    """What is applied to the product; of a quantized layer's activations most are layers behind it."""
    return keras.activations.linear if getattr(layer, "afterwards", None) else layer.activation


def weighted(lowering, layer, output, name, operands, version, since, options, **fields):
    """An operator with weights, and the activation, fused or behind it."""
    activation = _activation(layer)
    check_activation(activation, output)
    y, code = before_activation(lowering, output, activation)
    lowering.operator(name, operands, y, version, since, options, fusedActivationFunction=code, **fields)
    return y if y.name == output.name or code else activate(lowering, y, output, activation)


@lowers_float(L.Dense)
def dense(lowering, layer, inputs, output):
    kernel = weights(lowering, output, "kernel", ops.convert_to_numpy(layer.kernel).T)
    return fully_connected(lowering, layer, inputs, output, kernel, 2 if len(output.shape) > 1 else 1, (1, 10, 0))


def fully_connected(lowering, layer, inputs, output, kernel, version, since, **fields):
    """FULLY_CONNECTED with a kernel that is in the file."""
    operands = [*inputs, kernel, bias_of(lowering, output, layer.units, layer.bias)]
    fields |= {"keepNumDims": len(output.shape) > 1}
    return weighted(lowering, layer, output, "FULLY_CONNECTED", operands, version, since, "FullyConnectedOptions", **fields)


@lowers_float(L.Conv2D)
def conv_2d(lowering, layer, inputs, output):
    kernel = weights(lowering, output, "kernel", ops.convert_to_numpy(layer.kernel).transpose(3, 0, 1, 2))
    operands = [*inputs, kernel, bias_of(lowering, output, layer.filters, layer.bias)]
    version, since = (1, (1, 5, 0)) if layer.groups == 1 else (6, (2, 9, 0))
    return weighted(lowering, layer, output, "CONV_2D", operands, version, since, "Conv2DOptions", **geometry(layer))


@lowers_float(L.Conv3D)
def conv_3d(lowering, layer, inputs, output):
    """As on int8, by a CONV_2D over images: it stays on XNNPACK and takes about half the time of CONV_3D."""
    (x,) = inputs
    depth, *_ = axes(layer, x.shape[1:-1], output.shape[:-1])
    frames = frames_of(output, depth.outputs)
    kernel = weights(lowering, output, "kernel", image_kernel(layer.kernel).transpose(3, 0, 1, 2))
    operands = [images(lowering, x, output, depth, layer.groups), kernel]
    operands.append(bias_of(lowering, output, layer.filters, layer.bias))
    version, since = (1, (1, 5, 0)) if layer.groups == 1 else (6, (2, 9, 0))
    y = weighted(lowering, layer, frames, "CONV_2D", operands, version, since, "Conv2DOptions", **geometry(layer))
    return lowering.reshape(y, output, output.shape)


@lowers_float(L.DepthwiseConv2D)
def depthwise_conv_2d(lowering, layer, inputs, output):
    return _depthwise(lowering, layer, *inputs, output, layer.kernel, layer.bias)


def _depthwise(lowering, layer, x, output, kernel, bias):
    height, width, channels, multiplier = kernel.shape
    flat = ops.convert_to_numpy(kernel).reshape(1, height, width, channels * multiplier)
    operands = [x, weights(lowering, output, "kernel", flat)]
    operands.append(bias_of(lowering, output, channels * multiplier, bias))
    fields = {"depthMultiplier": multiplier, **geometry(layer)}
    return weighted(
        lowering, layer, output, "DEPTHWISE_CONV_2D", operands, 2, (1, 12, 0), "DepthwiseConv2DOptions", **fields
    )


@lowers_float(L.SeparableConv2D)
def separable_conv_2d(lowering, layer, inputs, output):
    (x,) = inputs
    window = types.SimpleNamespace(
        activation=keras.activations.linear,
        **{name: getattr(layer, name) for name in ("strides", "padding", "dilation_rate")},
    )
    shape = (*output.shape[:-1], layer.depthwise_kernel.shape[2] * layer.depthwise_kernel.shape[3])
    between = dataclasses.replace(output, name=f"{output.name}/depthwise", shape=shape)
    x = _depthwise(lowering, window, x, between, layer.depthwise_kernel, None)
    kernel = ops.convert_to_numpy(layer.pointwise_kernel).transpose(3, 0, 1, 2)
    kernel = weights(lowering, output, "pointwise_kernel", kernel)
    operands = [x, kernel, bias_of(lowering, output, layer.filters, layer.bias)]
    fields = {"padding": Padding.VALID, "strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1}
    return weighted(lowering, layer, output, "CONV_2D", operands, 1, (1, 5, 0), "Conv2DOptions", **fields)


@lowers_float(L.Conv2DTranspose)
def transpose_conv(lowering, layer, inputs, output):
    return _transposed(lowering, layer, *inputs, output, layer.kernel, layer.bias)


@lowers_float(L.Conv3DTranspose)
def transpose_conv_3d(lowering, layer, inputs, output):
    (x,) = inputs
    phases = Phases.of(layer, -3, x.shape[1], output.shape[0])
    frames = frames_of(output, phases.axis.outputs)
    frames = dataclasses.replace(frames, shape=(*frames.shape[:-1], phases.stride * frames.shape[-1]))
    bias = None if layer.bias is None else np.tile(ops.convert_to_numpy(layer.bias), phases.stride)
    x = images(lowering, x, output, phases.axis)
    y = _transposed(lowering, layer, x, frames, phase_kernel(phases, layer.kernel), bias)
    return in_order(lowering, y, output, phases)


def _transposed(lowering, layer, x, output, kernel, bias):
    constant = lambda kernel, phases: weights(lowering, output, "kernel", kernel)
    return transposed(lowering, layer, x, output, ops.convert_to_numpy(kernel), bias, constant, 1, (1, 5, 0))


def transposed(lowering, layer, x, output, kernel, bias, constant, version, since):
    """CONV_2D for all phases of a kernel `(h, w, filters, c)`: a fraction of the time of XNNPACK's TRANSPOSE_CONV.

    Args:
        constant: function of a kernel `(phases · filters, taps, taps, c)` and the number of phases to the file's tensor.
        version, since: of CONV_2D, as of `weighted`.
    """
    function = _activation(layer)
    is_fused = fused_code(function) is not None
    window = layer if is_fused else types.SimpleNamespace(activation=keras.activations.linear)

    def convolved(x, kernel, phases, shape):
        own = None if bias is None else np.tile(ops.convert_to_numpy(bias), phases)
        operands = [x, constant(kernel.transpose(3, 0, 1, 2), phases), bias_of(lowering, output, shape[-1], own)]
        made = dataclasses.replace(output, name=f"{output.name}/phases", shape=shape)
        return weighted(lowering, window, made, "CONV_2D", operands, version, since, "Conv2DOptions", **AT_EACH_PIXEL)

    y = by_phases(lowering, layer, x, output, output, output.shape, kernel, convolved)
    # Softmax wants the channels of one place, not those of all phases.
    return y if is_fused else activate(lowering, y, output, function)


@lowers_float(L.BatchNormalization)
def batch_normalization(lowering, layer, inputs, output):
    if layer.axis not in (-1, len(output.shape)):
        raise ExportError(f"Layer '{output.name}' normalizes along axis {layer.axis}. Use `axis=-1`.")
    gain, shift = (ops.convert_to_numpy(v) for v in gain_and_shift(layer))
    return scale_and_shift(lowering, *inputs, output, gain, shift)
