"""Activation functions: those that kernels fuse, and the layers that compute the others."""

import keras

from keras_quant.errors import UnsupportedLayerError

# Activations that int8 kernels apply by clamping their output, as the real bounds they clamp to.
FUSED_ACTIVATIONS = {
    keras.activations.linear: (None, None),
    keras.activations.relu: (0.0, None),
    keras.activations.relu6: (0.0, 6.0),
}

_ACTIVATION_LAYERS, _CLASSES = {}, {}


def activation_layer(function, name, **kwargs):
    """The quantized layer that computes a Keras activation function.

    Args:
        function: as `keras.activations.get` returns it.
        name: of the layer.
        **kwargs: further arguments of the layer.

    Raises:
        UnsupportedLayerError: if the function has no quantized form.
    """
    if function in _ACTIVATION_LAYERS:
        return _ACTIVATION_LAYERS[function](name=name, **kwargs)
    names = sorted({known.__name__ for known in (*FUSED_ACTIVATIONS, *_ACTIVATION_LAYERS)})
    called, layer = getattr(function, "__name__", function), name.removesuffix("_activation")
    raise UnsupportedLayerError(f"Activation '{called}' of layer '{layer}' has no quantized form. Use one of {names}.")


def activation_layers():
    """The activation functions that a layer of its own computes, with that layer's name."""
    return {function: f"`{cls.__name__}`" for function, cls in _CLASSES.items()}


def has_layer(function):
    """Whether a kernel fuses the activation function, or a quantized layer computes it."""
    return function in FUSED_ACTIVATIONS or function in _ACTIVATION_LAYERS


def computes_activation(*functions, **arguments):
    """Class decorator: the class, called with `arguments`, computes these activation functions as a layer of its own.

    Functions that not every supported Keras has are given by name.
    """

    def decorate(cls):
        for function in functions:
            known = getattr(keras.activations, function, None) if isinstance(function, str) else function
            if known is not None:
                _ACTIVATION_LAYERS[known], _CLASSES[known] = lambda **kwargs: cls(**arguments, **kwargs), cls
        return cls

    return decorate
