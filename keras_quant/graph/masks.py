"""Masks of layers and of attention become choices between tensors, which later passes have forms for."""

import dataclasses
import functools

import keras
import numpy as np
from keras.src.ops import core, nn
from keras.src.ops import numpy as knp

from keras_quant.graph.expand import expand, expands
from keras_quant.graph.expressions import numbers_of
from keras_quant.graph.graph import Value
from keras_quant.graph.operations import has_quantized_form, positional
from keras_quant.graph.steps import Steps

# What masked scores are.
MASKED = -1e9
_OF_MASKS = {}


def expand_masks(graph):
    """Layers and operations that take a mask become choices by that mask, as Keras computes them.

        softmax(x, mask)      ⟹      where(mask, x, -1e9) → softmax → where(mask, ·, 0)

    Where a mask changes nothing in inference, as in a batch normalization, it is left out. A layer without quantized form,
    which can only be kept in float, keeps its mask.
    """
    graph = expand(graph, _OF_MASKS)
    return dataclasses.replace(graph, nodes=[_without_mask(node) for node in graph.nodes])


def _without_mask(node):
    layer = node.operation
    ignores = isinstance(layer, keras.layers.Layer) and has_quantized_form(layer) and type(layer) not in _OF_MASKS
    if not ignores or node.kwargs.get("mask") is None:
        return node
    return dataclasses.replace(node, kwargs={k: v for k, v in node.kwargs.items() if k != "mask"})


def _mask_argument(node):
    return node.args[1] if len(node.args) > 1 else node.kwargs.get("mask")


def _booleans(steps, mask):
    """A mask as booleans."""
    if not isinstance(mask, Value):
        return numbers_of(mask).astype(bool)
    return mask if mask.dtype == "bool" else steps(core.Cast("bool"), mask, name="mask")


@expands(keras.layers, "Softmax", into=_OF_MASKS)
def _softmax(node):
    x, mask, steps = node.args[0], _mask_argument(node), Steps(node)
    if mask is None:
        return [node]
    if isinstance(mask, Value) and mask.dtype != "bool":
        mask = steps(knp.Greater(), mask, 0.5, name="mask")
    else:
        mask = _booleans(steps, mask)
    masked = steps(knp.Where(), mask, x, MASKED, name="masked")
    if not _zeroes_masked():
        return [*steps.nodes, dataclasses.replace(node, args=(masked,), kwargs={})]
    plain = type(node.operation)(node.operation.axis, name=node.operation.name)
    weights = steps(plain, masked, name="weights")
    return steps.end(steps(knp.Where(), mask, weights, 0.0))


@functools.lru_cache
def _zeroes_masked():
    """Whether this Keras's softmax gives zeros where all is masked."""
    weights = keras.layers.Softmax()(keras.ops.zeros((1, 2)), mask=keras.ops.zeros((1, 2), "bool"))
    return not np.any(keras.ops.convert_to_numpy(weights))


@expands(keras.layers, "GlobalAveragePooling1D", into=_OF_MASKS)
def _mean(node):
    x, mask, steps = node.args[0], _mask_argument(node), Steps(node)
    if mask is None or (node.operation.data_format != "channels_last" and len(node.args) == 1):
        return [node]
    if node.operation.data_format != "channels_last":
        return [dataclasses.replace(node, args=(x,), kwargs={"mask": mask})]
    keep = node.operation.keepdims
    kept = steps(knp.ExpandDims(2), _booleans(steps, mask), name="kept")
    masked = steps(knp.Where(), kept, x, 0.0, name="masked")
    ones = steps(core.Cast("float32"), kept, name="ones")
    total, count = steps(knp.Sum(1, keep), masked, name="total"), steps(knp.Sum(1, keep), ones, name="count")
    return steps.end(steps(knp.Divide(), total, count))


@expands(nn, "DotProductAttention", into=_OF_MASKS)
def _attention(node):
    """Without mask and bias it has a quantized layer of its own."""
    query, key, value, bias, mask, scale = (*positional(node), None, None, None)[:6]
    causal, steps = node.operation.is_causal, Steps(node)
    if bias is None and mask is None and not causal and key.shape[2] == query.shape[2]:
        return [node]
    groups = query.shape[2] // key.shape[2]
    if groups > 1:
        key, value = (steps(knp.Repeat(groups, 2), x, name=name) for x, name in ((key, "keys"), (value, "values")))
    scaled = steps(knp.Multiply(), query, float(query.shape[-1] ** -0.5 if scale is None else scale), name="scaled")
    scores = steps(knp.Einsum("btnh,bsnh->bnts"), scaled, key, name="scores")
    if bias is not None:
        scores = steps(knp.Add(), scores, bias, name="biased")
    if mask is not None:
        mask = _booleans(steps, mask)
    if causal:
        lower = np.tril(np.ones((1, 1, *scores.shape[2:]), bool))
        both = isinstance(mask, Value)
        mask = steps(knp.LogicalAnd(), mask, lower, name="seen") if both else lower if mask is None else lower & mask
    if mask is not None:
        scores = steps(knp.Where(), mask, scores, MASKED, name="masked")
    weights = steps(keras.layers.Softmax(name="softmax"), scores, name="softmax")
    return steps.end(steps(knp.Einsum("bnts,bsnh->btnh"), weights, value))


@expands(knp, "ZerosLike", "OnesLike", into=_OF_MASKS)
def _like(node):
    """Of masks, as a concatenation makes them beside those of its inputs: a comparison of the tensor with itself."""
    if node.output.dtype != "bool":
        return [node]
    steps, x = Steps(node), node.inputs[0]
    return steps.end(steps(knp.Equal() if isinstance(node.operation, knp.OnesLike) else knp.NotEqual(), x, x))
