"""Convolutions, pooling and batch normalization."""

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_quant.backend.graph_functions.operator import Plan, is_symbolic, reads, recognizes


@reads("Conv2D", "Conv3D")
def _conv(operator, x, kernel):
    x, padding = _padded(operator, x)
    return ops.conv(x, kernel, _of_space(operator, "strides"), padding, "channels_last", _of_space(operator, "dilations"))


@reads("DepthwiseConv2dNative")
def _depthwise_conv(operator, x, kernel):
    x, padding = _padded(operator, x)
    strides, dilation = _of_space(operator, "strides"), _of_space(operator, "dilations")
    return ops.depthwise_conv(x, kernel, strides, padding, "channels_last", dilation)


@reads("Conv2DBackpropInput", "Conv3DBackpropInputV2")
def _conv_transpose(operator, sizes, kernel, x):
    """The gradient of a convolution is the transposed one."""
    x, padding = _padded(operator, x, transposed=True)
    strides, dilation = _of_space(operator, "strides"), _of_space(operator, "dilations")
    wanted = operator.output_shape
    for extra in (None, *range(max(strides))):
        y = ops.conv_transpose(x, kernel, strides, padding, extra, "channels_last", dilation)
        if tuple(y.shape[1:]) == wanted[1:]:
            return y
    operator.refuse(f"gives another size than `keras.ops.conv_transpose` can. Received: output_shape={wanted}")


def _padded(operator, x, transposed=False):
    """The images, with a border where the operator gives its widths, and the padding that is left."""
    if operator.attribute("data_format") not in ("NHWC", "NDHWC"):
        operator.refuse("works on channels that come first. Let them come last, `data_format='NHWC'`.")
    padding = operator.attribute("padding").lower()
    if padding != "explicit":
        return x, padding
    if transposed:
        operator.refuse("has widths for padding. Use 'SAME' or 'VALID', and cut off what is too much.")
    widths = np.reshape(operator.attribute("explicit_paddings"), (-1, 2)).tolist()
    return ops.pad(x, [tuple(pair) for pair in widths]), "valid"


def _of_space(operator, name):
    return tuple(operator.attribute(name)[1:-1])


@recognizes("Squeeze")
def _conv_of_sequences(operation):
    """`tf.nn.conv1d`: a convolution of images that are one pixel high."""
    conv = operation.inputs[0].op
    if conv.type != "Conv2D" or conv.get_attr("padding") == b"EXPLICIT" or conv.get_attr("data_format") != b"NHWC":
        return None
    image, kernel = (x.op for x in conv.inputs)
    if image.type != "ExpandDims" or kernel.type != "ExpandDims":
        return None
    axes = [tf.get_static_value(x.inputs[1]) for x in (image, kernel)]
    if None in axes or axes[0] % 4 != 1 or axes[1] % 4 != 0 or operation.get_attr("squeeze_dims") not in ([1], [-3]):
        return None
    strides, dilation = (conv.get_attr(name)[2] for name in ("strides", "dilations"))
    padding = conv.get_attr("padding").decode().lower()
    rule = lambda operator, x, kernel: ops.conv(x, kernel, strides, padding, "channels_last", dilation)
    return Plan([image.inputs[0], kernel.inputs[0]], rule)


@recognizes("BatchToSpaceND")
def _dilated(operation):
    """A dilated convolution that TensorFlow makes of one without gaps, on a tensor for each place of the gaps."""
    conv = operation.inputs[0].op
    if conv.type not in ("DepthwiseConv2dNative", "Conv2D") or conv.inputs[0].op.type != "SpaceToBatchND":
        return None
    apart = conv.inputs[0].op
    rates, padding = (tf.get_static_value(x) for x in apart.inputs[1:])
    crops = tf.get_static_value(operation.inputs[2])
    if rates is None or padding is None or crops is None or conv.get_attr("data_format") != b"NHWC":
        return None
    x, y, kernel = apart.inputs[0], operation.outputs[0], conv.inputs[1]
    reach = [(size - 1) * rate for size, rate in zip(kernel.shape[:2], rates.tolist())]
    borders = {"same": [(r // 2, r - r // 2) for r in reach], "valid": [(0, 0)] * 2}
    shrunk = [before - after for before, after in zip(x.shape[1:3], y.shape[1:3])]
    border = "same" if not any(shrunk) else "valid"
    fits = shrunk in ([0, 0], reach) and padding[:, 0].tolist() == [before for before, _ in borders[border]]
    if not fits or crops[:, 0].any() or set(conv.get_attr("strides")) != {1}:
        return None
    function = ops.depthwise_conv if conv.type == "DepthwiseConv2dNative" else ops.conv
    rule = lambda operator, x, kernel: function(x, kernel, 1, border, "channels_last", tuple(rates.tolist()))
    return Plan([x, kernel], rule)


@reads("AvgPool", "AvgPool3D")
def _average_pool(operator, x):
    classes = {4: keras.layers.AveragePooling2D, 5: keras.layers.AveragePooling3D}
    return _pool(operator, x, classes)


@reads("MaxPool", "MaxPool3D")
def _max_pool(operator, x):
    return _pool(operator, x, {4: keras.layers.MaxPooling2D, 5: keras.layers.MaxPooling3D})


def _pool(operator, x, classes):
    x, padding = _padded(operator, x)
    return classes[len(x.shape)](_of_space(operator, "ksize"), _of_space(operator, "strides"), padding)(x)


@reads("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
def _batch_norm(operator, x, scale, offset, mean, variance):
    if operator.attribute("is_training"):
        operator.refuse("normalizes by the batch's own statistics in inference. Give it `is_training=False`.")
    if operator.attribute("data_format") != "NHWC" or any(map(is_symbolic, (scale, offset, mean, variance))):
        operator.refuse("has channels that come first, or statistics that are computed from the input.")
    epsilon = operator.attribute("epsilon")
    return [ops.batch_normalization(x, mean, variance, -1, offset=offset, scale=scale, epsilon=epsilon)]
