"""Reading and writing model files so that a bad one costs nothing."""

import os
import pathlib
import tempfile

from ai_edge_litert import schema_py_generated as schema

from keras_quant.errors import ExportError, ModelFileError

IDENTIFIER = b"TFL3"


def read_model(path):
    """The parsed flatbuffer of a `.tflite` file.

    Args:
        path: of the file.

    Returns:
        The file's bytes and its `schema.ModelT`.

    Raises:
        ModelFileError: if the file is missing, no TFLite flatbuffer, or cut short.
    """
    try:
        content = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise ModelFileError(f"Cannot read '{path}': {error.strerror}. Check the path.") from error
    if content[4:8] != IDENTIFIER:
        raise ModelFileError(f"'{path}' is not a TFLite flatbuffer. Pass a file written by `keras_quant.export`.")
    try:
        model = schema.ModelT.InitFromPackedBuf(content)
        _check_whole(model)
    except Exception as error:  # whatever the generated reader trips over: offsets that point past the end
        raise ModelFileError(f"'{path}' is cut short or damaged. Export or copy it again.") from error
    return content, model


def _check_whole(model):
    """The generated reader is lazy about absent tables: insist on what every model has."""
    for graph in model.subgraphs:
        for operator in graph.operators:
            model.operatorCodes[operator.opcodeIndex]
            for index in (*operator.inputs, *operator.outputs):
                graph.tensors[index]
        for tensor in graph.tensors:
            model.buffers[tensor.buffer]
            tensor.name.decode()
    for signature in model.signatureDefs or ():
        signature.signatureKey.decode()
        for entry in (*(signature.inputs or ()), *(signature.outputs or ())):
            entry.name.decode()


def write_atomically(path, content):
    """Write bytes to a temporary file beside `path` and rename it; on failure `path` is as it was.

    Raises:
        ExportError: if the folder cannot be written.
    """
    path = pathlib.Path(path)
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        raise ExportError(
            f"Cannot write '{path}': {error.strerror}. Choose a folder that exists and is writable."
        ) from error
