"""Which quantized layer stands for which Keras layer or operation."""

import functools
import importlib

import keras

_QUANTIZED, _OPERATIONS, _TAKES_CONSTANTS, _INTEGER_SLOTS = {}, {}, set(), {}
_REFUSED, _OUTSIDE, _IN_FLOAT = {}, {}, {}


def register_quantized_layer(*float_classes, package="Custom"):
    """Class decorator: `quantize` puts the class wherever one of these layers stands, and Keras can load it.

    The quantized layer is made of the float layer's `get_config`, gets its variables by name, and is called with its one
    tensor, or with a list where the float layer takes several. It is a `keras_quant.layers.QuantLayer` (one operator) or
    `QuantComposite` (several quantized layers).

        @keras_quant.register_quantized_layer(MyLayer)
        class QuantMyLayer(keras_quant.layers.QuantLayer, MyLayer):
            ...

    Args:
        *float_classes: subclasses of `keras.layers.Layer`; theirs are not included.
        package: as in `keras.saving.register_keras_serializable`.
    """
    for float_class in float_classes:
        if not (isinstance(float_class, type) and issubclass(float_class, keras.layers.Layer)):
            raise TypeError(f"`register_quantized_layer` takes the float layers' classes. Received: {float_class!r}")

    def decorate(cls):
        for float_class in float_classes:
            _QUANTIZED[float_class] = cls
        return keras.saving.register_keras_serializable(package=package)(cls)

    return decorate


# What this package's own layers use.
quantizes = functools.partial(register_quantized_layer, package="keras_quant")


def quantized_class(operation):
    """The quantized class for a Keras layer or operation object, or `None`."""
    return _QUANTIZED.get(type(operation))


def float_classes(cls):
    """The Keras layers that a quantized class, or a subclass of it, stands for."""
    return [float_class for float_class, quantized in _QUANTIZED.items() if issubclass(quantized, cls)]


def computes(*names, constants=False, integer_slots=()):
    """Decorator: the function makes the quantized layer of these `keras.ops` operations.

    It takes `(operation, args, **arguments)`: the operation object, which holds the parameters that are no tensors; what it
    is called with, in the order of its `call`; and the arguments that every layer gets (`name`, a fused `activation`). The
    layer is called with the operation's tensors, in a list if there are several.

    Args:
        *names: classes of `keras.src.ops` by module and name, "numpy.Add", of which those that this Keras lacks are left
            out; or other classes of operations.
        constants: whether the factory reads those of `args` that are no tensors; otherwise they are refused.
        integer_slots: which of its tensors are integers or booleans, such as indices, and stay what they are.
    """

    def decorate(factory):
        for operation in _operations(names):
            _OPERATIONS[operation] = factory
            _INTEGER_SLOTS[operation] = integer_slots
            if constants:
                _TAKES_CONSTANTS.add(operation)
        return factory

    return decorate


def operation_factory(operation):
    """The function that makes the quantized layer of a `keras.ops` operation object, or `None`; see `computes`."""
    return _OPERATIONS.get(type(operation))


def integer_slots(operation):
    """Which tensors of a float layer or operation it, or its quantized layer, reads as integers or booleans."""
    known = _INTEGER_SLOTS.get(type(operation)) or getattr(operation, "integer_slots", None)
    return known or getattr(quantized_class(operation), "integer_slots", ())


def takes_constants(operation):
    """Whether the factory of a `keras.ops` operation object reads operands that are no tensors; see `computes`."""
    return type(operation) in _TAKES_CONSTANTS


def refuses(reason, *names):
    """Say why Keras layers have no quantized form, and the way out.

    Args:
        reason: a sentence or two.
        *names: of classes in `keras.layers`; those that this Keras lacks are left out.
    """
    _REFUSED.update((getattr(keras.layers, name), reason) for name in names if hasattr(keras.layers, name))


def leaves_outside(reason, *names):
    """Say why Keras layers do their work outside a quantized model, and how to leave them there; args as of `refuses`."""
    _OUTSIDE.update((getattr(keras.layers, name), reason) for name in names if hasattr(keras.layers, name))


def refuses_operations(reason, *names):
    """As `refuses`, of operations named as `computes` names them."""
    _REFUSED.update((operation, reason) for operation in _operations(names))


def _operations(names):
    """Classes of `keras.src.ops` by module and name, as far as this Keras has them."""
    classes = (_of_keras(*name.split(".")) if isinstance(name, str) else name for name in names)
    return [operation for operation in classes if operation is not None]


def _of_keras(module, name):
    return getattr(importlib.import_module(f"keras.src.ops.{module}"), name, None)


def reason_against(operation):
    """Why a Keras layer or operation has no quantized form, or `None`; holds for subclasses too."""
    known = _REFUSED | _OUTSIDE
    return next((known[cls] for cls in type(operation).__mro__ if cls in known), None)


def computes_in_float(float_class, reason, by=None):
    """Say that a Keras layer computes in float whatever the policy, unless a map names one for it.

    Args:
        float_class: the layer's class.
        reason: a sentence.
        by: the class that stands for it in a quantized model, made of its config; by default its own.
    """
    _IN_FLOAT[float_class] = by or float_class, reason


def float_stand_in(layer):
    """The class that computes a layer in float whatever the policy, or `None`."""
    return _IN_FLOAT.get(type(layer), (None, None))[0]
