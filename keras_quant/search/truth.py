"""A choice of policies held against the truth: its file's size and the loss of its integers."""

import functools
import warnings

import numpy as np
from keras import ops, tree

from keras_quant import policy as policies
from keras_quant.calibrate import calibrate, has_ranges
from keras_quant.policy import PolicyMap
from keras_quant.quantize import quantize
from keras_quant.tflite import export_in_memory
from keras_quant.tflite.lower import lowers_in_float


class Truth:
    """Quantizes as a choice says, and measures.

    Args:
        model: the float model.
        graph: its fused `Graph`.
        batches: list of `(inputs, labels, weights)`.
        objective: `Objective`.
        fallback: as of `quantize`.
    """

    def __init__(self, model, graph, batches, objective, fallback):
        self.model, self.graph, self.batches = model, graph, batches
        self.objective, self.fallback = objective, fallback
        arrays = [np.concatenate(parts) for parts in zip(*(inputs for inputs, _, _ in batches))]
        self.calibration = arrays if len(arrays) > 1 else arrays[0]

    @functools.cached_property
    def _exact(self):
        return self._outputs(self.model)

    @functools.cached_property
    def in_int8(self):
        """The model in int8 throughout, calibrated."""
        return self._calibrated(self._placed(PolicyMap()))

    def quantized(self, chosen):
        """The model quantized by a `PolicyMap`, with its ranges set."""
        qmodel = self._placed(chosen)
        known = {layer.name: layer.output_quantizer for layer in _owners(self.in_int8)}
        for layer in _owners(qmodel):
            quantizer = layer.output_quantizer
            # Ranges are found in float: in whatever precision the other layers are, they are the same.
            alike = known.get(layer.name)
            if type(alike) is not type(quantizer) or alike.bits != quantizer.bits:
                return self._calibrated(qmodel)
            quantizer.set_range(*(float(v) for v in alike.range()))
        return qmodel

    def _placed(self, chosen):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return quantize(self.model, chosen, fallback=self.fallback)

    def _calibrated(self, qmodel):
        return calibrate(qmodel, self.calibration, verbose=0) if has_ranges(qmodel) else qmodel

    def figures(self, chosen):
        """The file, as bytes, and the rise of the loss, of a `PolicyMap`."""
        qmodel = self.quantized(chosen)
        rises = []
        for y, exact, (_, labels, weights) in zip(self._outputs(qmodel), self._exact, self.batches):
            rises.append(self.objective.rise(y, exact, labels, weights))
        return content_of(qmodel), float(np.mean(rises))

    def _outputs(self, model):
        # A few batches take less time than a graph to be traced.
        structure = self.graph.input_structure
        pack = lambda inputs: tree.pack_sequence_as(structure, list(map(ops.convert_to_tensor, inputs)))
        return [model(pack(inputs), training=False) for inputs, _, _ in self.batches]

    def policy_map(self, choice):
        """The `PolicyMap` of a choice, a dict from units to policies, int8 for all else.

        A layer without kernel that the choice leaves out, and that only layers which compute in float feed, does so, too,
        where it has an operator. An activation is named where it computes in another type than its layer.
        """
        chosen = {id(unit.node.operation): policy for unit, policy in choice.items()}
        parts = {operation: unit for unit in choice if unit.loops for operation in unit.operations}
        feeds, named = {}, {}
        for node in self.graph.nodes:
            if id(node.operation) in parts:
                unit = parts[id(node.operation)]
                own = named[unit.path] = choice[unit]
                feeds.update((value, own) for value in tree.flatten(node.outputs))
                continue
            own = chosen.get(id(node.operation)) or _fed_in_float(node, feeds)
            layer = node.path.rpartition("/")[0]
            joined = layer in named and node.inputs[0].name == layer and named[layer].computes_in_float
            if own is not None and own != policies.get("int8") and not joined:
                named[node.path] = own
            feeds.update((value, own) for value in tree.flatten(node.outputs))
        return PolicyMap({path: own for path, own in named.items() if own != policies.get("int8")}, default="int8")


def _fed_in_float(node, feeds):
    """The float policy of all layers that feed a node, or `None`; behind dynamic ones that is float32."""
    real = lambda policy: policies.get("float32") if policy is not None and policy.activations == "dynamic" else policy
    fed = {real(feeds.get(value)) for value in node.inputs}
    only = fed.pop() if len(fed) == 1 else None
    plain = only is not None and only.weights == only.activations in policies.FLOATS
    return only if plain and lowers_in_float(node.operation) else None


def _owners(qmodel):
    """The layers that own the grid of a tensor."""
    return [layer for layer in qmodel._flatten_layers() if getattr(layer, "output_quantizer", None) is not None]


def content_of(qmodel):
    """A quantized model's file, as bytes."""
    return export_in_memory(qmodel, qmodel.name)[0]
