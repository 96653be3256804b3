"""Operations of `keras.ops` whose operands hold weights become the Keras layers that own them."""

import dataclasses

import keras
from keras.src.ops import nn
from keras.src.ops import numpy as knp

from keras_quant.graph.constants import per_channel
from keras_quant.graph.expressions import array_of, hold, trains
from keras_quant.graph.fuse import join_pairs, layer_class
from keras_quant.graph.graph import Value
from keras_quant.graph.operations import positional
from keras_quant.graph.rebuild import config_of
from keras_quant.layers import dynamic_class
from keras_quant.layers.weighted import QuantWeighted

L = keras.layers
LAYERS = {}


def _becomes_layers(module, *names):
    """Decorator: the function `(operation, shape, *operands)` makes the layers of an operation, with their weights by name.

    It returns pairs of a layer and a dict, or `None` where the operation is more than those layers.
    """

    def decorate(function):
        LAYERS.update({getattr(module, name): function for name in names if hasattr(module, name)})
        return function

    return decorate


def takes_weights(operation):
    """Whether the operation, with constants or variables for weights, becomes a layer here."""
    return type(operation) in LAYERS


def lift_weights(graph):
    """An operation with weights among its operands becomes the layer that owns them.

        conv(x, kernel)      ⟹      conv2d

    Keras variables stay trainable, arrays are frozen. Operations alike on the same variables become one layer, shared.
    """
    nodes, shared = [], {}
    for node in graph.nodes:
        nodes.extend(_layers(node, shared) or [node])
    return dataclasses.replace(graph, nodes=nodes)


def _layers(node, shared):
    dynamic = node.policy.activations == "dynamic"
    if node.policy.computes_in_float and not dynamic:
        return None
    make = LAYERS.get(type(node.operation))
    value, *operands = positional(node) if make is not None else [None]
    if node.inputs != [value]:
        return None
    nodes, config = [], {key: item for key, item in node.operation.get_config().items() if key != "name"}
    alike = (type(node.operation), value.shape, repr(config), *map(id, operands))
    if alike not in shared:
        shared[alike] = _built_layers(make(node.operation, value.shape, *operands) or (), value.shape)
    if dynamic and not all(dynamic_class(layer, value.shape, node.named) for layer in shared[alike]):
        return None
    for layer in shared[alike]:
        path = f"{node.path}_{len(nodes)}"
        output = Value(tuple(layer.compute_output_shape(value.shape)), value.dtype, path, rows=value.rows)
        nodes.append(dataclasses.replace(node, operation=layer, path=path, args=(value,), outputs=output))
        value = output
    if nodes:
        nodes[-1] = dataclasses.replace(nodes[-1], path=node.path, outputs=node.outputs)
    return nodes


def _built_layers(pairs, shape):
    layers = []
    for layer, weights in pairs:
        built(layer, shape, weights)
        shape = layer.compute_output_shape(shape)
        layers.append(layer)
    return layers


def join_biases(graph):
    """A sum with one constant or variable a channel is the bias of the layer with a kernel before it.

        conv2d(use_bias=False) → add(·, bias)      ⟹      conv2d(use_bias=True)

    Only where nothing else reads the layer, it has no activation, it is called once, and either both train or neither.
    """

    def join(node, follower):
        layer, bias = node.operation, _bias(follower)
        if bias is None or not _takes_bias(layer) or follower.output.shape != node.output.shape:
            return None
        if not per_channel(array_of(bias), node.output.shape) or trains(bias) != layer.trainable:
            return None
        biased = type(layer).from_config({**config_of(layer), "use_bias": True})
        built(biased, node.inputs[0].shape, {"kernel": layer.kernel, "bias": bias})
        biased.trainable = layer.trainable
        return dataclasses.replace(node, operation=biased, outputs=follower.outputs)

    return join_pairs(graph, join)


def _takes_bias(layer):
    cls = layer_class(layer)
    weighted = cls is not None and issubclass(cls, QuantWeighted) and not isinstance(layer, QuantWeighted)
    return weighted and not layer.use_bias and layer.activation is keras.activations.linear


def _bias(node):
    """The operand of a sum that is no tensor, or `None`."""
    operands = [x for x in node.args if not isinstance(x, Value)] if isinstance(node.operation, knp.Add) else []
    return operands[0] if len(operands) == 1 and len(node.inputs) == 1 else None


