"""`top_k`, whose two outputs become two nodes."""

from keras import tree
from keras.src.ops import math

from keras_quant.graph.expand import expands
from keras_quant.graph.graph import Node
from keras_quant.graph.kinds import is_real
from keras_quant.layers.top_k import QuantTopK, TopIndices


@expands(math, "TopK")
def _top_k(node):
    """The values, on the grid of what they are taken from, and their indices."""
    values, indices = tree.flatten(node.outputs)
    (x,), k = node.inputs, node.operation.k
    if not is_real(x) or node.policy is None or node.policy.computes_in_float:
        return [node]
    places = Node(TopIndices(k), f"{node.path}/indices", (x,), {}, indices)
    return [Node(QuantTopK(k), node.path, (x,), {}, values), places]
