"""Rules for pooling: MAX_POOL_2D, REDUCE_MAX, MEAN, and DEPTHWISE_CONV_2D for averages."""

import numpy as np

from keras_quant.integer import FoldedWeights
from keras_quant.layers import (
    QuantAveragePooling2D,
    QuantGlobalAveragePooling2D,
    QuantGlobalMaxPooling2D,
    QuantMaxPooling2D,
)
from keras_quant.tflite.conv import depthwise, padding, params_of
from keras_quant.tflite.lower import lowers
from keras_quant.tflite.reduce import reduce


def _pool(lowering, layer, x, output, name, version, since):
    y = lowering.activation(output)
    lowering.operator(
        name,
        [x],
        y,
        version,
        since,
        "Pool2DOptions",
        padding=padding(layer),
        strideH=layer.strides[0],
        strideW=layer.strides[1],
        filterHeight=layer.pool_size[0],
        filterWidth=layer.pool_size[1],
    )
    return y


@lowers(QuantMaxPooling2D)
def max_pool_2d(lowering, layer, x, output):
    if tuple(layer.pool_size) == (1, 1):
        return _every_nth(lowering, layer, x, output)
    return _pool(lowering, layer, x, output, "MAX_POOL_2D", 2, (1, 14, 0))


def _every_nth(lowering, layer, x, output):
    """Every n-th pixel: a depthwise convolution with weight 1, exact on the input's own grid."""
    channels = x.shape[-1]
    ones, zeros = np.ones(channels, np.float32), np.zeros(channels)
    weights = FoldedWeights(np.ones((1, 1, channels, 1), np.float32), zeros, ones, ones)
    y = lowering.activation(output)
    return depthwise(lowering, output, x, weights, y, strideH=layer.strides[0], strideW=layer.strides[1])


@lowers(QuantGlobalMaxPooling2D)
def global_max_pool(lowering, layer, x, output):
    return reduce(lowering, x, output, "REDUCE_MAX", 2, (1, 14, 0), (1, 2), layer.keepdims)


@lowers(QuantGlobalAveragePooling2D)
def global_average_pool(lowering, layer, x, output):
    return reduce(lowering, x, output, "MEAN", 2, (1, 14, 0), (1, 2), layer.keepdims)


@lowers(QuantAveragePooling2D)
def average_pool_2d(lowering, layer, x, output):
    if layer.form == "mean":
        return reduce(lowering, x, output, "MEAN", 2, (1, 14, 0), (1, 2), keepdims=True)
    weights = layer.folded_weights(params_of(x), output.params, x.shape[-1])
    y = lowering.activation(output)
    strides = {"strideH": layer.strides[0], "strideW": layer.strides[1]}
    return depthwise(lowering, output, x, weights, y, padding=padding(layer), **strides)
