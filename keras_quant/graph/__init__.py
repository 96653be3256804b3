"""A model as one flat graph of leaf layers, and the passes over it."""

from keras_quant.graph import composed, contraction, drop_in, encodings, fourier, linear, moved, patches, recurrent, top_k
from keras_quant.graph.apart import ranges_apart, warn_of_ranges_apart, with_float_ends
from keras_quant.graph.graph import Graph, Node, Value
from keras_quant.graph.halves import settle_halves
from keras_quant.graph.passes import prepare
from keras_quant.graph.place import place
from keras_quant.graph.trace import trace

__all__ = [
    "Graph",
    "Node",
    "Value",
    "place",
    "prepare",
    "ranges_apart",
    "settle_halves",
    "trace",
    "warn_of_ranges_apart",
    "with_float_ends",
]
