"""Functions that run as graphs, what holds while one is traced, and derivatives of them."""

import functools

import keras
import tensorflow as tf


def compiled(function):
    """`function` as a graph."""
    # Each counts its own traces: TensorFlow counts by code, and would warn of many models in one process.
    return tf.function(functools.partial(function), reduce_retracing=True, autograph=False)


def compiled_for_batches(function):
    """`function` of tensors that begin with the batch, as a graph, which is traced once for batches of all sizes."""
    graphs = {}

    def within(*batches):
        # The names of layers may begin with an underscore, which TensorFlow takes inside a scope only.
        with tf.name_scope("step"):
            return function(*batches)

    def call(*batches):
        specs = keras.tree.map_structure(lambda x: tf.TensorSpec((None, *x.shape[1:]), x.dtype), batches)
        key = str(specs)
        if key not in graphs:
            graphs[key] = tf.function(functools.partial(within), input_signature=specs, autograph=False)
        return graphs[key](*batches)

    return call


def assigning(variables):
    """A compiled function that assigns one value to all `variables`."""

    def assign(value):
        for variable in variables:
            variable.assign(value)

    return compiled(assign)


def is_positive_now(variable):
    """Whether all values are above zero and finite, as far as can be told while a function is traced."""
    try:
        with tf.init_scope():
            value = tf.convert_to_tensor(variable.value)
            return bool(tf.reduce_all((value > 0) & (value < value.dtype.max)))
    except (ValueError, TypeError, RuntimeError, tf.errors.OpError, NotImplementedError):
        return False


def first_time(is_set, value, compute):
    """`value`, a tensor or a list of them, where it is set; otherwise what `compute` makes, which runs only then."""
    return tf.cond(is_set, lambda: value, compute)


def step_on_data(model):
    """A model's `train_step` as a function of one batch, compiled as `fit` compiles it.

    Args:
        model: compiled `keras.Model`, on one device.

    Returns:
        Function: a batch as an iterator of `fit` gives it → logs.
    """
    step = model.train_step
    if not model.run_eagerly:
        step = tf.function(step, reduce_retracing=True, jit_compile=model.jit_compile, autograph=False)
    return lambda data: step(without_optionals(data))


def without_optionals(data):
    """A batch of `fit`, with `None` where newer Keras puts an empty `tf.experimental.Optional`."""
    return keras.tree.map_structure(lambda x: None if isinstance(x, tf.experimental.Optional) else x, data)


def labels_to_come(batches):
    """The shapes of the labels that an iterator of `fit` gives, in their structure; `None` where it does not say."""
    spec = getattr(batches, "element_spec", None)
    spec = spec if isinstance(spec, tuple) and 2 <= len(spec) <= 3 else (None, None)
    return keras.tree.map_structure(lambda x: keras.KerasTensor(x.shape, x.dtype.name) if _is_dense(x) else None, spec[1])


def _is_dense(spec):
    return isinstance(spec, tf.TensorSpec) and spec.shape.rank is not None


def gradients_of(loss, variables):
    """The gradients of `loss()`, a list of tensors or `None`."""
    with tf.GradientTape() as tape:
        value = loss()
    return [None if g is None else tf.convert_to_tensor(g) for g in tape.gradient(value, [v.value for v in variables])]


def hessian_traces(loss, variables, probes, seed):
    """Hutchinson's estimate of the trace of the loss's second derivative, for each variable by itself.

    `tr(H) = E[vᵀ·H·v]` over vectors `v` of random signs, one product with the Hessian a probe for all variables at once.

    Args:
        loss: function without arguments → scalar tensor, computed from `variables`.
        variables: list of `keras.Variable`s.
        probes: number of vectors.
        seed: integer.

    Returns:
        List of floats.

    Raises:
        LookupError: if an operation of the loss has no second derivative.
    """
    random = tf.random.Generator.from_seed(seed)
    watched = [variable.value for variable in variables]
    traces = [0.0] * len(watched)
    for _ in range(probes):
        signs = [tf.sign(random.uniform(v.shape, -1.0, 1.0)) for v in watched]
        with tf.GradientTape() as outer:
            outer.watch(watched)
            with tf.GradientTape() as inner:
                inner.watch(watched)
                value = loss()
            gradients = inner.gradient(value, watched, unconnected_gradients="zero")
            along = tf.add_n([tf.reduce_sum(g * s) for g, s in zip(gradients, signs)])
        products = outer.gradient(along, watched, unconnected_gradients="zero")
        traces = [t + float(tf.reduce_sum(p * s)) / probes for t, p, s in zip(traces, products, signs)]
    return traces
