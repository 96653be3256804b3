"""Float layers joined for the file: a batch normalization becomes part of the kernel before it, an activation its clamp."""

import dataclasses

import keras
from keras import ops

from keras_quant.graph.fuse import join_pairs
from keras_quant.graph.operations import activation_of
from keras_quant.layers.weighted import gain_and_shift

L = keras.layers
# For each layer with a kernel, the axes along which the kernel's output channels lie.
_CHANNELS = {L.Dense: (-1,), **dict.fromkeys((L.Conv1D, L.Conv2D, L.Conv3D), (-1,))}
_CHANNELS |= dict.fromkeys((L.DepthwiseConv1D, L.DepthwiseConv2D), (-2, -1))


def fold_float(graph):
    """Convolution → BatchNormalization → ReLU, all in float, becomes one convolution.

        conv2d → batch_normalization → re_lu      ⟹      re_lu: conv2d(kernel · gain, bias · gain + shift, "relu")

    The node is called what the last layer was, whose output it makes.

    Args:
        graph: `Graph` of a quantized model; its own layers stay as they are.
    """
    return join_pairs(graph, _join)


def _join(node, follower):
    first, second = node.operation, follower.operation
    if type(first) not in _CHANNELS or first.activation is not keras.activations.linear:
        return None
    if not isinstance(second, L.Layer) or second.compute_dtype != first.compute_dtype:
        return None
    if type(second) is L.BatchNormalization and second.axis in (-1, len(node.output.shape) - 1):
        joined = _with_batch_norm(first, second, node)
    elif activation_of(second) is not None:
        joined = _copy(first, node, first.use_bias, activation_of(second))
        joined.set_weights(first.get_weights())
    else:
        return None
    return dataclasses.replace(node, operation=joined, path=follower.path, outputs=follower.outputs)


def _with_batch_norm(layer, batch_norm, node):
    gain, shift = gain_and_shift(batch_norm)
    axes = _CHANNELS[type(layer)]
    shape = [layer.kernel.shape[axis] for axis in axes]
    kernel = ops.cast(layer.kernel, "float64") * ops.reshape(gain, shape)
    bias = shift if layer.bias is None else ops.cast(layer.bias, "float64") * gain + shift
    joined = _copy(layer, node, True, layer.activation)
    joined.set_weights([ops.convert_to_numpy(kernel), ops.convert_to_numpy(bias)])
    return joined


def _copy(layer, node, use_bias, activation):
    config = {**layer.get_config(), "use_bias": use_bias, "activation": keras.activations.serialize(activation)}
    copy = type(layer).from_config(config)
    copy.build(node.inputs[0].shape)
    return copy
