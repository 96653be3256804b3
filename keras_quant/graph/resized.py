"""A trained quantized model at another size of its inputs."""

import json

import keras
from keras import tree

from keras_quant import layers
from keras_quant.errors import QuantizationError
from keras_quant.graph.explain import explained
from keras_quant.graph.sizes import at_size, filled, given_shapes, is_functional, is_open_in, noted_shapes
from keras_quant.layers import is_quantized
from keras_quant.layers.derived import sharing_objects
from keras_quant.layers.pooling import QuantAveragePooling

# What these are given may have been computed from the size of an input.
_HOLD_SIZES = (
    *(layers.QuantReshape, layers.QuantRegroup, layers.QuantSlice, layers.QuantTake, layers.QuantTile, layers.QuantPad),
    *(layers.QuantResizing, layers.QuantAddConstant, layers.QuantMultiplyConstant),
)
# What is done to open dimensions, on even axes and on odd ones: sizes that are odd where the model's are even, not square,
# and multiples.
_CHANGES = (
    (lambda size: size + 1, lambda size: size + 2),
    (lambda size: 2 * size, lambda size: 3 * size),
    (lambda size: 3 * size, lambda size: 2 * size),
    (lambda size: 2 * size + 3, lambda size: size + 1),
)
FEWEST_NEIGHBOURS = 2


def cloned(qmodel, inputs):
    """A quantized model on other inputs, with the same weights: `make` of `Sizes` for one whose layers hold no sizes.

    Args:
        qmodel: quantized, Functional `keras.Model`.
        inputs: list of `keras.Input`s.

    Raises:
        QuantizationError: if the model cannot take inputs of this size, or a layer may hold sizes.
    """
    holds = [f"'{layer.name}' ({type(layer).__name__})" for layer in qmodel.layers if _holds_sizes(layer)]
    holds += [f"'{path}'" for path in json.loads(getattr(qmodel, "origin", "") or "{}").get("sized", ())]
    if holds:
        raise QuantizationError(
            f"Layer {holds[0]} holds sizes, which may follow from the input's. Pass the float model, too, "
            f"`float_model=model`, which says them anew. Received: {_shapes(inputs)}"
        )
    structure = qmodel.input if isinstance(qmodel, keras.Sequential) else qmodel._inputs_struct
    try:
        with sharing_objects():
            made = keras.models.clone_model(qmodel, input_tensors=tree.pack_sequence_as(structure, inputs))
    except ValueError as error:
        raise QuantizationError(
            f"The model cannot take inputs of this size: {explained(error)}. Pass another `input_shape`, or data of another "
            f"size. Received: {_shapes(inputs)}"
        ) from error
    for old, new in zip(qmodel.layers, made.layers):
        own, others = _weights(old), _weights(new)
        if [w.shape for w in own] != [w.shape for w in others]:
            raise QuantizationError(
                f"Layer '{old.name}' ({type(old).__name__}) has weights for one size of the inputs, as a Dense layer "
                f"behind a Flatten has. Resize or pad data to that size. Received: {_shapes(inputs)}"
            )
        for weight, other in zip(own, others):
            other.assign(weight)
    return made


def _weights(layer):
    """A layer's weights, without what pooling made of the size when it was built: counts at an image's edges."""
    pools = [part for part in layer._flatten_layers() if isinstance(part, QuantAveragePooling)]
    products = [part for pool in pools for part in pool.afterwards if isinstance(part, layers.QuantMultiplyConstant)]
    counts = {id(part.constant) for part in products}
    return [weight for weight in layer.weights if id(weight) not in counts]


class Sizes:
    """A model at any size of its inputs, with the same weights and ranges.

    Args:
        model: quantized `keras.Model`, or a float one.
        make: function (quantized model, `keras.Input`s) → the model at their size.
    """

    def __init__(self, model, make=cloned):
        self.model, self.make = model, make

    def at(self, input_shape):
        """The model at a size, as of `keras_quant.export`; what is `None` in it stays as it is.

        Raises:
            QuantizationError: if a layer holds sizes, or cannot take this one.
        """
        if input_shape is None:
            return self.model
        if not is_quantized(self.model):
            return at_size(self.model, input_shape)[0]
        known, wanted = self._wanted(input_shape)
        return self._resized(self.model, [filled(shape, own) for shape, own in zip(wanted, known.values())])

    def of_file(self, shapes):
        """The model at the sizes that a file has: a dict from input names to shapes without batch."""
        known = noted_shapes(self.model)
        if known is None or set(shapes) != set(known) or shapes == known:
            return self.model
        is_fixed = not is_quantized(self.model) and not is_open_in(known.values())
        return self.model if is_fixed else self.at(shapes)

    def is_open(self, input_shape):
        """Whether a size, as of `keras_quant.export`, is left to the runtime."""
        return input_shape is not None and is_quantized(self.model) and is_open_in(self._wanted(input_shape)[1])

    def neighbours(self, model, input_shape):
        """The model at other sizes in all the dimensions that `input_shape` leaves open.

        Args:
            model: what `at` gave for this size.
            input_shape: as of `keras_quant.export`.

        Returns:
            List of `keras.Model`s, at least `FEWEST_NEIGHBOURS`.

        Raises:
            QuantizationError: if a layer holds sizes, or the model takes too few others.
        """
        _, wanted = self._wanted(input_shape)
        known = list(noted_shapes(model).values())
        found, refused = [], None
        for changes in _CHANGES:
            try:
                found.append(self._resized(model, [_changed(*pair, changes) for pair in zip(wanted, known)]))
            except QuantizationError as error:
                refused = error
        if len(found) < FEWEST_NEIGHBOURS:
            raise refused
        return found

    def _wanted(self, input_shape):
        """The shapes of the inputs by name, and those that `input_shape` asks for, in order."""
        known = noted_shapes(self.model)
        if known is None or not is_functional(self.model):
            raise QuantizationError(
                f"Model '{self.model.name}' is no Functional one, as `quantize` returns it, and has one size. Build it anew "
                f"for another. Received: input_shape={input_shape}"
            )
        return known, given_shapes(self.model, {name: (None,) * len(shape) for name, shape in known.items()}, input_shape)

    def _resized(self, model, shapes):
        known = noted_shapes(model)
        if shapes == list(known.values()):
            return model
        inputs = [
            keras.Input(shape, x.shape[0], dtype=x.dtype, name=name) for name, shape, x in zip(known, shapes, model.inputs)
        ]
        return self.make(model, inputs)


def _holds_sizes(layer):
    # A Reshape by `keras.layers.Reshape` may have -1; one by `ops.reshape` was given its sizes when the model was traced.
    return isinstance(layer, _HOLD_SIZES) and -1 not in (getattr(layer, "target_shape", None) or ())


def _changed(wanted, own, changes):
    """A shape with the sizes that are open in `wanted` changed."""
    return tuple(changes[axis % 2](b) if a is None else a for axis, (a, b) in enumerate(zip(wanted, own)))


def _shapes(inputs):
    return [tuple(x.shape[1:]) for x in inputs]
