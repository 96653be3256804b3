"""A trained quantized model at another size, which the float model says."""

import json

import numpy as np
from keras import ops, tree

from keras_quant.errors import QuantizationError
from keras_quant.graph import place, with_float_ends
from keras_quant.graph.sizes import at_size, noted_shapes
from keras_quant.policy import PolicyMap
from keras_quant.quantize import fused_graph
from keras_quant.tflite.lower import lowers_in_float


def requantized(float_model, qmodel, inputs):
    """What `quantize` makes of the float model at another size, with the weights and ranges of the trained model.

    Weights that follow from the size, such as positions that a layer computes, are those of the float model: the two sizes
    tell them from the others.

    Args:
        float_model: that `qmodel` was made of.
        qmodel: from `quantize`.
        inputs: list of `keras.Input`s of the other size.
    """
    if not getattr(qmodel, "origin", ""):
        raise QuantizationError(
            f"Model '{qmodel.name}' does not say how it was made of the float model, as those from `quantize` do. Leave out "
            "`float_model`."
        )
    before, made = (_quantized(float_model, qmodel, xs) for xs in (qmodel.inputs, inputs))
    known = {layer.name: layer for layer in before.layers}
    if {(type(layer), layer.name) for layer in qmodel.layers} != {(type(layer), layer.name) for layer in before.layers}:
        raise QuantizationError(
            f"Model '{qmodel.name}' was not made of the float model '{float_model.name}': their layers differ. Pass the one "
            "that was quantized."
        )
    for layer in made.layers:
        if layer.name in known:
            _copy_trained(qmodel.get_layer(layer.name), known[layer.name], layer)
    return made


def _quantized(float_model, qmodel, inputs):
    """The quantized model at the size of `inputs`, as `quantize` leaves it."""
    origin, shapes = json.loads(qmodel.origin), [tuple(x.shape[1:]) for x in inputs]
    ends = None if origin["ends"] is None else PolicyMap.from_config(origin["ends"]).default
    # A model that notes no inputs takes them in the structure that it is called with.
    noted = noted_shapes(float_model) is not None
    model, _ = at_size(float_model, shapes if noted else tree.pack_sequence_as(qmodel._inputs_struct, shapes))
    graph = fused_graph(model, PolicyMap.from_config(origin["policies"]), origin["fallback"], ends)
    graph = with_float_ends(graph, set(origin["apart"]), lowers_in_float)
    made = place(graph, qmodel.name, origin["fallback"])
    made.origin = qmodel.origin
    return made


def _copy_trained(trained, before, after):
    """Copy the weights of a layer that are the same `before` and `after` the change of size."""
    if len(trained.weights) != len(after.weights):
        raise QuantizationError(
            f"Layer '{trained.name}' ({type(trained).__name__}) has other weights or ranges at this size than those that "
            "were trained. Resize or pad data to the size of the training."
        )
    for own, old, new in zip(trained.weights, before.weights, after.weights):
        if _is_equal(old, new):
            new.assign(own)
        elif own.trainable:
            raise QuantizationError(
                f"Weight '{own.path}' is trained for one size of the inputs. Resize or pad data to that size. Received: "
                f"shape {tuple(own.shape)}, and {tuple(new.shape)} at the other size"
            )


def _is_equal(a, b):
    return a.shape == b.shape and np.array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b), equal_nan=True)
