"""Categories as vectors: CategoryEncoding, MultiHot, Discretization and `digitize` become one-hot rows and comparisons."""

import dataclasses

import keras
import numpy as np
from keras.src.ops import core, nn, numpy

from keras_quant.graph.expand import _then as then
from keras_quant.graph.expand import expands
from keras_quant.graph.expressions import numbers_of
from keras_quant.graph.graph import Node


@expands(nn, "MultiHot")
def _multi_hot(node):
    """A one for each category that occurs along the last axis."""
    (x,) = node.inputs
    one_hot = then(node, nn.OneHot(node.operation.num_classes, dtype="float32"), "one_hot", x)
    return _joined(node, one_hot, numpy.Max, -2)


def _joined(node, one_hot, reduction, axis):
    """The rows of one sample as one; a single category a sample is a row already."""
    if len(one_hot.output.shape) == len(node.output.shape):
        return [Node(one_hot.operation, node.path, one_hot.args, {}, node.output)]
    return [one_hot, Node(reduction(axis), node.path, (one_hot.output,), {}, node.output)]


@expands(keras.layers, "CategoryEncoding")
def _category_encoding(node):
    layer, steps = node.operation, []
    x, weights = (*node.inputs, None)[:2]
    if x.dtype.startswith("float"):
        steps.append(then(node, core.Cast("int32"), "indices", x))
    return [*steps, *_encoded(node, steps[-1].output if steps else x, layer.output_mode, layer.num_tokens, weights)]


def _encoded(node, x, mode, depth, weights=None):
    """What Keras's `encode_categorical_inputs` makes of indices."""
    steps = []
    if mode == "one_hot" and len(x.shape) > 1 and x.shape[-1] == 1:
        steps.append(then(node, numpy.Squeeze(-1), "categories", x))
        x = steps[-1].output
    one_hot = then(node, nn.OneHot(depth, dtype="float32"), "one_hot", x)
    if mode == "one_hot":
        return [*steps, *_joined(node, one_hot, None, None)]
    if mode == "multi_hot":
        return [*steps, *_joined(node, one_hot, numpy.Max, -2)]
    if weights is not None:
        column = then(node, numpy.ExpandDims(-1), "weights", weights)
        one_hot_weighted = then(node, numpy.Multiply(), "weighted", one_hot.output, column.output)
        steps += [one_hot, column]
        one_hot = one_hot_weighted
    return [*steps, *_joined(node, one_hot, numpy.Sum, 1)]


@expands(keras.layers, "Discretization")
def _discretization(node):
    layer = node.operation
    steps = _reached(node, layer.bin_boundaries)
    if layer.output_mode == "int":
        return _ending(steps, node)
    return [*steps, *_encoded(node, steps[-1].output, layer.output_mode, len(layer.bin_boundaries) + 1)]


@expands(numpy, "Digitize")
def _digitize(node):
    return _ending(_reached(node, numbers_of(node.args[1])), node)


def _reached(node, boundaries):
    """How many of the boundaries a value reaches."""
    steps = [then(node, numpy.ExpandDims(-1), "values", node.inputs[0])]
    steps.append(then(node, numpy.GreaterEqual(), "reached", steps[-1].output, np.asarray(boundaries, "float32")))
    steps.append(then(node, core.Cast("int32"), "ones", steps[-1].output))
    steps.append(then(node, numpy.Sum(-1), "bins", steps[-1].output))
    return steps


def _ending(steps, node):
    """The steps, the last of which makes what `node` does."""
    return [*steps[:-1], dataclasses.replace(steps[-1], path=node.path, outputs=node.outputs)]
