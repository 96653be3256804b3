"""Rules for float convolutions of sequences: those of images, on images of one row."""

import dataclasses
import types

import keras

from keras_quant.tflite import float_weighted as images
from keras_quant.tflite.lower import lowers_float
from keras_quant.tflite.reshape import pad

L = keras.layers


@lowers_float(L.Conv1D)
def conv_1d(lowering, layer, inputs, output):
    lead = layer.dilation_rate[0] * (layer.kernel_size[0] - 1) if layer.padding == "causal" else 0
    x = pad(lowering, *inputs, output, [(lead, 0), (0, 0)], "led")
    return _over_image(images.conv_2d, lowering, layer, x, output)


@lowers_float(L.DepthwiseConv1D)
def depthwise_conv_1d(lowering, layer, inputs, output):
    return _over_image(images.depthwise_conv_2d, lowering, layer, *inputs, output)


@lowers_float(L.Conv1DTranspose)
def transpose_conv_1d(lowering, layer, inputs, output):
    return _over_image(images.transpose_conv, lowering, layer, *inputs, output)


def _over_image(rule, lowering, layer, x, output):
    """Apply the rule of a layer of images."""
    x = lowering.reshape(x, output, (1, *x.shape[1:]), "image")
    row = dataclasses.replace(output, name=f"{output.name}/row", shape=(1, *output.shape))
    return lowering.reshape(rule(lowering, _of_images(layer), [x], row), output, output.shape)


def _of_images(layer):
    """What a rule reads of a layer of images, whose windows are one pixel high."""
    names = ("activation", "afterwards", "bias", "filters", "groups", "padding")
    same = {name: getattr(layer, name, None) for name in names}
    steps = {name: (1, *getattr(layer, name)) for name in ("kernel_size", "strides", "dilation_rate")}
    return types.SimpleNamespace(kernel=layer.kernel[None], **same, **steps)
