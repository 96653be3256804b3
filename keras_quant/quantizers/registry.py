"""Quantizers by name, config or object, as Keras resolves initializers and activations."""

import keras

from keras_quant.errors import QuantizationError
from keras_quant.registry import Registry, taken

# What a quantizer is for: the integers of a layer's output, or those of its kernel.
OUTPUT, KERNEL = "output_quantizer", "kernel_quantizer"
_ROLES = {
    OUTPUT: Registry("A quantizer of outputs", lambda made: _role(made) == OUTPUT),
    KERNEL: Registry("A quantizer of kernels", lambda made: _role(made) == KERNEL),
}


def register(name, role=OUTPUT, **arguments):
    """Class decorator: make the quantizer known to `get` by `name`, and to Keras for loading.

    Args:
        name: what users write.
        role: `OUTPUT` or `KERNEL`; a name may mean one class for each.
        **arguments: of the constructor, where the name stands for more than the class.
    """

    def decorate(cls):
        cls.role = role
        return _ROLES[role].register(name, **arguments)(cls)

    return decorate


def get(identifier, role=None, bits=None):
    """The quantizer meant by `identifier`.

    Args:
        identifier: a registered name (`"moving_average"`, `"lsq"`), a config made by `serialize`, or a quantizer, which is
            returned as it is.
        role: "output_quantizer" or "kernel_quantizer", for names that mean one of each; by default whichever has the name,
            outputs first.
        bits: width of one made by name; its own default by default.

    Raises:
        QuantizationError: for an unknown name, another type, a quantizer of the other role, or a width it does not take.
    """
    made = keras.saving.deserialize_keras_object(identifier) if isinstance(identifier, dict) else identifier
    own = _role(made)
    if role is None:
        role = own or next((each for each in _ROLES if made in _ROLES[each]), OUTPUT)
    if own not in (None, role):
        raise QuantizationError(f"{type(made).__name__} is a `{own}`, not an `{role}`. Received: {role}={identifier!r}")
    return _ROLES[role].get(made, bits=bits)


def with_width(identifier, role, bits):
    """A new quantizer as `identifier` says, a name, config or object, for integers of `bits` bits."""
    made = get(identifier, role, bits)
    if isinstance(identifier, str):
        return made
    return type(made).from_config({**made.get_config(), **taken(type(made), {"bits": bits})})


def _role(made):
    return getattr(made, "role", None)


def serialize(quantizer):
    """The config from which `get` makes an equal quantizer."""
    return keras.saving.serialize_keras_object(quantizer)


def check_bits(cls, bits, widths):
    """Refuse a width that a method does not take."""
    if bits not in widths:
        raise QuantizationError(f"{cls.__name__}: `bits` must be one of {list(widths)}. Received: bits={bits}")
