"""Keras's masks, which travel on tensors beside the arguments of layers, as values of the graph."""

import inspect

import keras
from keras import tree

from keras_quant.graph.batch import symbolic_shape
from keras_quant.graph.graph import Value
from keras_quant.layers.base import GridInputs
from keras_quant.layers.with_mask import get_keras_mask, set_keras_mask


class Masks:
    """Which mask each value carries: what `_keras_mask` is to Keras.

    Attributes:
        of: dict from `Value`s to the `Value`s of their masks.
    """

    def __init__(self):
        self.of = {}

    def attach(self, symbols):
        """Give symbols, by `Value`, the masks of their values; masks become symbols, too.

        Args:
            symbols: dict from `Value`s to symbolic tensors; grows.
        """
        for value in list(symbols):
            mask = self.of.get(value)
            if mask is not None:
                if mask not in symbols:
                    symbols[mask] = keras.Input(batch_shape=symbolic_shape(mask), dtype=mask.dtype, name="mask")
                set_keras_mask(symbols[value], symbols[mask])

    def give(self, values, masks):
        """Give values the masks that a model is called with; as in Keras they keep them, for those who read them later."""
        self.of.update((x, mask) for x, mask in zip(values, tree.flatten(masks)) if isinstance(mask, Value))

    def arguments(self, layer, args, kwargs):
        """The keyword arguments with the masks that Keras passes by itself: `mask`, or `<argument>_mask`."""
        if not takes_masks(layer):
            return kwargs
        known = inspect.signature(layer.call)
        given = known.bind_partial(*args, **kwargs).arguments
        tensors = {name: x for name, x in given.items() if _is_tensor(x)}
        wanted = {"mask": next(iter(tensors))} if len(tensors) == 1 else {f"{name}_mask": name for name in tensors}
        for mask, name in wanted.items():
            if mask in known.parameters and given.get(mask) is None and self._any(tensors[name]):
                kwargs = {**kwargs, mask: self._masks(tensors[name])}
        return kwargs

    def previous(self, args, kwargs):
        """The mask that a layer's `compute_mask` is given, or `None`."""
        if kwargs.get("mask") is not None:
            return kwargs["mask"]
        first = args[0] if args else next(iter(kwargs.values()), None)
        return self._masks(first) if self._any(first) else None

    def _masks(self, x):
        return tree.map_structure(lambda leaf: self.of.get(leaf) if isinstance(leaf, Value) else None, x)

    def _any(self, x):
        return any(isinstance(leaf, Value) and leaf in self.of for leaf in tree.flatten(x))


def takes_masks(operation):
    """Whether Keras's masks mean anything to an operation: quantized layers have theirs as tensors like any others."""
    return isinstance(operation, keras.layers.Layer) and not isinstance(operation, GridInputs)


def _is_tensor(x):
    leaves = tree.flatten(x)
    return bool(leaves) and all(isinstance(leaf, Value) or keras.ops.is_tensor(leaf) for leaf in leaves)


def computed_masks(layer, args, kwargs, previous):
    """What a layer's `compute_mask` makes of symbols; `None` for nothing."""
    if not layer.supports_masking:
        return None
    return layer.compute_mask(args[0] if args else next(iter(kwargs.values())), previous)


def mask_of(symbol):
    """The mask that a symbolic tensor carries, or `None`."""
    mask = get_keras_mask(symbol) if isinstance(symbol, keras.KerasTensor) else None
    return mask if isinstance(mask, keras.KerasTensor) else None
