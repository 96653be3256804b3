"""Which quantized layer stands for which Keras layer or operation."""

import keras

_QUANTIZED = {}


def quantizes(*float_classes):
    """Class decorator: the class is the quantized form of these Keras layers, and is known to Keras for loading."""

    def decorate(cls):
        for float_class in float_classes:
            _QUANTIZED[float_class] = cls
        return keras.saving.register_keras_serializable(package="keras_quant")(cls)

    return decorate


def quantized_class(operation):
    """The quantized class for a Keras layer or operation object, or `None`."""
    return _QUANTIZED.get(type(operation))
