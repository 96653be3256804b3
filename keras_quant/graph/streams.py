"""Sums that residual blocks hand on stay in float32 between normalizations, which are in float32 as well."""

import dataclasses

import keras
from keras import tree
from keras.src.ops import numpy as knp

from keras_quant import policy as policies
from keras_quant.graph.kinds import is_real
from keras_quant.graph.operations import leaves_model, only_moves
from keras_quant.layers import ExactSum, is_normalized_exactly

_FLOAT32 = policies.get("float32")


def keep_streams(graph):
    """Sums of which one leads to the next are rounded where they are read, not once more in each block.

        x → normalization → dense → add(x, ·) → normalization_1 → dense_1 → add_1(add, ·)
        ⟹ add and add_1 as `ExactSum`, in float32, which normalizations and what else reads them quantize

    A map that names such a sum "float32" says the same. Those of blocks without a normalization by the values' own
    statistics stay integers, as convolutional networks have them; so do those that leave the model, and those that a map
    names or whose policy names a quantizer.
    """
    readers, around = graph.consumers(), _sums_around_normalizations(graph)
    found = {node.output: node for node in graph.nodes if node in around and _may_be_real(node, readers)}
    joined = {node for node in around if node.policy == _FLOAT32 and node.activation is None}
    for value in found:
        after = {node for node in _read_by(value, readers) if found.get(_output(node)) is node}
        joined |= {found[value], *after} if after else set()
    return dataclasses.replace(graph, nodes=[_real(node) if node in joined else node for node in graph.nodes])


def _output(node):
    flat = tree.flatten(node.outputs)
    return flat[0] if len(flat) == 1 else None


def _is_sum(node):
    """Whether a node adds tensors of one shape."""
    shapes = {value.shape for value in node.inputs}
    kinds = isinstance(node.operation, (keras.layers.Add, knp.Add)) and not isinstance(node.operation, ExactSum)
    return kinds and len(node.inputs) > 1 and len(shapes) == 1 and all(map(is_real, node.inputs))


def _may_be_real(node, readers):
    policy = node.policy
    plain = policy.activations == "int8" and policy.output_quantizer is None and not policy.integer_only
    return plain and not node.named and node.activation is None and not leaves_model(node, readers)


def _sums_around_normalizations(graph):
    """The sums one of whose terms, or a term of that term, leads to another of them through a normalization.

    Sets of values are the bits of integers: a model of thousands of layers has millions of pairs.
    """
    terms = {value: 1 << place for place, value in enumerate(graph.inputs)}
    before, through, found = dict(terms), {}, set()
    for node in graph.nodes:
        behind, normalized, own = (_union(sets, node.inputs) for sets in (before, through, terms))
        if is_normalized_exactly(node.operation, node.policy):
            normalized |= behind
        if _is_sum(node) and own & normalized:
            found.add(node)
        for value in tree.flatten(node.outputs):
            bit = 1 << len(terms)
            terms[value] = bit | own if _is_sum(node) else bit
            before[value], through[value] = behind | bit, normalized
    return found


def _union(sets, values):
    whole = 0
    for value in values:
        whole |= sets.get(value, 0)
    return whole


def _read_by(value, readers):
    """The nodes that read a value, moved or not."""
    for node in readers.get(value, []):
        yield node
        if len(node.inputs) == 1 and _output(node) is not None and only_moves(node, node.policy):
            yield from _read_by(node.output, readers)


def _real(node):
    """An `ExactSum` in a node's place."""
    operation = ExactSum(name=node.operation.name)
    return dataclasses.replace(node, operation=operation, args=(list(node.inputs),), kwargs={}, policy=_FLOAT32)
