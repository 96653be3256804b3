"""Concatenations of tensors whose ranges lie far apart, of which one grid leaves the narrow ones few steps."""

import dataclasses
import warnings

import keras
from keras.src.ops import numpy

from keras_quant import policy as policies
from keras_quant.errors import RangesApartWarning
from keras_quant.graph.loops import everywhere
from keras_quant.graph.operations import only_moves
from keras_quant.layers import QuantConcatenate

# Steps that may be this many times those of a part's own grid: 4 of 8 bits are left then, some 24 dB.
COARSEST = 16
_FLOAT = policies.get("float32")
_JOINS = (keras.layers.Concatenate, numpy.Concatenate)


@dataclasses.dataclass(frozen=True)
class Apart:
    """One concatenation, and its part that loses most.

    Attributes:
        path: of the concatenation.
        part: path of the layer that makes the part.
        range: lowest and highest value of the part's own grid.
        joint_range: likewise, of the grid of all parts.
        ratio: how many times coarser the joint grid is.
    """

    path: str
    part: str
    range: tuple
    joint_range: tuple
    ratio: float


def ranges_apart(graph):
    """The concatenations of a quantized model that leave a part steps more than `COARSEST` times its own.

    Args:
        graph: `Graph` of a quantized model, its ranges set.

    Returns:
        List of `Apart`.
    """
    found = (_worst(place) for place in everywhere(graph) if isinstance(place.node.operation, QuantConcatenate))
    return [apart for apart in found if apart is not None and apart.ratio > COARSEST]


def _worst(place):
    node = place.node
    joint = node.output.note.quantizer
    ends = joint.ends(*_joint_range(joint))
    width = ends[1] - ends[0]
    parts = [(x.name, x.note.quantizer.ends(*_own_range(x.note.quantizer))) for x in node.inputs]
    parts = [(name, own, width / (own[1] - own[0])) for name, own in parts if own[1] > own[0]]
    if not parts:
        return None
    name, own, ratio = max(parts, key=lambda part: part[2])
    return Apart(place.path, name, own, ends, ratio)


def _own_range(quantizer):
    return tuple(float(v) for v in quantizer.range())


def _joint_range(quantizer):
    lows, highs = zip(*quantizer.shared_ranges())
    return min(lows), max(highs)


def warn_of_ranges_apart(graph):
    """Warn of what `ranges_apart` finds, args as there."""
    for apart in ranges_apart(graph):
        low, high = apart.range
        warnings.warn(
            f"'{apart.path}' joins ranges far apart: of the one grid from {apart.joint_range[0]:.4g} to "
            f"{apart.joint_range[1]:.4g}, '{apart.part}' (from {low:.4g} to {high:.4g}) has {int(255 / apart.ratio) or 1} "
            f"of 255 steps, {apart.ratio:.0f} times coarser than on its own. Divide the wide part before it is joined, or, "
            "at the model's end, pass `calibration_data` to `quantize`, which then joins real numbers.",
            RangesApartWarning,
            stacklevel=5,
        )


def with_float_ends(graph, paths, lowers_in_float):
    """Let concatenations at a model's end join real numbers, so that each part keeps its grid.

        boxes (int8), scores (int8) → concatenate (int8) → output
            ⟹      boxes (int8), scores (int8) → concatenate (float32) → output

    At the end is one whose values leave the model, moved or joined with others, by operations that work in float, too.

    Args:
        graph: fused `Graph` of the float model, with policies.
        paths: names of the concatenations in the quantized model.
        lowers_in_float: function of an operation: whether a rule lowers it in float.

    Returns:
        `Graph`; the one that was given, if none of the concatenations stands at the end.
    """
    readers, ends = graph.consumers(), set()
    for node in graph.nodes:
        if node.path.replace("/", ".") in paths and id(node) not in ends:
            ends |= _to_the_end(node, readers, lowers_in_float) or set()
    if not ends:
        return graph
    in_float = lambda node: dataclasses.replace(node, policy=_FLOAT, named=True) if id(node) in ends else node
    return dataclasses.replace(graph, nodes=[in_float(node) for node in graph.nodes])


def _to_the_end(node, readers, lowers_in_float):
    """Ids of a node and of all that its values pass on the way out of the model; `None` if something computes with them."""
    if node.policy.computes_in_float:
        return set()
    if node.named or node.activation is not None:
        return None
    if isinstance(node.operation, numpy.Pad) and node.operation.mode not in ("constant", "reflect", "symmetric"):
        return None  # Keras cannot compute it on TensorFlow
    joins = type(node.operation) in _JOINS and lowers_in_float(node.operation)
    if not (joins or only_moves(node, policies.get("int8"))):
        return None
    found = {id(node)}
    for reader in readers.get(node.output, []):
        behind = set() if reader is None else _to_the_end(reader, readers, lowers_in_float)
        if behind is None:
            return None
        found |= behind
    return found
