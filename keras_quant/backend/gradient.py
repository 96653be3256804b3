"""Functions with gradients written by hand."""

import contextlib

import tensorflow as tf
from tensorflow.python.eager import record
from tensorflow.python.ops.control_flow_v2_func_graphs import WhileBodyFuncGraph


def custom_gradient(function):
    """As `tf.custom_gradient`, for positional tensors, one new tensor as the result, and `tf.GradientTape`.

    TensorFlow's copies all arguments into the results and makes zeros for the gradients of those copies, half a dozen
    operations a call; this is what it does when executed eagerly, where it does not. The tape does not look into loops,
    whose gradients are made of the operations in their body: there it is TensorFlow's.
    """

    def call(*args):
        args = [tf.convert_to_tensor(arg) for arg in args]
        if _in_loop():
            return tf.custom_gradient(function)(*args)
        with record.stop_recording():
            result, gradient = function(*args)
        record.record_operation(function.__name__, [result], args, lambda upstream: tf.nest.flatten(gradient(upstream)))
        return result

    return call


def registered_gradient(kind, name):
    """A context in which operations of a kind have the gradient registered as `name`, in steps that `unfold` takes.

    This is cheaper than `custom_gradient`, which copies arguments and results there. A tape would not look at it.
    """
    if tf.executing_eagerly():
        return contextlib.nullcontext()
    return tf.compat.v1.get_default_graph().gradient_override_map({kind: name})


def take_steps():
    """Say that the graph being traced is the body of a loop of `unfold`, which no tape looks into."""
    if not tf.executing_eagerly():
        tf.compat.v1.get_default_graph()._keras_quant_takes_steps = True


def takes_steps():
    """Whether it is."""
    return not tf.executing_eagerly() and getattr(tf.compat.v1.get_default_graph(), "_keras_quant_takes_steps", False)


def _in_loop():
    if tf.executing_eagerly():
        return False
    graph = tf.compat.v1.get_default_graph()
    while graph is not None and not isinstance(graph, WhileBodyFuncGraph):
        graph = getattr(graph, "outer_graph", None)
    return graph is not None
