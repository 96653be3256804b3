"""Right sides of matrix products lie on symmetric grids, as the kernel wants them, from the layer on that makes them."""

import dataclasses

import keras
from keras.src.ops import nn
from keras.src.ops import numpy as knp

from keras_quant.graph.operations import only_moves

_PRODUCTS = {knp.Matmul: (1,), knp.Einsum: (1,), getattr(nn, "DotProductAttention", None): (1, 2)}
_MAKERS = (keras.layers.Dense, keras.layers.EinsumDense)


def symmetric_right_sides(graph):
    """A Dense layer that only right sides of products read makes its output on their grid, which is rounded once then.

        dense → quantize (symmetric) → matmul      ⟹      dense (symmetric) → matmul

    One whose policy names a quantizer keeps it.
    """
    readers = graph.consumers()
    symmetric = {id(node) for node in graph.nodes if _has_no_grid_of_its_own(node) and _only_right(node, readers)}
    return dataclasses.replace(graph, nodes=[_on_symmetric_grid(n) if id(n) in symmetric else n for n in graph.nodes])


def _has_no_grid_of_its_own(node):
    linear = getattr(node.operation, "activation", None) is keras.activations.linear
    plain = node.policy.activations == "int8" and node.policy.output_quantizer is None
    return isinstance(node.operation, _MAKERS) and linear and plain


def _only_right(node, readers):
    """Whether all that reads a node's output, moved or not, are products that have it on their right."""
    found = readers.get(node.output, [])
    return bool(found) and all(_on_right(node.output, reader, readers) for reader in found)


def _on_right(value, reader, readers):
    if reader is None or reader.policy.activations != "int8":
        return False
    slots = _PRODUCTS.get(type(reader.operation))
    if slots is not None:
        return all(slot in slots for slot, x in enumerate(reader.inputs) if x is value)
    return only_moves(reader, reader.policy) and len(reader.inputs) == 1 and _only_right(reader, readers)


def _on_symmetric_grid(node):
    return dataclasses.replace(node, policy=dataclasses.replace(node.policy, output_quantizer="symmetric"))
