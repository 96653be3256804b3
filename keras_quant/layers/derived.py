"""Weights of layers that are computed from other weights: a table that two layers share, a kernel that is standardized.

They follow the variables that they are made of in each step of training, and are numbers like all others in the file.
"""

import contextlib

import keras
from keras import ops
from keras.src import backend
from keras.src.backend.common import KerasVariable, global_state
from keras.src.saving.serialization_lib import ObjectSharingScope

from keras_quant.errors import QuantizationError
from keras_quant.settings import InFloat32


@keras.saving.register_keras_serializable(package="keras_quant")
class Source(InFloat32, keras.layers.Layer):
    """A variable that weights of layers are computed from. It is called by nobody.

    Args:
        shape: of the variable, float32.

    Attributes:
        readers: how many weights are computed from it, while a model is made.
    """

    readers = 0

    def __init__(self, shape, **kwargs):
        super().__init__(**kwargs)
        self.weight_shape = tuple(shape)
        self.value = self.add_weight(name="value", shape=self.weight_shape, initializer="zeros")
        self.built = True

    def get_config(self):
        return {**super().get_config(), "shape": self.weight_shape}


class Derived(backend.Variable):
    """What a layer reads in the place of a variable of its own. Not to be assigned to.

    It is computed in float64 and then float32, so that it is the same number in every executor.

    Args:
        sources: list of `Source`s.
        function: Keras model in float64 from their variables to the weight, or `None` where the weight is the first of them.
        variable: the one in whose place it stands.
    """

    def __init__(self, sources, function, variable):
        # It has no value of its own: nothing is created.
        self.sources, self.function = sources, function
        self._name, self._path, self._dtype = variable.name, variable.path, "float32"
        self._shape = tuple(variable.shape)
        self._ndim, self._autocast = len(self._shape), False
        self._trainable = any(source.value.trainable for source in sources)
        self._regularizer = self._constraint = self._initializer = None

        self.stand_in = None

    # Attributes in Keras 3.5, properties in newer ones.
    @property
    def name(self):
        return self._name

    @property
    def path(self):
        return self._path

    @property
    def value(self):
        if self.stand_in is not None:
            return self.stand_in
        if self.function is None:
            return self.sources[0].value.value
        values = [ops.cast(source.value.value, "float64") for source in self.sources]
        return ops.cast(self.function(values), "float32")

    def assign(self, value):
        raise QuantizationError(
            f"Weight '{self.path}' is computed from {[source.name for source in self.sources]}, which other layers may "
            "read, too. Assign to the variable `value` of those."
        )


def derive(layer, name, sources, function=None):
    """Let a weight of a built layer be computed from others from now on.

    Args:
        layer: Keras layer.
        name: of the attribute that holds the variable.
        sources, function: as of `Derived`.

    Returns:
        The `Derived` weight.
    """
    variable = getattr(layer, name)
    if not isinstance(variable, Derived):
        layer._untrack_variable(variable)
    # Some layers keep the variable that they show as `kernel` in `_kernel`.
    attribute = next(key for key, x in vars(layer).items() if x is variable)
    derived = vars(layer)[attribute] = Derived(sources, function, variable)
    locked = layer._tracker.locked
    layer._tracker.unlock()
    known = list(getattr(layer, "weight_sources", ()))
    layer.weight_sources = [*known, *(source for source in sources if source not in known)]
    if locked:
        layer._tracker.lock()
    return derived


@contextlib.contextmanager
def with_value(variable, value):
    """Let a weight of a layer, a variable or a `Derived`, have another value for a while."""
    if isinstance(variable, Derived):
        variable.stand_in = value
    else:
        before = ops.convert_to_numpy(variable)
        variable.assign(value)
    try:
        yield
    finally:
        if isinstance(variable, Derived):
            variable.stand_in = None
        else:
            variable.assign(before)


def derived_weights(layer):
    """Dict from names of attributes to the `Derived` weights in them."""
    return {key.removeprefix("_"): x for key, x in vars(layer).items() if isinstance(x, Derived)}


def is_derived(variable):
    """Whether a weight of a layer is computed from others, so that none can be assigned to it."""
    return isinstance(variable, Derived)


def is_variable(x):
    """Whether `x` is a variable of Keras. In Keras 3.5 those of layers are of no subclass of `keras.Variable`."""
    return isinstance(x, KerasVariable)


def config_of_derived(layer):
    """What a layer's config holds of its `derived_weights`. Keras writes each object once in a model that it saves."""
    return {
        name: {"sources": weight.sources, "function": weight.function} for name, weight in derived_weights(layer).items()
    }


def plain_config(config):
    """What `config_of_derived` gives, without objects: a layer that is made of it has sources of its own.

    Layers that are made in one `sharing_objects` share them again.
    """

    def plain(x):
        if x is None or isinstance(x, dict):
            return x
        return {**keras.saving.serialize_keras_object(x), "shared_object_id": id(x)}

    each = lambda entry: {"sources": [plain(source) for source in entry["sources"]], "function": plain(entry["function"])}
    return {name: each(entry) for name, entry in (config or {}).items()}


def derive_from_config(layer, config):
    """Derive the weights of a built layer as a `plain_config` says."""
    made = lambda x: None if x is None else keras.saving.deserialize_keras_object(x)
    for name, entry in config.items():
        derive(layer, name, [made(source) for source in entry["sources"]], made(entry["function"]))


@contextlib.contextmanager
def sharing_objects():
    """Configs that hold the same object make one object of it, as they do in a file that Keras saves."""
    shares = global_state.get_global_attribute("shared_objects/id_to_obj_map") is not None
    with contextlib.nullcontext() if shares else ObjectSharingScope():
        yield


def reshaped(weight, shape):
    """Sources and function of a `Derived` weight in another shape."""
    inputs = [keras.Input(batch_shape=source.weight_shape, dtype="float64") for source in weight.sources]
    value = inputs[0] if weight.function is None else weight.function(inputs)
    return weight.sources, keras.Model(inputs, ops.reshape(value, shape), name="weight")


class FollowsWeights:
    """Mixin before a Keras layer whose weights may be computed from others.

    Args:
        derived: which weights are, as `config_of_derived` has it; none by default.
    """

    def __init__(self, *args, derived=None, **kwargs):
        super().__init__(*args, **kwargs)
        self._to_derive = plain_config(derived)

    def build(self, input_shape):
        super().build(input_shape)
        derive_from_config(self, self._to_derive)

    def get_config(self):
        derived = config_of_derived(self)
        return {**super().get_config(), "derived": derived} if derived else super().get_config()

    # Keras's layers save what they read, be it a variable or computed from some.
    def save_own_variables(self, store):
        derived = derived_weights(self)
        keras.layers.Layer.save_own_variables(self, store) if derived else super().save_own_variables(store)

    def load_own_variables(self, store):
        derived = derived_weights(self)
        keras.layers.Layer.load_own_variables(self, store) if derived else super().load_own_variables(store)
