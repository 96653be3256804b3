"""Quantized slicing: what `x[:, 1:-1, ..., 0]` does."""

import keras
import numpy as np
from keras import ops

from keras_quant import backend
from keras_quant.errors import UnsupportedLayerError
from keras_quant.layers.gather import QuantGather
from keras_quant.layers.registry import computes
from keras_quant.layers.reshape import check_batch_stays
from keras_quant.quantizers import in_steps


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantSlice(QuantGather, keras.layers.Layer):
    """Slices on int8, `x[:, start:stop:step, ...]`; lowered to STRIDED_SLICE.

    Steps other than 1 leave XNNPACK; a step k is lowered to RESHAPE into rows of k and a slice of each, a negative step as
    `ops.flip`.

    Args:
        slices: `(start, stop)` or `(start, stop, step)` for each axis after the batch, as Python's slices take them; `None`
            in them means all; axes left out at the end stay whole.
        target_shape: shape of the result without the batch, if it is to be reshaped.
    """

    def __init__(self, slices, target_shape=None, **kwargs):
        super().__init__(**kwargs)
        self.slices = [[None if v is None else int(v) for v in entry] for entry in slices]
        self.target_shape = None if target_shape is None else [int(size) for size in target_shape]

    def picks(self, shape):
        return {axis: np.arange(shape[axis])[slice(*s)] for axis, s in enumerate(self.slices, 1)}

    def compute_output_shape(self, input_shape):
        shape = super().compute_output_shape(input_shape)
        return shape if self.target_shape is None else (shape[0], *self.target_shape)

    def train_arithmetic(self, inputs):
        cut = [(axis, *s[:2]) for axis, s in enumerate(self.slices, 1) if any(v is not None for v in s)]
        whole = len(cut) == 1 and self.target_shape is None and all(s[2:] in ([], [None], [1]) for s in self.slices)
        part = backend.cut_in_parts(inputs, *cut[0]) if whole and in_steps.is_active() else None
        return self.float_call(inputs) if part is None else part

    def float_call(self, inputs):
        outputs = inputs[(slice(None), *(slice(*s) for s in self.slices))]
        return outputs if self.target_shape is None else ops.reshape(outputs, (-1, *self.target_shape))

    def get_config(self):
        return {**super().get_config(), "slices": self.slices, "target_shape": self.target_shape}


@computes("numpy.GetItem", constants=True)
def _get_item(operation, args, **arguments):
    x, key = args
    received = f"x[{_text(key)}] of a tensor of shape {x.shape}"
    if any(hasattr(k, "note") for k in keras.tree.flatten(key)):
        raise UnsupportedLayerError(
            f"Operation '{arguments['name']}' slices by an index that is computed; only constants have a quantized form. "
            "Keep it in float: `quantize(..., fallback='float')`."
        )
    key = full_key(key, len(x.shape))
    whole = key[0] is not None and not isinstance(key[0], int) and key[0] in _WHOLE
    check_batch_stays(whole, arguments["name"], received)
    slices, target, plain = [], [], True
    sizes = iter(x.shape[1:])
    for entry in key[1:]:
        if entry is None:
            target.append(1)
            plain = False
            continue
        size = next(sizes)
        if isinstance(entry, slice):
            slices.append([entry.start, entry.stop, entry.step])
            target.append(len(range(size)[entry]))
        else:
            slices.append([entry, entry + 1 or None])
            plain = False
    return QuantSlice(slices, None if plain else target, **arguments)


_WHOLE = (slice(None), slice(0, None), slice(None, None, 1), slice(0, None, 1))


def full_key(key, rank):
    """The key of a subscription as a tuple with a slice, an integer or a `None` (new axis) for each axis."""
    key = tuple(key) if isinstance(key, (tuple, list)) else (key,)
    where = next((i for i, k in enumerate(key) if k is Ellipsis), len(key))
    before, after = key[:where], key[where + 1 :]
    filled = rank - sum(k is not None for k in (*before, *after))
    return (*before, *[slice(None)] * filled, *after)


def _text(key):
    entries = key if isinstance(key, (tuple, list)) else (key,)
    return ", ".join(_slice_text(e) if isinstance(e, slice) else "..." if e is Ellipsis else str(e) for e in entries)


def _slice_text(entry):
    text = ":".join("" if v is None else str(v) for v in (entry.start, entry.stop))
    return text if entry.step is None else f"{text}:{entry.step}"
