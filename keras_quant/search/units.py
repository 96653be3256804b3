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
from keras_quant.graph.macs import macs

# Of a layer's config: what changes neither its operators nor their time.
_IRRELEVANT = ("name", "trainable", "dtype", "seed", "initializer", "regularizer", "constraint")


@dataclasses.dataclass(frozen=True, eq=False)
class Unit:
    """A layer with a kernel.

    Attributes:
        path: of the layer, as a key of a `PolicyMap`.
        node: its first `Node` in the fused float graph.
        places: the nodes of the quantized model that compute it; more than one for a separable convolution, say.
        macs: multiply-accumulate operations for one sample, of all its calls.
    """

    path: str
    node: Any
    places: tuple
    macs: int

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
    for node in graph.nodes:
        layer = layers.get(node.path.replace("/", "."))
        if layer is None or id(node.operation) in found:
            continue
        parts = {id(part) for part in layer._flatten_layers() if hasattr(part, "kernel_quantizer")}
        places = tuple(place for place in quantized.nodes if id(place.operation) in parts)
        if places:
            found[id(node.operation)] = Unit(node.path, node, places, sum(map(macs, places)))
    return list(found.values())


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
