"""Quantizers by name, config or object, as Keras resolves initializers and activations."""

import keras

from keras_quant.errors import QuantizationError

_BY_NAME = {}


def register(name):
    """Class decorator: make the quantizer known to `get` by `name`, and to Keras for loading."""

    def decorate(cls):
        _BY_NAME[name] = cls
        return keras.saving.register_keras_serializable(package="keras_quant")(cls)

    return decorate


def get(identifier):
    """The quantizer meant by `identifier`.

    Args:
        identifier: a registered name (`"moving_average"`, `"abs_max"`), a config made by `serialize`, or a quantizer,
            which is returned as it is.

    Raises:
        QuantizationError: for an unknown name or another type.
    """
    if isinstance(identifier, str) and identifier in _BY_NAME:
        return _BY_NAME[identifier]()
    if isinstance(identifier, dict):
        return keras.saving.deserialize_keras_object(identifier)
    if isinstance(identifier, keras.layers.Layer):
        return identifier
    raise QuantizationError(
        f"A quantizer is one of {sorted(_BY_NAME)}, a quantizer object or its config. Received: {identifier!r}"
    )


def serialize(quantizer):
    """The config from which `get` makes an equal quantizer."""
    return keras.saving.serialize_keras_object(quantizer)
