"""A model as one flat graph of leaf layers, and the passes over it."""

from keras_quant.graph import encodings
from keras_quant.graph.additive import lift_additive_masks
from keras_quant.graph.choices import lift_choices, lift_masked_means
from keras_quant.graph.constants import lift_constants
from keras_quant.graph.expand import expand
from keras_quant.graph.fuse import fuse_activations, fuse_batch_norms
from keras_quant.graph.graph import Graph, Node, Value
from keras_quant.graph.halves import settle_halves
from keras_quant.graph.kinds import keep_integers
from keras_quant.graph.masks import expand_masks
from keras_quant.graph.place import place
from keras_quant.graph.rescale import fuse_input_scales, merge_rescalings
from keras_quant.graph.softmax import scale_inner_softmaxes
from keras_quant.graph.tables import lift_tables
from keras_quant.graph.trace import trace
from keras_quant.graph.weights import join_biases, lift_weights

__all__ = [
    "Graph",
    "Node",
    "Value",
    "expand",
    "expand_masks",
    "fuse_activations",
    "fuse_batch_norms",
    "fuse_input_scales",
    "join_biases",
    "keep_integers",
    "lift_additive_masks",
    "lift_choices",
    "lift_constants",
    "lift_masked_means",
    "lift_tables",
    "lift_weights",
    "merge_rescalings",
    "place",
    "scale_inner_softmaxes",
    "settle_halves",
    "trace",
]
