"""Batch normalizations and activations join the layer before them where the integer kernel joins them."""

import dataclasses

import keras
from keras import tree

from keras_quant.graph.operations import activation_of
from keras_quant.layers import QuantLayer, operation_factory, quantized_class
from keras_quant.layers.conv import QuantSeparableConvolution
from keras_quant.layers.weighted import QuantWeighted


def fuse_batch_norms(graph):
    """Convolution → BatchNormalization becomes one node.

        conv2d → batch_normalization → add      ⟹      conv2d(batch_norm=batch_normalization) → add

    Only where nothing else reads the convolution, it has no activation, and it is called once.
    """

    def join(node, follower):
        fits = _takes_batch_norm(node) and isinstance(follower.operation, keras.layers.BatchNormalization)
        if not fits or node.activation is not None or node.batch_norm is not None:
            return None
        bn, rank = follower.operation, len(node.output.shape)
        if bn.axis not in (-1, rank - 1) or node.operation.activation is not keras.activations.linear:
            return None
        return dataclasses.replace(node, batch_norm=bn, outputs=follower.outputs)

    return join_pairs(graph, join)


def fuse_activations(graph):
    """A layer whose kernel can clamp its output → ReLU or ReLU6 becomes one node.

        add → relu → conv2d      ⟹      add(activation=relu) → conv2d

    Only where nothing else reads the first layer, it has no activation yet, and it is called once.
    """

    def join(node, follower):
        function = activation_of(follower.operation)
        if function is None or node.activation is not None or not _fuses_activation(node):
            return None
        if getattr(node.operation, "activation", keras.activations.linear) is not keras.activations.linear:
            return None
        return dataclasses.replace(node, activation=function, outputs=follower.outputs)

    return join_pairs(graph, join)


def _takes_batch_norm(node):
    cls = layer_class(node.operation)
    return cls is not None and issubclass(cls, (QuantWeighted, QuantSeparableConvolution))


def _fuses_activation(node):
    factory = operation_factory(node.operation)
    layer = layer_class(node.operation) if factory is None else factory(node.operation, node.args, name="probe")
    return layer is not None and (layer.fuses_activation if hasattr(layer, "fuses_activation") else _takes_batch_norm(node))


def layer_class(operation):
    """The quantized class of a layer, float or quantized, or `None`."""
    return type(operation) if isinstance(operation, QuantLayer) else quantized_class(operation)


def wants_another_policy(follower, node):
    """Whether the map names a policy for `follower` that is not that of the node it would join."""
    return follower.named and follower.policy != node.policy


def join_pairs(graph, join):
    """Replace node and only reader by what `join(node, reader)` returns, unless that is `None`.

    What is joined to a node takes its policy, and is left alone where the map names another one for it.
    """
    readers, calls = graph.consumers(), graph.calls()
    joined, nodes = {}, []
    for node in graph.nodes:
        if node in joined:
            continue
        followers = readers.get(tree.flatten(node.outputs)[0], [])
        while len(followers) == 1 and followers[0] is not None and calls.get(id(node.operation), 1) == 1:
            if calls[id(followers[0].operation)] > 1 or wants_another_policy(followers[0], node):
                break
            replacement = join(node, followers[0])
            if replacement is None:
                break
            joined[followers[0]] = True
            node = replacement
            followers = readers.get(tree.flatten(node.outputs)[0], [])
        nodes.append(node)
    return dataclasses.replace(graph, nodes=nodes)
