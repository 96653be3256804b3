"""One call of a layer, traced by TensorFlow and read back."""

import contextlib
import traceback

import keras
import tensorflow as tf
from keras import tree
from keras.src.backend.common.symbolic_scope import SymbolicScope

from keras_quant.backend.graph_functions.operator import ReadingError
from keras_quant.backend.graph_functions.reader import Reader


def symbolic_outputs(layer, args, kwargs, symbol=lambda variable: variable):
    """What `layer.call` returns for symbolic tensors, where it calls TensorFlow's functions.

    TensorFlow traces the call into a graph; its operators become operations of `keras.ops` on the symbolic tensors. Layers
    that are called on the way are not looked into: each becomes one Keras node, of the layer as it is.

    Args:
        layer: built `keras.layers.Layer`.
        args, kwargs: of its `call`; any of them may be, or hold, a `KerasTensor`.
        symbol: function from a variable to what stands for it, itself or a `KerasTensor`.

    Raises:
        ReadingError: at an operator that `keras.ops` has no function for.
        Exception: what `call` raises.
    """
    graph = tf.__internal__.FuncGraph("call")
    reader = Reader(graph, {key: symbol(variable) for key, variable in _variables(layer).items()})
    with graph.as_default():
        args, kwargs = tree.map_structure(reader.tensor, (args, kwargs))
        with SymbolicScope(), _functions_inlined(), _layers_as_units(reader):
            outputs = _called(layer, args, kwargs)
    reader.check_effects()
    return tree.map_structure(reader.value, outputs)


def _called(layer, args, kwargs):
    try:
        return layer.call(*args, **kwargs)
    except tf.errors.OperatorNotAllowedInGraphError as error:
        raise ReadingError(
            "its Python code decides by the values of a tensor, as in `if` or `for`. Compute both sides and choose with "
            "`keras.ops.where` or `tf.where`.",
            traceback.extract_tb(error.__traceback__),
            runs_in_float=False,
        ) from error


def _variables(layer):
    """Keras variables by what TensorFlow captures of them."""
    layers = layer._flatten_layers() if isinstance(layer, keras.layers.Layer) else ()
    variables = [variable for each in layers for variable in each.variables]
    return {id(v.value.handle): v for v in variables if hasattr(v.value, "handle")}


@contextlib.contextmanager
def _functions_inlined():
    """A `tf.function` that is called leaves its operators in the graph, not one operator that calls another graph."""
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


@contextlib.contextmanager
def _layers_as_units(reader):
    """A layer that is called on tensors of the graph is called on symbolic tensors instead."""
    original = keras.layers.Layer.__call__

    def call(layer, *args, **kwargs):
        if not any(reader.owns(x) for x in tree.flatten((args, kwargs))):
            return original(layer, *args, **kwargs)
        return reader.call(layer, original, args, kwargs)

    keras.layers.Layer.__call__ = call
    try:
        yield
    finally:
        keras.layers.Layer.__call__ = original
