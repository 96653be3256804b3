"""Where in the user's code a layer stands, and what to do about one that has no integer form."""

import importlib.util
import inspect
import os
import traceback

import keras

from keras_quant.backend import ReadingError
from keras_quant.backend.samples import SAMPLES
from keras_quant.errors import UnsupportedLayerError

REGISTER = "Give it a quantized form with `keras_quant.register_quantized_layer`."
WAYS_OUT = (
    "Give it a quantized form with `keras_quant.register_quantized_layer`, or keep it in float with "
    '`quantize(..., fallback="float")` and export with `fallback="converter"`.'
)
# Frames in here are not the user's; nor is code made at run time.
_LIBRARIES = ("keras", "tensorflow", "keras_quant", "numpy", "optree")
_PACKAGES = [os.path.dirname(spec.origin) for spec in map(importlib.util.find_spec, _LIBRARIES) if spec is not None]
_NOT_THE_USERS = (*(package + os.sep for package in _PACKAGES), "<")


class AssignmentError(Exception):
    """A layer changes a variable while it is called."""


class NoAssignments(keras.StatelessScope):
    """While a layer is traced: whoever assigns a variable is told, and the variable stays as it is."""

    def __init__(self):
        super().__init__(initialize_variables=False)

    def add_update(self, update):
        name = getattr(update[0], "path", update[0].name)
        raise AssignmentError(f"it changes the variable '{name}' in each call, and a file for the device keeps no state.")


def untraceable(operation, path, error):
    """The `UnsupportedLayerError` for a layer whose `call` does not run on symbolic tensors.

    Args:
        operation: the layer.
        path: of the layer in the model.
        error: what its `call` raised.
    """
    what = f"Layer '{path}' ({type(operation).__name__})"
    if not isinstance(operation, keras.layers.Layer):
        cause = explained(error).replace(str(SAMPLES), "batch")
        return UnsupportedLayerError(f"Operation '{path}' ({type(operation).__name__}) cannot be computed: {cause}")
    if type(operation).__module__.startswith("keras.") and not isinstance(operation, keras.layers.Lambda):
        return UnsupportedLayerError(f"{what} has no quantized form. {WAYS_OUT}")
    error = _without_wrapping(error)
    where = _line(error) or call_site(operation)
    cause = explained(error)
    cause = cause if cause.endswith((".", "!", "?")) else f"{cause}."
    # What TensorFlow cannot trace, or only with what no device has, stays no float layer of a file either.
    ways_out = WAYS_OUT if getattr(error, "runs_in_float", False) else REGISTER
    known = isinstance(error, (AssignmentError, ReadingError))
    rule = "" if known else " `call` has to be Keras layers, `keras.ops` and TensorFlow functions throughout."
    return UnsupportedLayerError(f"{what} cannot be traced{f' at {where}' if where else ''}: {cause}{rule} {ways_out}")


def explained(error):
    """All that an error says, in a line."""
    return " ".join(str(_without_wrapping(error)).split()) or type(error).__name__


def truer(first, second):
    """Which of two errors says why a layer cannot be traced.

    Args:
        first: what its `call` raised on Keras's symbolic tensors.
        second: what it raised on TensorFlow's, or what reading TensorFlow's graph did.
    """
    got_further = _line(_without_wrapping(first)) != _line(_without_wrapping(second))
    of_tensorflow = "cannot be used as input to a TensorFlow function" in str(first)
    return second if got_further or of_tensorflow or isinstance(second, (ReadingError, AssignmentError)) else first


def _without_wrapping(error):
    """The error that Keras wraps once more for each call of a layer."""
    while str(error).startswith("Exception encountered when calling") and error.__context__ is not None:
        error = error.__context__
    return error


def _line(error):
    """File and line of the user's code that an error comes from, or `None`."""
    frames = getattr(error, "frames", None) or traceback.extract_tb(error.__traceback__)
    frames = [f for f in frames if not f.filename.startswith(_NOT_THE_USERS)]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else None


def location(node):
    """Text " at file:line" of the `call` that holds a node; empty where that is Keras's."""
    return f" at {node.source}" if node.source else ""


def call_site(layer):
    """File and line of a layer's own `call` (or a Lambda's function), or `None` for Keras's layers."""
    function = layer.function if isinstance(layer, keras.layers.Lambda) else type(layer).call
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None or code.co_filename.startswith(_NOT_THE_USERS):
        return None
    return f"{code.co_filename}:{code.co_firstlineno}"
