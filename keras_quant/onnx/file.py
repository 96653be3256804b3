"""Reading and writing `.onnx` files so that a bad one costs nothing."""

import os
import pathlib
import tempfile

import onnx

from keras_quant.errors import ExportError, ModelFileError
from keras_quant.onnx.builder import opset_of
from keras_quant.tflite.file import write_atomically

# Protocol buffers hold no more than 2 GB; beyond, weights go into a file beside the model.
LARGEST = 2**31 - 2**20


def read_model(path):
    """The `ModelProto` of an `.onnx` file, checked.

    Args:
        path: of the file; weights in a file of their own are found beside it.

    Raises:
        ModelFileError: if the file is missing, no ONNX model, or cut short.
    """
    path = pathlib.Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"Cannot read '{path}': {error.strerror}. Check the path.") from error
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf raises a class of its own
        raise ModelFileError(f"'{path}' is no ONNX model, or cut short. Export or copy it again.") from error
    if not model.graph.node or opset_of(model) is None:
        raise ModelFileError(f"'{path}' is no ONNX model, or cut short. Export or copy it again.")
    try:
        onnx.checker.check_model(str(path))
    except Exception as error:  # as above, and by the checker's C++
        cause = str(error).strip().splitlines()[0]
        raise ModelFileError(f"'{path}' is damaged: {cause}. Export or copy it again.") from error
    return model


def write_model(path, model, apart=()):
    """Check a model in full, and write it under a temporary name first; on failure `path` is as it was.

    Args:
        path: of the file.
        model: `ModelProto`.
        apart: `TensorProto`s whose data goes into `<path>.data`, as `Builder.finish` gives them.

    Returns:
        The bytes written, of both files together.

    Raises:
        ExportError: if the folder cannot be written, or the model is not valid.
    """
    path = pathlib.Path(path)
    if not apart:
        _check(model)
        content = model.SerializeToString(deterministic=True)
        write_atomically(path, content)
        return len(content)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            return _write_with_data(pathlib.Path(folder, path.name), path, model, apart)
    except OSError as error:
        raise ExportError(
            f"Cannot write '{path}': {error.strerror}. Choose a folder that exists, is writable and has room."
        ) from error


def _check(model):
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # of several classes, from C++
        cause = " ".join(str(error).split())[:300]
        raise ExportError(
            f"The model that was made is no valid ONNX: {cause}. If it holds float layers, tf2onnx wrote them: give the "
            "layer named here a quantized form."
        ) from error


def _write_with_data(temporary, path, model, apart):
    """The model and its weights under temporary names, checked, and both renamed, the weights first."""
    names = data_name(path), path.name
    with open(temporary.with_name(names[0]), "wb") as file:
        for tensor in apart:
            file.write(tensor.raw_data)
    temporary.write_bytes(model.SerializeToString(deterministic=True))
    _check(str(temporary))
    total = 0
    for name in names:
        written = temporary.with_name(name)
        total += written.stat().st_size
        os.replace(written, path.with_name(name))
    return total


def data_name(path):
    """Name of the file with a model's weights, beside it."""
    return f"{pathlib.Path(path).name}.data"
