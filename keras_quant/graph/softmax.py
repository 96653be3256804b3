"""Softmaxes inside a model get a grid of their own."""

import dataclasses

import keras
from keras import tree
from keras.src.ops import nn

from keras_quant import layers
from keras_quant.graph.operations import leaves_model


def scale_inner_softmaxes(graph):
    """A softmax that the model goes on computing with gets a grid that ends at the largest probability.

        matmul → softmax → matmul_1      ⟹      matmul → inner_softmax → matmul_1

    One at the model's end keeps the fixed grid, with steps of 1/256, and so does one on fewer than 8 bits.
    """
    readers = graph.consumers()
    inner = lambda node: _is_softmax(node) and node.policy.activations == "int8" and not leaves_model(node, readers)
    swap = lambda node: dataclasses.replace(node, operation=layers.QuantInnerSoftmax()) if inner(node) else node
    return dataclasses.replace(graph, nodes=[swap(node) for node in graph.nodes])


def _is_softmax(node):
    operation = node.operation
    if isinstance(operation, keras.layers.Activation):
        return operation.activation is keras.activations.softmax
    if not isinstance(operation, (keras.layers.Softmax, nn.Softmax)) or len(node.inputs) != 1:
        return False
    rank = len(node.output.shape)
    return [axis % rank for axis in tree.flatten(operation.axis)] == [rank - 1]
