"""One size for inputs whose size is open: given, or that of the data."""

import itertools
import numbers

import keras
from keras import tree
from keras.src.models.functional import Functional

from keras_quant.data import is_arrays
from keras_quant.errors import CalibrationError, QuantizationError


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
    known = noted_shapes(model)
    if known is not None and input_shape is not None and not is_functional(model):
        known = {name: (None,) * len(shape) for name, shape in known.items()}  # those of its first call
    if known is not None and input_shape is None and not is_open_in(known.values()):
        return model, data
    if input_shape is not None:
        shapes = given_shapes(model, known, input_shape)
        if known is None or data is None or not is_open_in(shapes):
            return Sized(model, shapes), data
        known = dict(zip(known, shapes))
    if data is None or (known is None and not model.built):
        return model, data
    batch, data = _first_batch(data, known)
    return Sized(model, _of_data(known, batch)), data


def noted_shapes(model):
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


def is_functional(model):
    """Whether a model follows a graph of its own."""
    return isinstance(model, (Functional, keras.Sequential))


def is_open_in(shapes):
    """Whether a size is `None` in one of the shapes."""
    return any(size is None for shape in shapes for size in shape)


def _is_shape(value):
    return isinstance(value, (list, tuple)) and all(size is None or isinstance(size, numbers.Integral) for size in value)


def given_shapes(model, known, wanted):
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
    return [filled(shape, shape_of(x)) for shape, x in zip(known.values(), flat)]


def filled(shape, found):
    """A shape with its open sizes from another; as it is, where the two have not as many."""
    if len(shape) != len(found):
        return shape
    return tuple(new if old is None else old for old, new in zip(shape, found))


def sizes_of(data, known, model):
    """The sizes of data where those of a file are open.

    Args:
        data: whatever `fit` takes.
        known: dict from input names to shapes without batch, `None` where they are open.
        model: whose inputs these are.

    Returns:
        Dict from input names to shapes, and the data, none of it used up.

    Raises:
        CalibrationError: where the data does not say.
    """
    known = {name: known[name] for name in noted_shapes(model) or known if name in known}
    batch, data = _first_batch(data, known)
    shapes = dict(zip(known, _of_data(known, batch)))
    if is_open_in(shapes.values()):
        raise CalibrationError(
            f"The file leaves sizes open, and this data does not say them. Pass an array for each of the inputs {known}."
        )
    return shapes, data


def at_size_of(model, graph):
    """A float model at the size of the quantized one that a graph was traced from."""
    known = None if isinstance(model, Sized) else noted_shapes(model)
    if isinstance(model, Sized) or (known is not None and not is_open_in(known.values())):
        return model
    shapes = [value.shape[1:] for value in graph.inputs]
    return Sized(model, shapes if known is not None else tree.pack_sequence_as(graph.input_structure, shapes))
