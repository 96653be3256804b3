"""Categories as vectors: CategoryEncoding, MultiHot, Discretization and `digitize` become one-hot rows and comparisons."""

import keras
import numpy as np
from keras.src.ops import core, nn, numpy

from keras_quant.graph.expand import expands
from keras_quant.graph.expressions import numbers_of
from keras_quant.graph.steps import Steps


@expands(nn, "MultiHot")
def _multi_hot(node):
    """A one for each category that occurs along the last axis."""
    (x,), steps = node.inputs, Steps(node)
    one_hot = steps(nn.OneHot(node.operation.num_classes, dtype="float32"), x, name="one_hot")
    return steps.end(_joined(steps, one_hot, numpy.Max(-2)))


def _joined(steps, one_hot, reduction):
    """The rows of one sample as one; a single category a sample is a row already."""
    single = len(one_hot.shape) == len(steps.node.output.shape)
    return one_hot if single else steps(reduction, one_hot, name="joined")


@expands(keras.layers, "CategoryEncoding")
def _category_encoding(node):
    layer, steps = node.operation, Steps(node)
    x, weights = (*node.inputs, None)[:2]
    x = steps(core.Cast("int32"), x, name="indices") if x.dtype.startswith("float") else x
    return steps.end(_encoded(steps, x, layer.output_mode, layer.num_tokens, weights))


def _encoded(steps, x, mode, depth, weights=None):
    """What Keras's `encode_categorical_inputs` makes of indices."""
    if mode == "one_hot" and len(x.shape) > 1 and x.shape[-1] == 1:
        x = steps(numpy.Squeeze(-1), x, name="categories")
    one_hot = steps(nn.OneHot(depth, dtype="float32"), x, name="one_hot")
    if mode == "one_hot":
        return one_hot
    if mode == "multi_hot":
        return _joined(steps, one_hot, numpy.Max(-2))
    if weights is not None:
        column = steps(numpy.ExpandDims(-1), weights, name="weights")
        one_hot = steps(numpy.Multiply(), one_hot, column, name="weighted")
    return _joined(steps, one_hot, numpy.Sum(1))


@expands(keras.layers, "Discretization")
def _discretization(node):
    layer, steps = node.operation, Steps(node)
    bins = _reached(steps, layer.bin_boundaries)
    if layer.output_mode != "int":
        bins = _encoded(steps, bins, layer.output_mode, len(layer.bin_boundaries) + 1)
    return steps.end(bins)


@expands(numpy, "Digitize")
def _digitize(node):
    steps = Steps(node)
    return steps.end(_reached(steps, numbers_of(node.args[1])))


def _reached(steps, boundaries):
    """How many of the boundaries a value reaches."""
    values = steps(numpy.ExpandDims(-1), steps.node.inputs[0], name="values")
    reached = steps(numpy.GreaterEqual(), values, np.asarray(boundaries, "float32"), name="reached")
    return steps(numpy.Sum(-1), steps(core.Cast("int32"), reached, name="ones"), name="bins")
