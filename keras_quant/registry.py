"""Serializable objects by name, config or object, as Keras resolves initializers and activations."""

import difflib
import inspect

import keras

from keras_quant.errors import QuantizationError


class Registry:
    """The classes of one kind of object, by the names that users write.

    Args:
        what: one of the kind, for messages: "A quantizer of kernels".
        accepts: function of any object: whether it is one.
    """

    def __init__(self, what, accepts):
        self.what, self.accepts = what, accepts
        self._by_name = {}

    def register(self, name, **arguments):
        """Class decorator: make the class known to `get` by `name`, and to Keras for loading.

        Args:
            name: what users write.
            **arguments: of the constructor, where the name stands for more than the class.
        """

        def decorate(cls):
            self._by_name[name] = (cls, arguments)
            return keras.saving.register_keras_serializable(package="keras_quant")(cls)

        return decorate

    def __contains__(self, identifier):
        return isinstance(identifier, str) and identifier in self._by_name

    def name_of(self, cls):
        """What a class is registered as; its own name, if it is not."""
        return next((name for name, (known, _) in self._by_name.items() if known is cls), cls.__name__)

    def get(self, identifier, **options):
        """The object meant by `identifier`.

        Args:
            identifier: a registered name, a config made by `keras.saving.serialize_keras_object`, or an object, which is
                returned as it is.
            **options: of the constructor, for one that is made by name; what is `None`, or what it does not take, is left
                out.

        Raises:
            QuantizationError: for another.
        """
        if identifier in self:
            cls, arguments = self._by_name[identifier]
            return cls(**arguments, **taken(cls, options))
        made = keras.saving.deserialize_keras_object(identifier) if isinstance(identifier, dict) else identifier
        if self.accepts(made):
            return made
        near = nearest(identifier, self._by_name)
        raise QuantizationError(
            f"{self.what} is one of {sorted(self._by_name)}, an object or its config.{near} Received: {identifier!r}"
        )


def nearest(name, known):
    """A sentence, with a space before it, that suggests the known name most like an unknown one; "" where none is alike."""
    spelled = {_plain(each): each for each in known}
    alike = difflib.get_close_matches(_plain(name), spelled, 1) if isinstance(name, str) else []
    return f" Did you mean '{spelled[alike[0]]}'?" if alike else ""


def _plain(name):
    return name.lower().replace("plus", "+").replace("_", "").replace("-", "").replace(" ", "")


def taken(cls, options):
    """Those of the options that are given and that the constructor of a class takes."""
    parameters = inspect.signature(cls).parameters
    return {name: value for name, value in options.items() if value is not None and name in parameters}
