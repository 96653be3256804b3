"""Functions that are traced once for all layers that compute alike."""

import collections

import keras
import tensorflow as tf
from keras.src.backend.common.stateless_scope import in_stateless_scope

from keras_quant.backend.arrays import compiles_with_xla, read
from keras_quant.backend.hoisting import is_hoisting

# Graphs that are kept, those used last.
MOST_GRAPHS = 256
_GRAPHS = collections.OrderedDict()


def traced_once(key, function, variables, arguments, is_small=False):
    """`function(*arguments)`; while a graph is traced, by a call of a graph of its own, which all with this key share.

    TensorFlow optimizes such a graph once, too. Replicas, whose variables are their own, and stateless calls trace in place;
    so do loops, which leave out what does not change.

    Args:
        key: what the function's graph depends on besides the shapes of `variables` and `arguments`; `None` for a function
            that shares its graph with no other.
        function: tensors → tensors; it reads no state but `variables`.
        variables: list of Keras variables.
        arguments: list of tensors.
        is_small: whether the graph is but a few operations, which run sooner where they are called from.
    """
    if key is None or tf.executing_eagerly() or in_stateless_scope() or tf.distribute.has_strategy() or is_hoisting():
        return function(*arguments)
    values = [*(read(v) for v in variables), *arguments]
    key = key, tuple((tuple(x.shape), x.dtype) for x in values), compiles_with_xla()
    if key not in _GRAPHS:
        _GRAPHS[key] = _traced(function, variables, values, is_small)
        if len(_GRAPHS) > MOST_GRAPHS:
            _GRAPHS.popitem(last=False)
    _GRAPHS.move_to_end(key)
    graph = _GRAPHS[key]
    return function(*arguments) if graph is None else graph(*values)


def _traced(function, variables, values, is_small):
    """The graph, which holds nothing of whom it is traced by; `None` where it would."""

    def call(*values):
        own = list(zip(variables, values))
        with keras.StatelessScope(state_mapping=own):
            return function(*values[len(own) :])

    # Inlined, each call is optimized anew.
    graph = tf.function(call, autograph=False, experimental_attributes={"_noinline": not is_small})
    graph = graph.get_concrete_function(*(tf.TensorSpec(x.shape, x.dtype) for x in values))
    return None if graph.captured_inputs else graph
