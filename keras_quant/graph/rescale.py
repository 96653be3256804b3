"""Rescalings by fixed numbers: joined with each other, and with the kernel behind them."""

import dataclasses

import keras
import numpy as np
from keras import tree
from keras.src.ops import numpy as knp

from keras_quant import layers
from keras_quant.graph.fuse import join_pairs, layer_class, wants_another_policy
from keras_quant.graph.graph import Value
from keras_quant.layers.weighted import QuantWeighted

_COMMUTE_WITH_SCALES = (
    layers.QuantCropping2D,
    layers.QuantFlatten,
    layers.QuantPermute,
    layers.QuantReshape,
    layers.QuantZeroPadding2D,
)
_MOVES = (knp.ExpandDims, knp.Reshape, knp.Squeeze, knp.Transpose)


def merge_rescalings(graph):
    """Rescaling → Normalization, `x * 2 + 1` become one layer, which rounds once.

        rescaling(1/255) → normalization(mean, variance) → conv2d      ⟹      rescaling(a, b) → conv2d

    Also the hard sigmoid as MobileNetV3 spells it: `relu6(x + 3) * (1/6)`.
    """

    def join(node, follower):
        first, second = _affine(node), _affine(follower)
        if first is None or second is None or follower.output.shape != node.output.shape:
            return None
        joined = {"outputs": follower.outputs, "activation": follower.activation, "path": follower.path}
        if node.activation is None:
            layer = layers.QuantRescaling(first[0] * second[0], first[1] * second[0] + second[1])
            return dataclasses.replace(node, operation=layer, **joined)
        gain, shift = first[0] * second[0], first[1] * second[0]
        hard = np.allclose(gain, 1 / 6) and np.allclose(shift, 0.5) and not np.any(second[1])
        if node.activation is keras.activations.relu6 and hard and follower.activation is None:
            return dataclasses.replace(node, operation=layers.QuantHardSigmoid(), **joined)
        return None

    return join_pairs(graph, join)


def fuse_input_scales(graph):
    """A rescaling without offset → a layer with a kernel becomes one node, padding and reshaping in between or not.

        rescaling(1/255) → zero_padding → conv2d      ⟹      zero_padding → conv2d(input_scale=1/255)

    So do one and the product of two tensors, whichever comes first: attention divides by √d. Only where nothing else reads
    the rescaled tensor, and both layers are called once.
    """
    graph = join_pairs(graph, _product_with_scale)
    readers, calls = graph.consumers(), graph.calls()
    scales, sources, absorbed = {}, {}, set()
    for node in graph.nodes:
        scale = _scale_only(node)
        if scale is None or calls[id(node.operation)] > 1:
            continue
        reader = _only_reader(node, readers)
        while reader is not None and _commutes_with_scales(reader.operation):
            reader = _only_reader(reader, readers)
        if reader is None or calls[id(reader.operation)] > 1 or wants_another_policy(node, reader):
            continue
        if _is_weighted(reader) or _is_product(reader):
            scales[reader] = scales.get(reader, reader.input_scale) * scale
            sources[node.output] = node.inputs[0]
            absorbed.add(node)
    source = lambda x: sources.get(x, x) if isinstance(x, Value) else x
    nodes = [
        dataclasses.replace(node, args=tree.map_structure(source, node.args), input_scale=scales.get(node, node.input_scale))
        for node in graph.nodes
        if node not in absorbed
    ]
    return dataclasses.replace(graph, nodes=nodes)


def _product_with_scale(node, follower):
    scale = _scale_only(follower) if _is_product(node) and node.activation is None else None
    if scale is None:
        return None
    return dataclasses.replace(node, outputs=follower.outputs, path=follower.path, input_scale=node.input_scale * scale)


def _is_product(node):
    kinds = isinstance(node.operation, (knp.Matmul, knp.Einsum))
    return kinds and len(node.inputs) == 2 and not node.policy.computes_in_float


def _scale_only(node):
    """The factor of a node that multiplies by one number and does no more, or `None`."""
    affine = _affine(node) if node.activation is None else None
    if affine is None:
        return None
    gain, shift = map(np.unique, affine)
    return float(gain[0]) if gain.size == 1 and gain[0] > 0 and not shift.any() else None


def _commutes_with_scales(operation):
    return isinstance(operation, _MOVES) or layer_class(operation) in _COMMUTE_WITH_SCALES


def _only_reader(node, readers):
    found = readers.get(tree.flatten(node.outputs)[0], [])
    return found[0] if len(found) == 1 else None


def _is_weighted(node):
    cls = layer_class(node.operation)
    return cls is not None and issubclass(cls, QuantWeighted) and not node.policy.computes_in_float


def _affine(node):
    """Gain and shift as float64 arrays, if the node is a fixed affine layer; else `None`."""
    operation = node.operation
    if node.policy.computes_in_float:
        return None
    if isinstance(operation, (keras.layers.Rescaling, layers.QuantRescaling)):
        return np.float64(operation.scale), np.float64(operation.offset)
    if isinstance(operation, keras.layers.Normalization):
        layer = layers.QuantNormalization(**layers.QuantNormalization.config_of(operation))
        layer.build(node.inputs[0].shape)
        return tuple(keras.ops.convert_to_numpy(v) for v in layer.gain_and_shift())
    return None
