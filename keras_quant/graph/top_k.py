"""`top_k`, whose two outputs become two nodes."""

from keras import tree
from keras.src.ops import math

from keras_quant.graph.expand import expands
from keras_quant.graph.graph import Node
from keras_quant.graph.kinds import is_real
from keras_quant.layers.top_k import QuantTopK, TopIndices, TopValues


@expands(math, "TopK")
def _top_k(node):
    """The values, on the grid of what they are taken from, and their indices."""
    values, indices = tree.flatten(node.outputs)
    (x,), k = node.inputs, node.operation.k
    if not is_real(x) or node.policy is None:
        return [node]
    largest = (TopValues if node.policy.computes_in_float else QuantTopK)(k)
    places = Node(TopIndices(k), f"{node.path}/indices", (x,), {}, indices)
    return [Node(largest, node.path, (x,), {}, values), places]
