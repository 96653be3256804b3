"""Rules for pooling, reductions and resizing."""

import keras
import numpy as np

from keras_quant.errors import ExportError
from keras_quant.integer import nearest_indices
from keras_quant.layers import (
    QuantMax,
    QuantMean,
    QuantMin,
    QuantResize,
    QuantSum,
    QuantUpSampling2D,
)
from keras_quant.layers.pooling import (
    QuantAveragePooling,
    QuantGlobalAveragePooling,
    QuantGlobalMaxPooling,
    QuantMaxPooling,
)
from keras_quant.onnx.conv import in_order, pads_of
from keras_quant.onnx.lower import lowers, lowers_float
from keras_quant.onnx.lowering import Made, axis_in

_REDUCTIONS = {QuantMean: "ReduceMean", QuantSum: "ReduceSum", QuantMin: "ReduceMin", QuantMax: "ReduceMax"}
# The opsets from which on the axes are an operand.
_AXES_SINCE = {"ReduceSum": 13, "ReduceMean": 18, "ReduceMax": 18, "ReduceMin": 18}


@lowers(QuantMaxPooling)
def max_pool(lowering, layer, x, output):
    return _pool(lowering, layer, x, "MaxPool")


@lowers(QuantAveragePooling)
def average_pool(lowering, layer, x, output):
    """Over the whole window where a product by the counts follows, else over its part on the image."""
    if layer.form == "mean":
        return Made(lowering.node("GlobalAveragePool", [lowering.real(x, True)]), True)
    made = _pool(lowering, layer, x, "AveragePool", count_include_pad=int(layer.form == "depthwise"))
    return Made(_mean_on_grid(lowering, x, made.value), True)


def _pool(lowering, layer, x, operator, **attributes):
    pads = in_order(pads_of(layer, x.shape, layer.pool_size))
    window, strides = list(layer.pool_size), list(layer.strides)
    y = lowering.node(operator, [lowering.real(x, True)], kernel_shape=window, strides=strides, pads=pads, **attributes)
    return Made(y, True)


@lowers(QuantGlobalMaxPooling)
def global_max_pool(lowering, layer, x, output):
    return _of_image(lowering, "GlobalMaxPool", x, output)


@lowers(QuantGlobalAveragePooling)
def global_average_pool(lowering, layer, x, output):
    return _of_image(lowering, "GlobalAveragePool", x, output)


def _mean_on_grid(lowering, x, y):
    """A mean of int16 is rounded on the input's grid first, as AVERAGE_POOL_2D does."""
    if x.params.type.storage != "int16":
        return y
    grid = lowering.grid(f"{lowering.path}/pooled", x.params)
    y = lowering.node("QuantizeLinear", [y, *grid], "pooled/quantized")
    return lowering.node("DequantizeLinear", [y, *grid], "pooled/dequantized")


def _of_image(lowering, operator, x, output):
    y = lowering.node(operator, [lowering.real(x, True)])
    y = _mean_on_grid(lowering, x, y) if operator == "GlobalAveragePool" else y
    return Made(y, True) if len(output.shape) == len(x.shape) else Made(lowering.reshape(y, (0, -1)))


@lowers(*_REDUCTIONS)
def reduce(lowering, layer, x, output):
    if isinstance(layer, QuantMean) and tuple(layer.axes) == tuple(range(1, x.rank - 1)) and x.first:
        return _of_image(lowering, "GlobalAveragePool", x, output)
    operator = next(name for cls, name in _REDUCTIONS.items() if isinstance(layer, cls))
    first = x.first and layer.keepdims
    axes = [axis_in(axis, x.rank, first) for axis in layer.axes]
    return Made(reduced(lowering, operator, lowering.real(x, first), axes, layer.keepdims), first)


def reduced(lowering, operator, value, axes, keepdims=True):
    """ReduceMean and its kin, whose axes are an operand or an attribute; returns the name of the result."""
    operands, attributes = [value], {"keepdims": int(keepdims)}
    if lowering.opset >= _AXES_SINCE[operator]:
        operands.append(lowering.ints("axes", axes))
    else:
        attributes["axes"] = axes
    return lowering.node(operator, operands, **attributes)


@lowers(QuantUpSampling2D, QuantResize)
def resize(lowering, layer, x, output):
    if tuple(x.shape) == tuple(output.shape):
        return x
    image, wanted = x.shape[:2], output.shape[:2]
    if layer.interpolation == "bilinear":
        return _resize(lowering, x, wanted, mode="linear", coordinate_transformation_mode="half_pixel")
    if all(size % old == 0 for size, old in zip(wanted, image)):
        return _resize(
            lowering, x, wanted, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
        )
    y = lowering.real(x, True)
    for axis, (old, size) in enumerate(zip(image, wanted), 2):
        y = lowering.node("Gather", [y, lowering.ints("places", nearest_indices(old, size))], axis=axis)
    return Made(y, True)


@lowers_float(keras.layers.UpSampling2D, keras.layers.Resizing)
def float_resize(lowering, layer, inputs, output):
    """tf2onnx rounds sizes of its own making."""
    (x,) = inputs
    if any(getattr(layer, name, False) for name in ("crop_to_aspect_ratio", "pad_to_aspect_ratio", "antialias")):
        return Made(lowering.function(layer, [lowering.real(x, False)], [x.shape]))
    if layer.interpolation not in ("nearest", "bilinear"):
        raise ExportError(f"Layer '{output.name}' interpolates '{layer.interpolation}'. Use 'nearest' or 'bilinear'.")
    made = resize(lowering, layer, x, output)
    return made if isinstance(made, Made) else Made(lowering.real(made), made.first)


def _resize(lowering, x, wanted, **attributes):
    """By scales: ONNX Runtime's transposes mistake sizes for some axes alone, and sizes for all would fix the batch."""
    # The size is the product rounded down, so a scale that is no whole number is the next float32 above the ratio.
    ratios = [np.float32(new / old) for old, new in zip(x.shape, wanted)]
    above = [s if s.is_integer() else np.nextafter(s, np.float32(np.inf)) for s in ratios]
    scales = lowering.constant("scales", np.array([1, 1, *above], np.float32))
    return Made(lowering.node("Resize", [lowering.real(x, True), "", scales], **attributes), True)
