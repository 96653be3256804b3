"""Integers and booleans: ids, lengths, masks. What computes on them does so as they are, on no grid."""

import dataclasses

from keras import tree

from keras_quant import policy as policies
from keras_quant.graph.operations import has_quantized_form, only_moves
from keras_quant.layers.registry import integer_slots


def is_real(value):
    """Whether a `Value` holds real numbers."""
    return value.dtype.startswith(("float", "bfloat"))


def keep_integers(graph):
    """Operations on integers and booleans keep their own arithmetic, which `predict` and the device do alike.

        ids → not_equal(·, 0) → cast (bool to float)      ⟹      not_equal as it is, cast an int8 layer

    Pixels that come as integers and are only used as real numbers are quantized like any real numbers.
    """
    wanted = {value for value in tree.flatten(graph.outputs) if not is_real(value)}
    kept = set()
    for node in reversed(graph.nodes):
        if _is_kept(node, wanted):
            kept.add(node)
            wanted.update(value for value in node.inputs if not is_real(value))
        else:
            slots = integer_slots(node.operation)
            wanted.update(v for i, v in enumerate(node.inputs) if i in slots or v.dtype == "bool")
    kept |= _counted(graph, kept)
    kept |= _compared_bare(graph, kept)
    exact = policies.get("float32")
    nodes = [dataclasses.replace(node, policy=exact) if node in kept else node for node in graph.nodes]
    return dataclasses.replace(graph, nodes=nodes)


# Arithmetic on single numbers, which float kernels round as Keras does.
_ALIKE = "Add Subtract Multiply Divide TrueDivide FloorDivide Floor Ceil Maximum Minimum Negative Cast".split()


def _compared_bare(graph, kept):
    """What leads from a model's inputs to comparisons and no further, features to their bins, lengths to their masks.

    It needs no grid.
    """
    readers, bare, found = graph.consumers(), set(graph.inputs), set()
    for node in graph.nodes:
        alike = type(node.operation).__name__ in _ALIKE
        if set(node.inputs) <= bare and (node in kept or alike or only_moves(node, node.policy)):
            bare.update(tree.flatten(node.outputs))
            found.add(node)
    for node in reversed(graph.nodes):
        behind = {reader for value in tree.flatten(node.outputs) for reader in readers.get(value, [])}
        if node in found and not behind <= kept | found:
            found.discard(node)
    return found


def _counted(graph, kept):
    """What goes on computing integers from those that are kept, such as places counted in a mask."""
    found, counts = set(), {v for node in kept for v in tree.flatten(node.outputs) if not is_real(v)}
    for node in graph.nodes:
        outputs = tree.flatten(node.outputs)
        whole = node.inputs and not any(map(is_real, (*outputs, *node.inputs)))
        if node not in kept and whole and (_makes_integers(node) or counts & set(node.inputs)):
            found.add(node)
            counts.update(outputs)
    return found


def _makes_integers(node):
    return type(node.operation).__name__ in ("Cast", "SaturateCast", "Cumsum", "Sum")


def _is_kept(node, wanted):
    outputs = tree.flatten(node.outputs)
    if any(map(is_real, outputs)):
        return False
    odd = any(value.dtype == "bool" for value in (*outputs, *node.inputs)) or any(map(is_real, node.inputs))
    return odd or not has_quantized_form(node.operation) or any(value in wanted for value in outputs)
