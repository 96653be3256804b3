"""Layers without kernel, and the operators where precision changes: what they add to the time of a choice.

A layer without kernel is in int8 or in float32, whichever is sooner for what is around it. Where one side of a tensor is
integers and the other is not, a QUANTIZE or a DEQUANTIZE lies between, one for all readers of a kind.
"""

import dataclasses
from typing import Any

import keras
from keras import tree

from keras_quant import policy as policies
from keras_quant.graph.kinds import is_real
from keras_quant.graph.operations import only_moves
from keras_quant.layers.functions import FUSED_ACTIVATIONS
from keras_quant.policy import PolicyMap
from keras_quant.search.units import Unit

INT8, FLOAT32 = policies.get("int8"), policies.get("float32")


@dataclasses.dataclass(frozen=True, eq=False)
class Seam:
    """A tensor on whose sides precision may change.

    Attributes:
        maker: `Unit` that makes it.
        readers: tuple of `Unit`s.
        shape: without batch.
        inside: whether it lies between a layer and its own activation, which is integers only if the layer is.
    """

    maker: Any
    readers: tuple
    shape: tuple
    inside: bool = False

    @property
    def keys(self):
        """Names of its two operators in a table of `Latencies`: from integers, and to them."""
        shape = "×".join(map(str, self.shape))
        return f"DEQUANTIZE {shape} float32", f"QUANTIZE {shape} float32"


class Flow:
    """How tensors go from layer to layer.

    Args:
        graph: fused `Graph` of the float model, activations apart as `activations_apart` names them.
        units: list of `Unit`s, the layers with kernels.

    Attributes:
        between: list of `Unit`s, the layers without kernel that make real numbers and do not only move them.
        seams: list of `Seam`s.
    """

    def __init__(self, graph, units):
        known, moved, readers = {id(unit.node.operation): unit for unit in units}, {}, {}
        known |= {operation: unit for unit in units for operation in unit.operations}
        self.between, makers = [], {}
        for node in graph.nodes:
            outputs = tree.flatten(node.outputs)
            unit = known.get(id(node.operation))
            if unit is None and node.inputs and len(outputs) == 1 and only_moves(node, INT8):
                moved[outputs[0]] = moved.get(node.inputs[0], node.inputs[0])
                continue
            if unit is None and all(map(is_real, outputs)):
                unit = known[id(node.operation)] = Unit(node.path, node, (), 0)
                self.between.append(unit)
            if unit is not None:
                makers.update((value, unit) for value in outputs)
                for value in filter(is_real, node.inputs):
                    source = moved.get(value, value)
                    # What a recurrent layer hands on to itself has no precision of its own.
                    if not unit.loops or makers.get(source) is not unit:
                        readers.setdefault(source, []).append(unit)
        self.seams = [
            Seam(makers[value], tuple(dict.fromkeys(own)), value.shape[1:], _is_inside(makers[value], own))
            for value, own in readers.items()
            if value in makers
        ]


class Times:
    """Estimated milliseconds of choices, as `choose` takes them: a function (unit, policy) → float, and those of seams.

    Args:
        costs: dict from `(unit, policy)` to `Cost`.
        latencies: `Latencies`.
        seams: list of `Seam`s.
    """

    def __init__(self, costs, latencies, seams):
        self.costs, self.latencies, self.seams = costs, latencies, seams

    def __call__(self, unit, policy):
        return self.costs[unit, policy].milliseconds

    def of_seam(self, seam):
        """From integers, and to them."""
        return tuple(self.latencies.of(key) for key in seam.keys)

    def total(self, choice):
        """Of a dict from units to policies."""
        in_float = lambda unit: unit in choice and choice[unit].computes_in_float
        changes = 0.0
        for seam in self.seams:
            made, read = in_float(seam.maker), {in_float(reader) for reader in seam.readers}
            changes += self.of_seam(seam)[int(made)] if (not made) in read else 0.0
        return sum(self(*item) for item in choice.items()) + changes


def _is_inside(maker, readers):
    return len(readers) == 1 and readers[0].path.startswith(f"{maker.path}/")


def activations_apart(graph):
    """A `PolicyMap` that parts the activations that no kernel fuses from their layers.

    Args:
        graph: fused `Graph` of a float model.
    """
    named = {}
    for node in graph.nodes:
        function = getattr(node.operation, "activation", None)
        inside = isinstance(node.operation, keras.layers.Layer) and not isinstance(node.operation, keras.layers.Activation)
        if inside and function not in (None, *FUSED_ACTIVATIONS):
            named[f"{node.path}/{getattr(function, '__name__', type(function).__name__)}"] = FLOAT32
    return PolicyMap(named)
