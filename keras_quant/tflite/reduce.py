"""Rules for reductions: MEAN, SUM, REDUCE_MAX, REDUCE_MIN."""

from keras_quant.layers import QuantMax, QuantMean, QuantMin, QuantSum
from keras_quant.tflite.lower import lowers


def reduce(lowering, x, output, name, version, since, axes, keepdims):
    """Reduce over `axes`."""
    y = lowering.activation(output)
    axes = lowering.ints(output, "axes", axes)
    lowering.operator(name, [x, axes], y, version, since, "ReducerOptions", keepDims=keepdims)
    return y


@lowers(QuantMean)
def mean(lowering, layer, x, output):
    return reduce(lowering, x, output, "MEAN", 2, (1, 14, 0), layer.axes, layer.keepdims)


@lowers(QuantSum)
def sum(lowering, layer, x, output):
    return reduce(lowering, x, output, "SUM", 2, (1, 15, 0), layer.axes, layer.keepdims)


@lowers(QuantMax)
def reduce_max(lowering, layer, x, output):
    return reduce(lowering, x, output, "REDUCE_MAX", 2, (1, 14, 0), layer.axes, layer.keepdims)


@lowers(QuantMin)
def reduce_min(lowering, layer, x, output):
    return reduce(lowering, x, output, "REDUCE_MIN", 2, (1, 14, 0), layer.axes, layer.keepdims)
