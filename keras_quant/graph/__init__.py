"""A model as one flat graph of leaf layers, and the passes over it."""

from keras_quant.graph import composed, contraction, encodings, fourier, linear, moved, patches, top_k
from keras_quant.graph.additive import lift_additive_masks
from keras_quant.graph.apart import ranges_apart, warn_of_ranges_apart, with_float_ends
from keras_quant.graph.choices import lift_choices, lift_masked_means
from keras_quant.graph.constants import lift_constants
from keras_quant.graph.expand import expand
from keras_quant.graph.front import batch_to_front
from keras_quant.graph.fuse import fuse_activations, fuse_batch_norms
from keras_quant.graph.graph import Graph, Node, Value
from keras_quant.graph.halves import settle_halves
from keras_quant.graph.islands import keep_islands
from keras_quant.graph.kinds import keep_integers
from keras_quant.graph.learned import constants_to_tensors
from keras_quant.graph.literals import fold_literals
from keras_quant.graph.logarithms import merge_logarithms
from keras_quant.graph.masks import expand_masks
from keras_quant.graph.place import place
from keras_quant.graph.products import lift_products
from keras_quant.graph.rescale import fuse_input_scales, merge_rescalings
from keras_quant.graph.softmax import scale_inner_softmaxes
from keras_quant.graph.symmetric import symmetric_right_sides
from keras_quant.graph.tables import lift_tables
from keras_quant.graph.trace import trace
from keras_quant.graph.weights import join_biases, lift_weights

__all__ = [
    "Graph",
    "Node",
    "Value",
    "batch_to_front",
    "constants_to_tensors",
    "expand",
    "expand_masks",
    "fold_literals",
    "fuse_activations",
    "fuse_batch_norms",
    "fuse_input_scales",
    "join_biases",
    "keep_islands",
    "keep_integers",
    "lift_additive_masks",
    "lift_choices",
    "lift_constants",
    "lift_masked_means",
    "lift_products",
    "lift_tables",
    "lift_weights",
    "merge_logarithms",
    "merge_rescalings",
    "place",
    "ranges_apart",
    "scale_inner_softmaxes",
    "settle_halves",
    "symmetric_right_sides",
    "trace",
    "warn_of_ranges_apart",
    "with_float_ends",
]
