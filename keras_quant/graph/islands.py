"""Layers that compute in float by themselves."""

import dataclasses

from keras_quant import policy as policies
from keras_quant.layers import float_stand_in


def keep_islands(graph):
    """What 8 bits would spoil, such as a spectrogram, gets the policy "float32", unless the map names one for it.

    stft_spectrogram → conv2d      ⟹      stft_spectrogram (float32) → conv2d

    """
    return dataclasses.replace(graph, nodes=[_in_float(node) for node in graph.nodes])


def _in_float(node):
    stand_in = float_stand_in(node.operation)
    if stand_in is None or (node.named and not node.policy.computes_in_float):
        return node
    layer = node.operation
    if stand_in is not type(layer):
        layer = stand_in.from_config(layer.get_config())
        layer.build(node.inputs[0].shape)
        layer.set_weights(node.operation.get_weights())
    return dataclasses.replace(node, operation=layer, policy=policies.get("float32"))
