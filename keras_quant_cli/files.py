"""Models and data, from files and to them."""

import os
import pathlib
import tempfile
import zipfile

import keras
import numpy as np

import keras_quant  # noqa: F401  makes the quantized layers known to Keras


class FileError(Exception):
    """A file cannot be read or written; the message is for the user."""


def load_model(path):
    """The `keras.Model` in a `.keras` file, not compiled."""
    if not zipfile.is_zipfile(path):  # Keras would say that it does not exist
        raise FileError(f"'{path}' is cut short, or no .keras file. Save or copy it again.")
    try:
        model = keras.saving.load_model(path, compile=False)
    except Exception as error:  # whatever Keras, zipfile or HDF5 trip over
        raise FileError(
            f"Keras cannot load '{path}': {_cause(error)} A model with layers of its own is loaded in Python, and passed to "
            "`keras_quant` there."
        ) from error
    if not isinstance(model, keras.Model):
        raise FileError(f"'{path}' holds a {type(model).__name__}, not a keras.Model.")
    return model


def save_model(model, path):
    """Write a `.keras` file under a temporary name and rename it: on failure `path` is as it was."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}.") as folder:
        temporary = pathlib.Path(folder, path.name)
        model.save(temporary)
        os.replace(temporary, path)


def load_inputs(path, model):
    """The inputs of a model: an array out of a `.npy`, arrays by Keras input name out of a `.npz`."""
    arrays = _read(path)
    names = [x.name for x in model.inputs]
    if isinstance(arrays, dict):
        if len(arrays) == len(names) == 1:
            arrays = dict(zip(names, arrays.values()))
        missing = [name for name in names if name not in arrays]
        if missing:
            raise FileError(f"'{path}' lacks the input '{missing[0]}'. It has {sorted(arrays)}.")
        arrays = {name: arrays[name] for name in names}
    elif len(names) != 1:
        raise FileError(f"'{path}' holds one array; the model has the inputs {names}. Give them by name in a .npz.")
    else:
        arrays = {names[0]: arrays}
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf" or array.ndim == 0:
            raise FileError(
                f"'{path}': the input '{name}' is an array of numbers, samples first. "
                f"Received: dtype {array.dtype}, shape {array.shape}"
            )
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) != 1:
        raise FileError(f"'{path}': the inputs have different numbers of samples. Received: {counts}")
    return arrays


def shapes(args):
    """`--input-shape` as `keras_quant` takes it: a shape, or a dict of them by input name."""
    given = dict(args.input_shape or ())
    return given.get("", given) or None


def _read(path):
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.lib.npyio.NpzFile):
            with content:
                return {name: content[name] for name in content.files}
        return content
    except Exception as error:  # cut short, pickled, damaged zip: NumPy and zipfile raise many kinds
        raise FileError(
            f"'{path}' is damaged, or holds something else than arrays of numbers. Save it with numpy.save or numpy.savez."
        ) from error


def _cause(error):
    """The first sentence of an error's text."""
    lines = str(error).strip().splitlines()
    text = lines[0].strip().rstrip(":") if lines else type(error).__name__
    return text if text.endswith(".") else f"{text}."
