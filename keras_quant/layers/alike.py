"""Which layers compute alike in inference, so that their integer arithmetic is traced once."""

import dataclasses
import types

import keras
import numpy as np

from keras_quant import backend
from keras_quant.integer import Quantized, QuantParams

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis))
# What every Keras layer has, and what does not say how integers are computed.
_ASIDE = {*vars(keras.layers.Layer()), "afterwards", "input_layers", "output_quantizer"}
_ASIDE_OBJECTS = (keras.initializers.Initializer, keras.regularizers.Regularizer, keras.constraints.Constraint)
# Larger arrays are not compared.
_LARGEST_ARRAY = 2**16


class _UnlikeError(Exception):
    """Something that nobody can compare."""


def integer_call(layer, operands, y):
    """`layer.integer_call(operands, y)`, whose graph is shared by the layers of its kind.

    Args:
        layer: `QuantLayer`.
        operands: `Quantized`s or tensors, in the structure that the layer takes.
        y: `QuantParams` of the output.
    """
    flat = keras.tree.flatten(operands)
    tensors, forms = [], []
    for x in [*flat, y]:
        own, form = _parts(x)
        tensors += own
        forms.append(form)

    def call(*tensors):
        rest = iter(tensors)
        made = [_put_together(form, rest) for form in forms]
        return layer.integer_call(keras.tree.pack_sequence_as(operands, made[:-1]), made[-1])

    key, variables = _kind(layer, operands, forms)
    return backend.traced_once(key, call, variables, tensors)


def _parts(x):
    """The tensors in an operand, and what is to be put around them."""
    if isinstance(x, Quantized):
        return [x.integers, x.params.scale, x.params.zero_point], x.params.type
    if isinstance(x, QuantParams):
        return [x.scale, x.zero_point], (x.type,)
    return [keras.ops.convert_to_tensor(x)], None


def _put_together(form, tensors):
    if form is None:
        return next(tensors)
    if isinstance(form, tuple):
        return QuantParams(next(tensors), next(tensors), *form)
    return Quantized(next(tensors), QuantParams(next(tensors), next(tensors), form))


def _kind(layer, operands, forms):
    """What `layer.integer_call` depends on besides tensors, `None` where that cannot be compared; and its variables."""
    output = getattr(layer, "output_quantizer", None)
    structure = str(keras.tree.map_structure(lambda x: 0, operands))
    seen = {}
    try:
        key = _look(layer, seen), _look_aside(output), structure, tuple(forms)
    except _UnlikeError:
        return None, []
    return key, [x for x, _ in seen.values() if isinstance(x, keras.Variable)]


def _look(x, seen):
    """A hashable value, equal for what computes alike.

    Args:
        x: anything a layer has.
        seen: dict from the `id` of each object that was seen to it and its place among them.
    """
    if isinstance(x, _PLAIN) or isinstance(x, (type, types.FunctionType, types.BuiltinFunctionType)):
        return type(x), x
    if isinstance(x, _ASIDE_OBJECTS):
        return None
    if id(x) in seen:
        return "seen", seen[id(x)][1]
    seen[id(x)] = x, len(seen)
    if type(x) is keras.Variable:
        return "variable", tuple(x.shape), x.dtype
    if isinstance(x, (list, tuple)):
        return "list", tuple(_look(y, seen) for y in x)
    if isinstance(x, dict):
        return "dict", tuple((key, _look(y, seen)) for key, y in x.items())
    if isinstance(x, (np.ndarray, np.generic)) and x.dtype != object and x.size < _LARGEST_ARRAY:
        return x.dtype.str, x.shape, x.tobytes()
    if dataclasses.is_dataclass(x):
        return type(x), tuple(_look(getattr(x, field.name), seen) for field in dataclasses.fields(x))
    if isinstance(x, keras.layers.Layer) and not isinstance(x, keras.Model):
        return type(x), _look(dict(_attributes(x)), seen)
    raise _UnlikeError


def _look_aside(quantizer):
    """What is plain of the quantizer that makes the output's `QuantParams`."""
    return type(quantizer), tuple((k, v) for k, v in _attributes(quantizer) if isinstance(v, _PLAIN))


def _attributes(x):
    """By name, without those of TensorFlow's checkpoints."""
    own = getattr(x, "__dict__", {}).items()
    return [(name, value) for name, value in own if name not in _ASIDE and not name.startswith("_self_")]
