"""Rules for pooling: MAX_POOL_2D, REDUCE_MAX, MEAN, and DEPTHWISE_CONV_2D for averages."""

import numpy as np

from keras_quant.integer import FoldedWeights
from keras_quant.layers import (
    QuantAveragePooling2D,
    QuantGlobalAveragePooling2D,
    QuantGlobalMaxPooling2D,
    QuantMaxPooling2D,
)
from keras_quant.tflite.conv import Padding, depthwise, padding
from keras_quant.tflite.lower import lowers, params_of
from keras_quant.tflite.reduce import reduce
from keras_quant.tflite.relu import requantize
from keras_quant.tflite.writer import TensorType

_POOL_VERSIONS = {
    TensorType.FLOAT32: (1, (1, 5, 0)),
    TensorType.INT8: (2, (1, 14, 0)),
    TensorType.INT16: (3, (2, 3, 0)),
}


def pool(lowering, x, y, name, window, strides, padding):
    """A pooling operator of real numbers, int8 or int16."""
    lowering.operator(
        name,
        [x],
        y,
        *_POOL_VERSIONS[x.kind],
        "Pool2DOptions",
        padding=padding,
        strideH=strides[0],
        strideW=strides[1],
        filterHeight=window[0],
        filterWidth=window[1],
    )
    return y


def _mean_int16(lowering, x, output, window, strides, padding, shape):
    """AVERAGE_POOL_2D, which keeps the grid, and QUANTIZE."""
    pooled = pool(
        lowering, x, lowering.activation(output, "pooled", shape, params_of(x)), "AVERAGE_POOL_2D", window, strides, padding
    )
    moved = requantize(lowering, pooled, lowering.activation(output, "moved", shape))
    return lowering.reshape(moved, output, output.shape)


@lowers(QuantMaxPooling2D)
def max_pool_2d(lowering, layer, x, output):
    return pool_images(lowering, x, output, "MAX_POOL_2D", layer.pool_size, layer.strides, padding(layer))


def pool_images(lowering, x, output, name, window, strides, padding):
    """A pooling operator, or what it amounts to where the window is a single element."""
    if tuple(window) == tuple(strides) == (1, 1):
        return x
    if tuple(window) == (1, 1) and x.kind == TensorType.INT8:
        return _every_nth(lowering, x, output, strides)
    return pool(lowering, x, lowering.activation(output), name, window, strides, padding)


def _every_nth(lowering, x, output, strides):
    """Every n-th pixel: a depthwise convolution with weight 1, exact on the input's own grid."""
    channels = x.shape[-1]
    ones, zeros = np.ones(channels, np.float32), np.zeros(channels)
    weights = FoldedWeights(np.ones((1, 1, channels, 1), np.float32), zeros, ones, ones)
    y = lowering.activation(output)
    return depthwise(lowering, output, x, weights, y, strideH=strides[0], strideW=strides[1])


@lowers(QuantGlobalMaxPooling2D)
def global_max_pool(lowering, layer, x, output):
    return global_maximum(lowering, x, output, layer.keepdims)


def global_maximum(lowering, x, output, keepdims):
    """The maximum over an image."""
    return reduce(lowering, x, output, "REDUCE_MAX", 2, (1, 14, 0), (1, 2), keepdims)


@lowers(QuantGlobalAveragePooling2D)
def global_average_pool(lowering, layer, x, output):
    return global_average(lowering, x, output, layer.keepdims)


def global_average(lowering, x, output, keepdims):
    """The mean over an image."""
    if x.kind == TensorType.INT16:
        image = x.shape[1:3]
        return _mean_int16(lowering, x, output, image, image, Padding.VALID, (1, 1, x.shape[-1]))
    return reduce(lowering, x, output, "MEAN", 2, (1, 14, 0), (1, 2), keepdims)


@lowers(QuantAveragePooling2D)
def average_pool_2d(lowering, layer, x, output):
    if layer.form == "pool":
        return _mean_int16(lowering, x, output, layer.pool_size, layer.strides, padding(layer), output.shape)
    if layer.form == "mean":
        return reduce(lowering, x, output, "MEAN", 2, (1, 14, 0), (1, 2), keepdims=True)
    weights = layer.folded_weights(params_of(x), output.params, x.shape[-1])
    y = lowering.activation(output)
    strides = {"strideH": layer.strides[0], "strideW": layer.strides[1]}
    return depthwise(lowering, output, x, weights, y, padding=padding(layer), **strides)
