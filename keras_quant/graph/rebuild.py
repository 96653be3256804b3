"""A layer's config for a layer that is made of it here and now, with the very objects in it."""

import contextlib
import types

import keras
from keras.src.saving import serialization_lib

from keras_quant.layers.functions import has_layer

_AS_THEY_ARE = keras.regularizers.Regularizer, keras.initializers.Initializer, keras.constraints.Constraint


def config_of(layer):
    """`get_config`, in which regularizers, initializers and constraints are themselves, functions among them.

    So they need no `get_config` and no registration until the model is saved, when Keras says so.
    """
    if type(layer) is keras.layers.Identity:
        return {}  # It takes arguments of any kind, and then has no config.
    with _objects_in_configs():
        return layer.get_config()


@contextlib.contextmanager
def _objects_in_configs():
    serialize = serialization_lib.serialize_keras_object
    serialization_lib.serialize_keras_object = lambda x: x if _stays(x) else serialize(x)
    try:
        yield
    finally:
        serialization_lib.serialize_keras_object = serialize


def _stays(x):
    return isinstance(x, _AS_THEY_ARE) or (isinstance(x, types.FunctionType) and not has_layer(x))


def changed(layer, **attributes):
    """The same layer, the same variables, with other attributes."""
    made = object.__new__(type(layer))  # a copy by Keras would be rebuilt from its config
    made.__dict__.update(vars(layer), **attributes)
    return made