def built(layer, shape, weights):
    """Build a layer and give it its weights, each as `hold` takes it, or `None`; trainable if one is."""
    layer.build(shape)
    for name, value in weights.items():
        if value is not None:
            hold(layer, name, value)
    layer.trainable = any(map(trains, weights.values()))


def _convolution(operation, shape, classes, *args, **options):
    """A convolution of sequences, images or volumes, whichever the shape says."""
    strides, dilation = (
        value if isinstance(value, int) or len(value) == len(shape) - 2 else value[0]
        for value in (operation.strides, operation.dilation_rate)
    )
    options |= {"padding": operation.padding, "data_format": operation.data_format, "use_bias": False}
    return classes[len(shape)](*args, strides=strides, dilation_rate=dilation, **options)


@_becomes_layers(nn, "Conv")
def _conv(operation, shape, kernel):
    *window, _, filters = kernel.shape
    classes = {3: L.Conv1D, 4: L.Conv2D, 5: L.Conv3D}
    return [(_convolution(operation, shape, classes, filters, window), {"kernel": kernel})]


@_becomes_layers(nn, "DepthwiseConv")
def _depthwise_conv(operation, shape, kernel):
    *window, _, multiplier = kernel.shape
    classes = {3: L.DepthwiseConv1D, 4: L.DepthwiseConv2D}
    window = window[0] if len(window) == 1 else window
    return [(_convolution(operation, shape, classes, window, depth_multiplier=multiplier), {"kernel": kernel})]


@_becomes_layers(nn, "SeparableConv")
def _separable_conv(operation, shape, depthwise_kernel, pointwise_kernel):
    pointwise = {3: L.Conv1D, 4: L.Conv2D}[len(shape)](pointwise_kernel.shape[-1], 1, use_bias=False)
    return [*_depthwise_conv(operation, shape, depthwise_kernel), (pointwise, {"kernel": pointwise_kernel})]


@_becomes_layers(nn, "ConvTranspose")
def _conv_transpose(operation, shape, kernel):
    *window, filters, _ = kernel.shape
    classes = {3: L.Conv1DTranspose, 4: L.Conv2DTranspose, 5: L.Conv3DTranspose}
    layer = _convolution(operation, shape, classes, filters, window, output_padding=operation.output_padding)
    return [(layer, {"kernel": kernel})]


@_becomes_layers(knp, "Matmul", "Dot")
def _matmul(operation, shape, kernel):
    if len(kernel.shape) == 2:
        return [(L.Dense(kernel.shape[1], use_bias=False), {"kernel": kernel})]


@_becomes_layers(knp, "Tensordot")
def _tensordot(operation, shape, kernel):
    last_by_first = operation.axes in (1, [[-1], [0]], [[len(shape) - 1], [0]])
    return _matmul(operation, shape, kernel) if last_by_first else None


@_becomes_layers(knp, "Einsum")
def _einsum(operation, shape, kernel):
    outputs = keras.ops.einsum(operation.subscripts, keras.KerasTensor(shape), keras.KerasTensor(kernel.shape))
    return [(L.EinsumDense(operation.subscripts, outputs.shape[1:]), {"kernel": kernel})]


@_becomes_layers(nn, "BatchNorm")
def _batch_norm(operation, shape, mean, variance, offset=None, scale=None):
    given = {"center": offset is not None, "scale": scale is not None}
    layer = L.BatchNormalization(operation.axis, epsilon=operation.epsilon, **given)
    return [(layer, {"moving_mean": mean, "moving_variance": variance, "beta": offset, "gamma": scale})]


@_becomes_layers(nn, "LayerNorm")
def _layer_norm(operation, shape, gamma=None, beta=None):
    epsilon = keras.config.epsilon() if operation.epsilon is None else operation.epsilon
    layer = L.LayerNormalization(operation.axis, epsilon, center=beta is not None, scale=gamma is not None)
    return None if getattr(operation, "rms_scaling", False) else [(layer, {"gamma": gamma, "beta": beta})]


@_becomes_layers(nn, "RMSNorm")
def _rms_norm(operation, shape, scale=None):
    epsilon = keras.config.epsilon() if operation.epsilon is None else operation.epsilon
    return [(L.RMSNormalization(operation.axis, epsilon), {"scale": scale})]


@_becomes_layers(nn, "Normalize")
def _normalize(operation, shape):
    return [(L.UnitNormalization(operation.axis), {})] if operation.order == 2 else None
