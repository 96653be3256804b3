"""One size for inputs whose size is open: given, or that of the data."""

import itertools
import numbers

import keras
from keras import tree
from keras.src.models.functional import Functional

from keras_quant import layers
from keras_quant.data import is_arrays
from keras_quant.errors import QuantizationError
from keras_quant.graph.explain import explained
from keras_quant.layers import is_quantized
from keras_quant.layers.derived import sharing_objects

# What these are given may have been computed from the size of an input.
_HOLD_SIZES = (
    *(layers.QuantReshape, layers.QuantRegroup, layers.QuantSlice, layers.QuantTake, layers.QuantTile, layers.QuantPad),
    *(layers.QuantResizing, layers.QuantAddConstant, layers.QuantMultiplyConstant),
)


class Sized:
    """A float model at one size of its inputs; else it is the model.

    Args:
        model: `keras.Model`.
        shapes: a shape without batch for each input, in order; or a dict or list of them for a model that notes no inputs.
    """

    def __init__(self, model, shapes):
        self.model, self.shapes = model, shapes

    def __getattr__(self, name):
        return getattr(self.model, name)

    def __call__(self, *args, **kwargs):
        return self.model(*args, **kwargs)


def at_size(model, input_shape=None, data=None):
    """A float model at the size that is wanted of it.

    Args:
        model: `keras.Model`, or one that is `Sized` already.
        input_shape: as of `keras_quant.quantize`.
        data: whatever `fit` takes, or `None`; its first batch gives the sizes that are still open.

    Returns:
        The model, `Sized` where it has open sizes, and the data, none of it used up.
    """
    if isinstance(model, Sized) or not isinstance(model, keras.Model):
        return model, data
    known = _noted(model)
    if known is not None and input_shape is not None and not _is_functional(model):
        known = {name: (None,) * len(shape) for name, shape in known.items()}  # those of its first call
    if known is not None and input_shape is None and not _is_open(known.values()):
        return model, data
    if input_shape is not None:
        shapes = _given(model, known, input_shape)
        if known is None or data is None or not _is_open(shapes):
            return Sized(model, shapes), data
        known = dict(zip(known, shapes))
    if data is None or (known is None and not model.built):
        return model, data
    batch, data = _first_batch(data, known)
    return Sized(model, _of_data(known, batch)), data


def _noted(model):
    """Dict from the names of a model's inputs to their shapes without batch; `None` where Keras knows none."""
    if isinstance(model, keras.Sequential):
        model = model._functional
    if isinstance(model, Functional):
        return {x._keras_history.operation.name: tuple(x.shape[1:]) for x in model.inputs}
    built = (model.get_build_config() or {}) if model is not None and model.built else {}
    shapes = built.get("input_shape") or built.get("shapes_dict")
    if not shapes:
        return None
    if isinstance(shapes, dict):
        return {name: tuple(shape[1:]) for name, shape in sorted(shapes.items())}
    several = isinstance(shapes[0], (list, tuple))
    named = {f"input_{i}": shape for i, shape in enumerate(shapes)} if several else {"input": shapes}
    return {name: tuple(shape[1:]) for name, shape in named.items()}


def _is_functional(model):
    return isinstance(model, (Functional, keras.Sequential))


def _is_open(shapes):
    return any(size is None for shape in shapes for size in shape)


def _is_shape(value):
    return isinstance(value, (list, tuple)) and all(size is None or isinstance(size, numbers.Integral) for size in value)


def _given(model, known, wanted):
    """The shapes that `input_shape` asks for, in order."""
    received = f"Received: input_shape={wanted}"
    if known is None:
        shapes = tree.flatten(wanted)
        if not shapes or not all(isinstance(size, numbers.Integral) and size > 0 for size in shapes):
            raise QuantizationError(
                "`input_shape` is a shape without batch, of positive integers, a list of them, or a dict by input name. "
                f"{received}"
            )
        return wanted
    if isinstance(wanted, dict):
        strange = sorted(set(wanted) - set(known))
        if strange:
            raise QuantizationError(
                f"Model '{model.name}' has no input '{strange[0]}'; its inputs are {list(known)}. {received}"
            )
        wanted = [wanted.get(name, shape) for name, shape in known.items()]
    else:
        wanted = [wanted] if _is_shape(wanted) else list(wanted) if isinstance(wanted, (list, tuple)) else None
    if wanted is None or len(wanted) != len(known) or not all(map(_is_shape, wanted)):
        raise QuantizationError(
            "`input_shape` is a shape without batch, a list with one for each input, or a dict by input name; the inputs of "
            f"model '{model.name}' are {known}. {received}"
        )
    for (name, shape), given in zip(known.items(), wanted):
        fits = len(shape) == len(given) and all(old in (None, new) for old, new in zip(shape, given))
        if not fits or any(size is not None and size < 1 for size in given):
            raise QuantizationError(
                f"Input '{name}' is of shape {shape} without the batch; `input_shape` fills in what is `None` there. "
                f"{received}"
            )
    return [tuple(shape) for shape in wanted]


