"""What a search decides about: the layers of a model that have kernels, and which precisions each of them takes."""

import dataclasses
import functools
import json
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_quant.errors import UnsupportedLayerError
from keras_quant.graph.graph import Value
from keras_quant.graph.keep import copy_of
from keras_quant.graph.loops import everywhere, inner_graph
from keras_quant.graph.macs import macs
from keras_quant.graph.recurrence import Recurrence

# Of a layer's config: what changes neither its operators nor their time.
_IRRELEVANT = ("name", "trainable", "dtype", "seed", "initializer", "regularizer", "constraint")


@dataclasses.dataclass(frozen=True, eq=False)
class Unit:
    """A layer with kernels: of a recurrent one all of them.

    Attributes:
        path: of the layer, as a key of a `PolicyMap`.
        node: its first `Node` in the fused float graph; of a recurrent layer the one that was there before.
        places: the nodes of the quantized model that compute it; more than one for a separable convolution, say.
        macs: multiply-accumulate operations for one sample, of all its calls.
        loops: the nodes of the quantized model that are loops of it, in which some of the places are.
        operations: ids of the operations that it is made of in the fused float graph.
    """

    path: str
    node: Any
    places: tuple
    macs: int
    loops: tuple = ()
    operations: frozenset = frozenset()

    @property
    def parted(self):
        """Whether its own activation is a layer of its own in the graph."""
        return self.node.activation is keras.activations.linear

    @functools.cached_property
    def signature(self):
        """JSON text that layers with the same operators share."""
        config = self.node.operation.get_config()
        if self.parted:
            config["activation"] = "linear"
        config = config.items()
        relevant = {key: value for key, value in config if not key.endswith(_IRRELEVANT)}
        shapes = [value.shape[1:] for value in self.node.inputs]
        return json.dumps([type(self.node.operation).__name__, shapes, relevant], default=str)


def units_of(graph, qmodel, quantized):
    """The units of a model.

    Args:
        graph: fused `Graph` of the float model.
        qmodel: the model that it became in int8.
        quantized: `Graph` of that.

    Returns:
        List of `Unit`s in the order of their first calls.
    """
    layers, found = {layer.name: layer for layer in qmodel.layers}, {}
    recurrent = {node.path: node for node in graph.nodes if isinstance(node.operation, Recurrence)}
    for node in graph.nodes:
        whole = next((path for path in recurrent if f"{node.path}/".startswith(f"{path}/")), None)
        if whole is not None:
            if whole not in found:
                found[whole] = _recurrent(recurrent[whole], graph, quantized)
            continue
        layer = layers.get(node.path.replace("/", "."))
        if layer is None or id(node.operation) in found:
            continue
        parts = {id(part) for part in layer._flatten_layers() if hasattr(part, "kernel_quantizer")}
        places = tuple(place for place in quantized.nodes if id(place.operation) in parts)
        if places:
            own = frozenset({id(node.operation)})
            found[id(node.operation)] = Unit(node.path, node, places, sum(map(macs, places)), operations=own)
    return list(found.values())


def _recurrent(node, graph, quantized):
    """The `Unit` of a recurrent layer: its loop, and what is computed for all steps at once."""
    name = node.path.replace("/", ".")
    inside = [place.node for place in everywhere(quantized) if f"{place.path}/".startswith((f"{name}/", f"{name}."))]
    loops = tuple(place for place in inside if inner_graph(place) is not None)
    places = tuple(place for place in inside if hasattr(place.operation, "kernel_quantizer"))
    around = sum(macs(place) for place in quantized.nodes if place in places or place in loops)
    own = frozenset(id(n.operation) for n in graph.nodes if f"{n.path}/".startswith(f"{node.path}/"))
    return Unit(node.path, node.operation.whole, places, around, loops, own)


def key_of(policy):
    """Text that tells a policy from all others, its quantizers included."""
    return policy.config if isinstance(policy.config, str) else json.dumps(policy.config, sort_keys=True)


def alone(unit):
    """A float model of the unit's layer alone, with its weights.

    Raises:
        UnsupportedLayerError: for what is called with more than tensors and numbers.
    """
    try:
        return _alone(unit)
    except (TypeError, ValueError, AttributeError) as error:
        raise UnsupportedLayerError(f"Layer '{unit.path}' cannot be called by itself ({error}).") from error


def _alone(unit):
    inputs = {value: keras.Input(value.shape[1:], dtype=value.dtype) for value in unit.node.inputs}
    layer = copy_of(unit.node, "layer")
    if unit.parted:
        layer.activation = keras.activations.linear
    fill = lambda x: inputs[x] if isinstance(x, Value) else x
    args, kwargs = tree.map_structure(fill, (unit.node.args, unit.node.kwargs))
    model = keras.Model(list(inputs.values()), layer(*args, **kwargs))
    if isinstance(layer, keras.layers.Layer):
        layer.set_weights([np.asarray(w) for w in unit.node.operation.get_weights()])
    return model
