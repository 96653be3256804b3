"""Multiply-accumulates of a layer, for one sample."""

import math

import keras
from keras.src.ops import nn as keras_nn
from keras.src.ops import numpy as keras_ops

from keras_quant.graph.loops import inner_graph, steps_of
from keras_quant.layers import QuantLayer
from keras_quant.layers.conv import QuantTransposedConvolution
from keras_quant.layers.derived import is_variable
from keras_quant.layers.loop import Loop
from keras_quant.layers.matmul import _BatchMatmul

_COUNTS = {}


def macs(node):
    """Multiply-accumulates of one call on one sample: products of a kernel, or of two tensors, that are summed up.

    Additions, functions and scalings of single values count nothing. A loop counts what its steps do.

    Args:
        node: `Node`.

    Returns:
        An integer; `None` where a float layer has matrices of weights and nobody knows how often it uses them.
    """
    counted = next((_COUNTS[cls] for cls in type(node.operation).__mro__ if cls in _COUNTS), None)
    if counted is not None:
        return counted(node.operation, node)
    if getattr(node.operation, "kernel", None) is not None:
        return math.prod(node.operation.kernel.shape) * _places(node.output)
    if isinstance(node.operation, QuantLayer):
        return 0
    held = [*getattr(node.operation, "variables", ()), *_variables(node)]
    return None if any(len(variable.shape) > 1 for variable in held) else 0


def _counts(*classes):
    def decorate(function):
        _COUNTS.update((cls, function) for cls in classes)
        return function

    return decorate


def _places(value):
    """How many vectors of channels a sample holds."""
    return value.rows * math.prod(value.shape[1:-1])


def _variables(node):
    return [x for x in keras.tree.flatten((node.args, node.kwargs)) if is_variable(x)]


@_counts(QuantTransposedConvolution, *(getattr(keras.layers, f"Conv{rank}DTranspose") for rank in (1, 2, 3)))
def _transposed(layer, node):
    return math.prod(layer.kernel.shape) * _places(node.inputs[0])


@_counts(keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
def _separable(layer, node):
    kernels = layer.depthwise_kernel, layer.pointwise_kernel
    return sum(math.prod(kernel.shape) for kernel in kernels) * _places(node.output)


@_counts(keras.layers.EinsumDense)
def _einsum_dense(layer, node):
    inputs, _, kernel = layer.equation.replace(" ", "").partition("->")[0].partition(",")
    summed = [size for label, size in zip(kernel, layer.kernel.shape) if label in inputs]
    return _places(node.output) * node.output.shape[-1] * math.prod(summed)


@_counts(keras.layers.Embedding, keras.layers.PReLU)
def _none(layer, node):
    return 0


@_counts(_BatchMatmul, keras_ops.Matmul)
def _matmul(layer, node):
    return _places(node.output) * node.output.shape[-1] * node.inputs[0].shape[-1]


@_counts(keras_ops.Einsum)
def _einsum(operation, node):
    labels = operation.subscripts.replace(" ", "").partition("->")[0].split(",")
    if "." in operation.subscripts or len(labels) != 2:
        return None
    sizes = {label: size for names, value in zip(labels, node.inputs) for label, size in zip(names, value.shape)}
    return node.inputs[0].rows * math.prod(size or 1 for size in sizes.values())


@_counts(Loop)
def _loop(layer, node):
    inside = [macs(inner) for inner in inner_graph(node).nodes]
    return None if None in inside else steps_of(node) * sum(inside)


@_counts(keras.layers.LSTM, keras.layers.GRU, keras.layers.SimpleRNN)
def _recurrent(layer, node):
    kernels = layer.cell.kernel, layer.cell.recurrent_kernel
    return steps_of(node) * sum(math.prod(kernel.shape) for kernel in kernels)


@_counts(
    *(keras_ops.Dot, keras_ops.Tensordot),
    *(keras_nn.Conv, keras_nn.DepthwiseConv, keras_nn.SeparableConv, keras_nn.ConvTranspose),
)
def _unknown(operation, node):
    return None
