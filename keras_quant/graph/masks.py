"""Masks of layers and of attention become choices between tensors, which later passes have forms for."""

import dataclasses
import functools

import keras
import numpy as np
from keras.src.ops import core, nn
from keras.src.ops import numpy as knp

from keras_quant.graph.expand import _then as then
from keras_quant.graph.expressions import numbers_of
from keras_quant.graph.graph import Node, Value
from keras_quant.graph.operations import positional

# What masked scores are.
MASKED = -1e9
_EXPANSIONS = {}


def expand_masks(graph):
    """Layers and operations that take a mask become choices by that mask, as Keras computes them.

        softmax(x, mask)      ⟹      where(mask, x, -1e9) → softmax → where(mask, ·, 0)

    Where a mask changes nothing in inference, as in a batch normalization, it is left out.
    """
    nodes = []
    for node in graph.nodes:
        nodes.extend(dataclasses.replace(n, policy=node.policy, named=node.named) for n in _expanded(node))
    return dataclasses.replace(graph, nodes=nodes)


def _expanded(node):
    if type(node.operation) in _EXPANSIONS:
        return _EXPANSIONS[type(node.operation)](node)
    if isinstance(node.operation, keras.layers.Layer) and node.kwargs.get("mask") is not None:
        return [dataclasses.replace(node, kwargs={k: v for k, v in node.kwargs.items() if k != "mask"})]
    return [node]


def _expands(*classes):
    return lambda expansion: _EXPANSIONS.update((cls, expansion) for cls in classes) or expansion


def _mask_argument(node):
    return node.args[1] if len(node.args) > 1 else node.kwargs.get("mask")


def _booleans(node, mask, name="mask"):
    """A mask as booleans: nodes that make it, and the mask."""
    if not isinstance(mask, Value):
        return [], numbers_of(mask).astype(bool)
    if mask.dtype == "bool":
        return [], mask
    made = then(node, core.Cast("bool"), name, mask)
    return [made], made.output


@_expands(keras.layers.Softmax)
def _softmax(node):
    x, mask = node.args[0], _mask_argument(node)
    if mask is None:
        return [node]
    if isinstance(mask, Value) and mask.dtype != "bool":
        made = then(node, knp.Greater(), "mask", mask, 0.5)
        nodes, mask = [made], made.output
    else:
        nodes, mask = _booleans(node, mask)
    masked = then(node, knp.Where(), "masked", mask, x, MASKED)
    if not _zeroes_masked():
        return [*nodes, masked, dataclasses.replace(node, args=(masked.output,), kwargs={})]
    plain = type(node.operation)(node.operation.axis, name=node.operation.name)
    weights = then(node, plain, "weights", masked.output)
    return [*nodes, masked, weights, Node(knp.Where(), node.path, (mask, weights.output, 0.0), {}, node.outputs)]


@functools.lru_cache
def _zeroes_masked():
    """Whether this Keras's softmax gives zeros where all is masked."""
    weights = keras.layers.Softmax()(keras.ops.zeros((1, 2)), mask=keras.ops.zeros((1, 2), "bool"))
    return not np.any(keras.ops.convert_to_numpy(weights))


@_expands(keras.layers.GlobalAveragePooling1D)
def _mean(node):
    x, mask = node.args[0], _mask_argument(node)
    if mask is None or node.operation.data_format != "channels_last":
        return [node] if mask is None else [dataclasses.replace(node, args=(x,), kwargs={"mask": mask})]
    keep = node.operation.keepdims
    nodes, mask = _booleans(node, mask)
    kept = then(node, knp.ExpandDims(2), "kept", mask)
    masked = then(node, knp.Where(), "masked", kept.output, x, 0.0)
    ones = then(node, core.Cast("float32"), "ones", kept.output)
    total, count = (then(node, knp.Sum(1, keep), name, n.output) for name, n in (("total", masked), ("count", ones)))
    mean = Node(knp.Divide(), node.path, (total.output, count.output), {}, node.outputs)
    return [*nodes, kept, masked, ones, total, count, mean]


@_expands(*(getattr(nn, name) for name in ("DotProductAttention",) if hasattr(nn, name)))
def _attention(node):
    """Without mask and bias it has a quantized layer of its own."""
    query, key, value, bias, mask, scale = (*positional(node), None, None, None)[:6]
    causal = node.operation.is_causal
    if bias is None and mask is None and not causal and key.shape[2] == query.shape[2]:
        return [node]
    nodes = []
    add = lambda operation, name, *args: nodes.append(then(node, operation, name, *args)) or nodes[-1].output
    groups = query.shape[2] // key.shape[2]
    if groups > 1:
        key, value = add(knp.Repeat(groups, 2), "keys", key), add(knp.Repeat(groups, 2), "values", value)
    scaled = add(knp.Multiply(), "scaled", query, float(query.shape[-1] ** -0.5 if scale is None else scale))
    scores = add(knp.Einsum("btnh,bsnh->bnts"), "scores", scaled, key)
    if bias is not None:
        scores = add(knp.Add(), "biased", scores, bias)
    if mask is not None:
        made, mask = _booleans(node, mask)
        nodes.extend(made)
    if causal:
        lower = np.tril(np.ones((1, 1, *scores.shape[2:]), bool))
        both = isinstance(mask, Value)
        mask = add(knp.LogicalAnd(), "seen", mask, lower) if both else lower if mask is None else lower & mask
    if mask is not None:
        scores = add(knp.Where(), "masked", mask, scores, MASKED)
    weights = add(keras.layers.Softmax(name="softmax"), "softmax", scores)
    last = Node(knp.Einsum("bnts,bsnh->btnh"), node.path, (weights, value), {}, node.outputs)
    return [*nodes, last]


@_expands(*(getattr(knp, name) for name in ("ZerosLike", "OnesLike") if hasattr(knp, name)))
def _like(node):
    """Of masks, as a concatenation makes them beside those of its inputs: a comparison of the tensor with itself."""
    if node.output.dtype != "bool":
        return [node]
    same = knp.Equal() if isinstance(node.operation, knp.OnesLike) else knp.NotEqual()
    return [Node(same, node.path, (node.inputs[0], node.inputs[0]), {}, node.outputs)]
