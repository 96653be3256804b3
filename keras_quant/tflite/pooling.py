"""Rules for pooling: MAX_POOL_2D, REDUCE_MAX, MEAN, and DEPTHWISE_CONV_2D or AVERAGE_POOL_2D for averages."""

from keras_quant.layers import (
    QuantAveragePooling2D,
    QuantGlobalAveragePooling2D,
    QuantGlobalMaxPooling2D,
    QuantMaxPooling2D,
)
from keras_quant.tflite.conv import Padding, depthwise, params_of
from keras_quant.tflite.lower import lowers


def _pool(lowering, layer, x, output, name, version, since):
    y = lowering.activation(output)
    lowering.operator(
        name,
        [x],
        y,
        version,
        since,
        "Pool2DOptions",
        padding=Padding.SAME if layer.padding == "same" else Padding.VALID,
        strideH=layer.strides[0],
        strideW=layer.strides[1],
        filterHeight=layer.pool_size[0],
        filterWidth=layer.pool_size[1],
    )
    return y


def _reduce(lowering, x, output, name, version, since, keepdims):
    y = lowering.activation(output)
    axes = lowering.ints(output, "axes", [1, 2])
    lowering.operator(name, [x, axes], y, version, since, "ReducerOptions", keepDims=keepdims)
    return y


@lowers(QuantMaxPooling2D)
def max_pool_2d(lowering, layer, x, output):
    return _pool(lowering, layer, x, output, "MAX_POOL_2D", 2, (1, 14, 0))


@lowers(QuantGlobalMaxPooling2D)
def global_max_pool(lowering, layer, x, output):
    return _reduce(lowering, x, output, "REDUCE_MAX", 2, (1, 14, 0), layer.keepdims)


@lowers(QuantGlobalAveragePooling2D)
def global_average_pool(lowering, layer, x, output):
    return _reduce(lowering, x, output, "MEAN", 2, (1, 14, 0), layer.keepdims)


@lowers(QuantAveragePooling2D)
def average_pool_2d(lowering, layer, x, output):
    if layer.form == "mean":
        return _reduce(lowering, x, output, "MEAN", 2, (1, 14, 0), keepdims=True)
    if layer.form == "average_pool":
        return _pool(lowering, layer, x, output, "AVERAGE_POOL_2D", 2, (1, 14, 0))
    weights = layer.folded_weights(params_of(x), output.params, x.shape[-1])
    y = lowering.activation(output)
    return depthwise(lowering, output, x, weights, y, strideH=layer.strides[0], strideW=layer.strides[1])
