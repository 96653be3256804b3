"""The passes between tracing and placing, in order."""

from keras_quant.graph.additive import lift_additive_masks
from keras_quant.graph.choices import lift_choices, lift_masked_means
from keras_quant.graph.constants import lift_constants
from keras_quant.graph.expand import expand
from keras_quant.graph.front import batch_to_front
from keras_quant.graph.fuse import fuse_activations, fuse_batch_norms
from keras_quant.graph.islands import keep_islands
from keras_quant.graph.kinds import keep_integers
from keras_quant.graph.learned import constants_to_tensors
from keras_quant.graph.literals import fold_literals
from keras_quant.graph.logarithms import merge_logarithms
from keras_quant.graph.masks import expand_masks
from keras_quant.graph.products import lift_products
from keras_quant.graph.recurrence import one_loop_a_layer
from keras_quant.graph.rescale import fuse_input_scales, merge_rescalings
from keras_quant.graph.softmax import scale_inner_softmaxes
from keras_quant.graph.streams import keep_streams
from keras_quant.graph.symmetric import symmetric_right_sides
from keras_quant.graph.tables import lift_tables
from keras_quant.graph.weights import join_biases, lift_weights

PASSES = (
    batch_to_front,
    keep_islands,
    fold_literals,
    expand_masks,
    expand,
    one_loop_a_layer,
    merge_logarithms,
    lift_masked_means,
    lift_additive_masks,
    lift_choices,
    lift_tables,
    keep_integers,
    lift_products,
    lift_weights,
    join_biases,
    lift_constants,
    constants_to_tensors,
    fuse_batch_norms,
    fuse_activations,
    merge_rescalings,
    fuse_input_scales,
    keep_streams,
    scale_inner_softmaxes,
    symmetric_right_sides,
)


def prepare(graph):
    """The graph of a float model, with policies, as `place` takes it."""
    for graph_pass in PASSES:
        graph = graph_pass(graph)
    return graph
