"""Quantizers by name, config or object, as Keras resolves initializers and activations."""

import inspect

import keras

from keras_quant.errors import QuantizationError

# What a quantizer is for: the integers of a layer's output, or those of its kernel.
OUTPUT, KERNEL = "output_quantizer", "kernel_quantizer"
_BY_NAME = {OUTPUT: {}, KERNEL: {}}


def register(name, role=OUTPUT, **arguments):
    """Class decorator: make the quantizer known to `get` by `name`, and to Keras for loading.

    Args:
        name: what users write.
        role: `OUTPUT` or `KERNEL`; a name may mean one class for each.
        **arguments: of the constructor, where the name stands for more than the class.
    """

    def decorate(cls):
        _BY_NAME[role][name] = (cls, arguments)
        cls.role = role
        return keras.saving.register_keras_serializable(package="keras_quant")(cls)

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
    roles = [OUTPUT, KERNEL] if role is None else [role]
    if isinstance(identifier, str):
        for each in roles:
            if identifier in _BY_NAME[each]:
                cls, arguments = _BY_NAME[each][identifier]
                return cls(**arguments, **_width(cls, bits))
    made = keras.saving.deserialize_keras_object(identifier) if isinstance(identifier, dict) else identifier
    own = getattr(made, "role", None)
    if own in roles:
        return made
    names = sorted({name for each in roles for name in _BY_NAME[each]})
    kind = {OUTPUT: "A quantizer of outputs", KERNEL: "A quantizer of kernels"}.get(role, "A quantizer")
    hint = f" {type(made).__name__} is a `{own}`." if own is not None else ""
    raise QuantizationError(f"{kind} is one of {names}, a quantizer object or its config.{hint} Received: {identifier!r}")


def with_width(identifier, role, bits):
    """A new quantizer as `identifier` says, a name, config or object, for integers of `bits` bits."""
    if isinstance(identifier, str):
        return get(identifier, role, bits)
    made = get(identifier, role)
    return type(made).from_config({**made.get_config(), **_width(type(made), bits)})


def _width(cls, bits):
    return {"bits": bits} if bits is not None and "bits" in inspect.signature(cls).parameters else {}


def serialize(quantizer):
    """The config from which `get` makes an equal quantizer."""
    return keras.saving.serialize_keras_object(quantizer)


def check_bits(cls, bits, widths):
    """Refuse a width that a method does not take."""
    if bits not in widths:
        raise QuantizationError(f"{cls.__name__}: `bits` must be one of {list(widths)}. Received: bits={bits}")