def _first_batch(data, known):
    """The inputs of the first batch, and the data as it was."""
    if isinstance(data, tuple) and data and is_arrays(data[0]):
        return data[0], data
    several = isinstance(data, list) and known is not None and len(data) != len(known)  # batches of one input
    if is_arrays(data) and not several:
        return data, data
    if isinstance(data, keras.utils.PyDataset):
        return _inputs(data[0]), data
    if not hasattr(data, "__iter__"):
        return None, data  # `calibrate` says what data is
    iterator = iter(data)
    batch = next(iterator, None)
    if batch is None:
        return None, data
    return _inputs(batch), itertools.chain([batch], iterator) if iterator is data else data


def _inputs(batch):
    return batch[0] if isinstance(batch, tuple) else batch


def _of_data(known, batch):
    """The shapes of a batch's arrays, in order; those that Keras noted where they do not go together."""
    shape_of = lambda x: tuple(map(int, getattr(x, "shape", ())[1:]))
    if known is None:
        if isinstance(batch, dict):
            return {name: shape_of(x) for name, x in batch.items()}
        return [shape_of(x) for x in batch] if isinstance(batch, (list, tuple)) else shape_of(batch)
    if isinstance(batch, dict):
        flat = [batch.get(name) for name in known]
    else:
        flat = list(batch) if isinstance(batch, (list, tuple)) else [batch]
    if len(flat) != len(known):
        return list(known.values())
    return [_filled(shape, shape_of(x)) for shape, x in zip(known.values(), flat)]


def _filled(shape, found):
    if len(shape) != len(found):
        return shape
    return tuple(new if old is None else old for old, new in zip(shape, found))


def at_size_of(model, graph):
    """A float model at the size of the quantized one that a graph was traced from."""
    known = None if isinstance(model, Sized) else _noted(model)
    if isinstance(model, Sized) or (known is not None and not _is_open(known.values())):
        return model
    shapes = [value.shape[1:] for value in graph.inputs]
    return Sized(model, shapes if known is not None else tree.pack_sequence_as(graph.input_structure, shapes))


def at_sizes(qmodel, shapes):
    """A model at the sizes that a file has: a dict from input names to shapes without batch."""
    known = _noted(qmodel)
    if known is None or set(shapes) != set(known):
        return qmodel
    if not is_quantized(qmodel):
        return at_size(qmodel, shapes)[0] if _is_open(known.values()) else qmodel
    return qmodel if {name: tuple(shape) for name, shape in shapes.items()} == known else resized(qmodel, shapes)


def resized(qmodel, input_shape):
    """A quantized model for another size of its inputs, with the same weights and ranges.

    Args:
        qmodel: quantized `keras.Model`.
        input_shape: as of `keras_quant.export`.

    Raises:
        QuantizationError: if a layer holds sizes, or cannot take this one.
    """
    known = _noted(qmodel)
    if known is None or not _is_functional(qmodel):
        raise QuantizationError(
            f"Model '{qmodel.name}' is no Functional one, as `quantize` returns it, and has one size. Build it anew for "
            f"another. Received: input_shape={input_shape}"
        )
    wanted = _given(qmodel, {name: (None,) * len(shape) for name, shape in known.items()}, input_shape)
    if wanted == list(known.values()):
        return qmodel
    for layer in qmodel.layers:
        if isinstance(layer, _HOLD_SIZES):
            raise _fixed(layer.name, type(layer).__name__, "holds sizes, which may follow from the input's", wanted)
    inputs = [
        keras.Input(shape, dtype=x.dtype, name=name) for (name, _), shape, x in zip(known.items(), wanted, qmodel.inputs)
    ]
    try:
        with sharing_objects():
            made = keras.models.clone_model(qmodel, input_tensors=tree.pack_sequence_as(_structure(qmodel), inputs))
    except ValueError as error:
        raise _fixed(qmodel.name, "model", f"does not take this size ({explained(error)})", wanted) from error
    for old, new in zip(qmodel.layers, made.layers):
        if [w.shape for w in old.weights] != [w.shape for w in new.weights]:
            raise _fixed(old.name, type(old).__name__, "has weights for one size", wanted)
    made.set_weights(qmodel.get_weights())
    return made


def _structure(model):
    return model.input if isinstance(model, keras.Sequential) else model._inputs_struct


def _fixed(name, kind, what, wanted):
    return QuantizationError(
        f"Layer '{name}' ({kind}) {what}. Quantize the float model with this `input_shape`, and give it the trained weights "
        f"and ranges by `other.set_weights(qmodel.get_weights())`. Received: input_shape={wanted}"
    )
