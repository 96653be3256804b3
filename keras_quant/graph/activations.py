"""A layer whose activation no quantized layer computes: the layer without it, and the function behind it."""

import keras

from keras_quant.graph.rebuild import changed
from keras_quant.layers.functions import has_layer


def foreign_activation(layer):
    """The function of a layer's `activation` argument that has to be looked into, or `None`."""
    function = None if isinstance(layer, keras.layers.RNN) else getattr(layer, "activation", None)
    return None if function is None or has_layer(function) else function


def without_activation(layer):
    """The same layer, the same variables, with a linear activation."""
    return changed(layer, activation=keras.activations.linear)
