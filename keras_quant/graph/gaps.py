"""Tensors with values close to zero and others far away, of which one grid leaves all that is close a few steps."""

import warnings

from keras import tree

from keras_quant.errors import CalibrationError, RangesApartWarning
from keras_quant.layers import QuantConcatenate, Quantize

# Beside smaller numbers, what is of usual size keeps its steps.
LARGE = 500
# How many steps are too few.
STEPS = 4


def check_masks(graph, seen):
    """Refuse an input that holds a mask of large negative numbers which is added to something.

    Args:
        graph: `Graph` of a quantized model.
        seen: dict from nodes to the `Distribution` of their outputs.

    Raises:
        CalibrationError: with the input's name.
    """
    masks = {node.inputs[0]: values.low for node, values in seen.items() if _is_mask(node, values)}
    for node, values in seen.items() if masks else ():
        for value in masks.keys() & (_sources(graph, node) if _leaves_few_steps(node, values) else set()):
            raise CalibrationError(
                f"Input '{value.name}' holds a mask of large negative numbers, and '{node.path}' adds it to others, of "
                "which nothing is left on a grid that reaches so far. Pass the mask as booleans, or as zeros and ones, and "
                "make the large numbers inside the model: `scores + (1 - mask) * -1e9`. Or clip the data, to -30, say. "
                f"Received: zeros and numbers down to {masks[value]:g}"
            )


def warn_of_gaps(seen):
    """Warn of tensors that have large values and small ones, none between, and a range that holds all of them.

    Args:
        seen: dict from nodes to the `Distribution` of their outputs; their ranges are set.
    """
    for node, values in seen.items():
        low, high = (float(v) for v in node.operation.output_quantizer.range())
        # Of what a concatenation joins, another warning speaks already; what is no integers has steps enough.
        if isinstance(node.operation, QuantConcatenate) or node.output.note is None or max(-low, high) < values.reach / 2:
            continue
        if _leaves_few_steps(node, values):
            name = node.inputs[0].name if isinstance(node.operation, Quantize) else node.path
            warnings.warn(
                f"'{name}' has values close to zero and others far away, from {values.low:.4g} to {values.high:.4g}, and "
                "none between. On one grid, those close to zero share a few steps. Scale, split or clip it; where large "
                "numbers mark what is masked or missing, pass a mask of zeros and ones instead.",
                RangesApartWarning,
                stacklevel=5,
            )


def _leaves_few_steps(node, values):
    """Whether values lie within a few steps of zero, or far away, with none between."""
    near = min(STEPS / node.operation.output_quantizer.type.levels, 1 / 16)
    return values.reach >= LARGE and values.has_gap(near * values.reach, values.reach / 8) and values.has_small(near)


def _is_mask(node, values):
    """Whether all that a model's input holds is zero or a large negative number."""
    outside = isinstance(node.operation, Quantize) and values.high <= 0 and values.low <= -LARGE
    return outside and values.has_gap(0.0, values.reach / 8) and not values.has_small(0.0)


def _sources(graph, node):
    """The model's inputs that a node's output is computed from."""
    makers = {value: maker for maker in graph.nodes for value in tree.flatten(maker.outputs)}
    found, left = set(), list(node.inputs)
    while left:
        value = left.pop()
        if value not in found:
            found.add(value)
            left += makers[value].inputs if value in makers else []
    return found & set(graph.inputs)
