"""Batches of model inputs out of whatever `fit` takes."""

import itertools
import numbers

import keras
import numpy as np
from keras import tree

from keras_quant.errors import CalibrationError

BATCH_SIZE = 32


def input_batches(data, inputs, steps=None, batch_size=BATCH_SIZE):
    """Iterate over batches of a model's inputs.

    Args:
        data: arrays (one, or a list or dict of them for several inputs), `tf.data.Dataset`, `keras.utils.PyDataset`,
            or an iterable of batches. A batch may be `(x, y)` or `(x, y, sample_weight)`; only `x` is used.
        inputs: what they are for: objects with a name, a shape and a dtype, in order (`Graph.inputs`).
        steps: number of batches; all of them by default.
        batch_size: for arrays, where the inputs leave it open.

    Yields:
        Lists of NumPy arrays, in the order of `inputs`: float32, or of the input's own type for integers and booleans.

    Raises:
        CalibrationError: if there is no data, or it does not fit the model, or it is not finite; for wrong `steps`.
    """
    for arrays, _, _ in labelled_batches(data, inputs, steps, batch_size):
        yield arrays


def labelled_batches(data, inputs, steps=None, batch_size=BATCH_SIZE):
    """Iterate over batches as `input_batches` does, with their labels and sample weights.

    Yields:
        Tuples of the inputs, as `input_batches` yields them; labels, in whatever structure they come; and sample weights.
        Both are `None` where there are none.
    """
    _check_steps(steps)
    specs = [(x.name, tuple(x.shape)) for x in inputs]
    kinds = [x.dtype for x in inputs]
    count = 0
    batch_size = _fixed_batch(inputs) or batch_size
    for batch, labels, weights in itertools.islice(_batches(data, specs, steps, batch_size), steps):
        arrays = _in_order(batch, specs)
        for (name, shape), array in zip(specs, arrays):
            _check(name, shape, array)
        count += 1
        # An integer input cuts fractions off, as `predict` does.
        kept = [a.astype("float32" if kind.startswith(("float", "bfloat")) else kind) for a, kind in zip(arrays, kinds)]
        yield kept, labels, weights
    if not count:
        raise CalibrationError("The data holds no batch. Pass at least one, for instance 100 to 500 training images.")


def number_of_batches(data, inputs, steps=None, batch_size=BATCH_SIZE):
    """How many batches `input_batches` will yield, or `None` if only iterating tells."""
    _check_steps(steps)
    batch_size = _fixed_batch(inputs) or batch_size
    if is_arrays(data):
        first = np.shape(tree.flatten(data)[0])
        total = -(-first[0] // batch_size) if first else 1
    elif hasattr(data, "cardinality"):
        total = int(data.cardinality())
        total = total if total >= 0 else None
    else:
        total = len(data) if hasattr(data, "__len__") else None
    return total if steps is None else min(steps, total or steps)


def _fixed_batch(inputs):
    """The batch size that a model's inputs ask for, or `None`."""
    return next((x.shape[0] for x in inputs if x.shape and x.shape[0] is not None), None)


def _check_steps(steps):
    if steps is not None and not (isinstance(steps, numbers.Integral) and steps > 0):
        raise CalibrationError(f"`steps` is a positive number of batches. Received: steps={steps!r}")


def _batches(data, specs, steps, batch_size):
    """Batches as `(x, y, sample_weight)`."""
    labels = weights = None
    if isinstance(data, tuple) and is_arrays(data[0]):
        data, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
    if is_arrays(data) and not (isinstance(data, list) and len(data) != len(specs)):
        parts = _in_order(data, specs), labels, weights
        return (_rows(parts, slice(i, i + batch_size)) for i in range(0, len(parts[0][0]), batch_size))
    if isinstance(data, keras.utils.PyDataset):
        return (_unpacked(data[i]) for i in range(len(data)))
    if hasattr(data, "cardinality") and int(data.cardinality()) == -1 and steps is None:
        raise CalibrationError("The dataset is infinite. Say how many batches to take with `steps`.")
    if not hasattr(data, "__iter__"):
        raise CalibrationError(
            "Data is arrays, a tf.data.Dataset, a keras.utils.PyDataset or an iterable of batches. "
            f"Received: {type(data).__name__}"
        )
    return map(_unpacked, data)


def _rows(arrays, rows):
    return tree.map_structure(lambda a: None if a is None else a[rows], arrays)


def _unpacked(batch):
    # A list is several inputs, a tuple inputs with what belongs to them.
    return (*batch, None, None)[:3] if isinstance(batch, tuple) else (batch, None, None)


def is_arrays(data):
    """Whether data is an array, or a list or dict of them."""
    if isinstance(data, dict):
        return all(map(_is_array, data.values()))
    if isinstance(data, list):
        return bool(data) and all(map(_is_array, data))
    return _is_array(data)


def _is_array(x):
    return isinstance(x, np.ndarray) or keras.ops.is_tensor(x)


def _in_order(batch, specs):
    if isinstance(batch, dict):
        missing = [name for name, _ in specs if name not in batch]
        if missing:
            raise CalibrationError(f"The data lacks the input '{missing[0]}'. Received: inputs {sorted(batch)}")
        batch = [batch[name] for name, _ in specs]
    flat = [np.asarray(x) for x in (batch if isinstance(batch, (list, tuple)) else [batch])]
    if len(flat) != len(specs):
        raise CalibrationError(
            f"A batch is an array for each input of the model, {[name for name, _ in specs]}: a list, or a dict by name. "
            f"Received: arrays of shapes {[array.shape for array in flat]}"
        )
    for (name, shape), array in zip(specs, flat):
        if array.ndim != len(shape) or array.dtype.kind not in "biuf":
            raise CalibrationError(
                f"Input '{name}' takes batches of numbers of shape {shape}. "
                f"Received: a batch of {array.dtype} of shape {array.shape}"
            )
    if len({len(array) for array in flat}) > 1:
        sizes = {name: len(array) for (name, _), array in zip(specs, flat)}
        raise CalibrationError(f"The inputs of one batch have to hold equally many samples. Received: {sizes}")
    return flat


def _check(name, shape, array):
    if shape[0] not in (None, len(array)):
        raise CalibrationError(
            f"Input '{name}' takes batches of {shape[0]} samples. Pass a multiple of {shape[0]}. Received: a batch of "
            f"{len(array)}"
        )
    if any(want not in (None, got) for want, got in zip(shape, array.shape)):
        raise CalibrationError(
            "All data has to be of one size; resize or pad it, or quantize the model for its size with `input_shape`. "
            f"Input '{name}' takes batches of shape {shape}. Received: a batch of shape {array.shape}"
        )
    if not array.size:
        raise CalibrationError(f"A batch for input '{name}' is empty. Received: shape {array.shape}")
    if not np.all(np.isfinite(array)):
        masked = not np.any(np.isnan(array) | (array == np.inf))
        way_out = (
            "Where -inf marks what is masked, pass the mask as booleans, or as zeros and ones, and make the large numbers "
            "inside the model: `scores + (1 - mask) * -1e9`."
        )
        raise CalibrationError(
            f"The data for input '{name}' holds NaN or infinite values. {way_out if masked else 'Remove them first.'}"
        )
