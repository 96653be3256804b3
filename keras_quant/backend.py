"""TensorFlow forms of what `keras.ops` has no single-pass form for.

Everything else in the package is written in `keras.ops`; another Keras backend needs this file again and no other.
"""

import keras
import tensorflow as tf
from tensorflow.core.framework import summary_pb2
from tensorflow.python.ops import control_flow_util


def read(variable):
    """The present value of a Keras variable (or tensor), as a plain tensor."""
    value = getattr(variable, "value", variable)
    return tf.convert_to_tensor(variable if callable(value) else value)


def round_half_even(x):
    """Round half to even, in float."""
    return tf.math.rint(x)


def erfc(x):
    """The complementary error function, accurate far out where `1 - erf(x)` is not."""
    return tf.math.erfc(x)


def clip(x, low, high):
    """Clip to `[low, high]` in one pass over memory (`keras.ops.clip` takes two); the bounds are scalars."""
    return tf.raw_ops.ClipByValue(t=x, clip_value_min=tf.cast(low, x.dtype), clip_value_max=tf.cast(high, x.dtype))


def product_in_place(x, y):
    """`x * y` of finite tensors, where it stands: `(x * y) * z` and `x * (y * z)` stay in that order.

    TensorFlow's optimizer takes a chain of plain products in the order that broadcasts least (`MinimizeBroadcasts`), which
    rounds otherwise. It leaves this operation alone, which takes a third longer.
    """
    return tf.math.multiply_no_nan(x, y)


def shift_right(x, amount):
    """Arithmetic shift of integers; `keras.ops` has it from Keras 3.9 on."""
    return tf.bitwise.right_shift(x, tf.cast(amount, x.dtype))


def shift_left(x, amount):
    """Shift of integers to the left."""
    return tf.bitwise.left_shift(x, tf.cast(amount, x.dtype))


def mask_bits(x, mask):
    """The bits of integers that are set in `mask`."""
    return tf.bitwise.bitwise_and(x, mask)


def fake_quant(x, low, high, bits=8, narrow=False):
    """Quantize and dequantize onto the levels of `bits` bits over `[low, high]`; clipped straight-through gradient.

    One pass forward, one backward. `low` and `high` must be nudged already, so that zero is a level.

    With 8 bits the gradient is told from the result, which the next operation keeps anyway, so that nobody keeps `x`: what
    is rounded to an end counts as outside, half a step of 255.
    """

    @tf.custom_gradient
    def forward(x):
        y = _on_levels(x, low, high, bits, narrow)
        told_by = _told_by(x, y, low, high, bits)
        return y, lambda upstream: _inside(upstream, *told_by)

    return forward(x)


def _told_by(x, y, low, high, bits):
    """What tells which values are inside, as `_inside` takes it."""
    half = (high - low) * (0.5 / 255.0)
    return (y, low + half, high - half) if bits == 8 else (x, low, high)


def learned_fake_quant(x, low, high, learned_low, learned_high, share, bits, narrow, from_rounding):
    """`fake_quant` with gradients for the range, too.

    With `s = (high - low) / levels`: `∂/∂high` is 1 above, 0 below, `(x̂ - x) / (high - low)` inside; `∂/∂low` is 0 above, 1
    below, minus the same inside. Where `low = Qn·s` and `high = Qp·s`, the chain rule makes of them LSQ's gradient of the
    step.

    Args:
        x: float32 tensor.
        low, high: ends of the grid.
        learned_low, learned_high: what takes the gradients; their values may be off by the nudge.
        share: what gradients of the range are multiplied by.
        bits, narrow: as in `fake_quant`.
        from_rounding: whether the rounding inside the range counts.
    """

    @tf.custom_gradient
    def forward(x, _low, _high):
        y = _on_levels(x, low, high, bits, narrow)

        def backward(upstream):
            inside, below, above = tf.raw_ops.FakeQuantWithMinMaxVarsGradient(
                gradients=upstream, inputs=x, min=low, max=high, num_bits=bits, narrow_range=narrow
            )
            rounding = tf.reduce_sum(inside * (y - x)) / (high - low) if from_rounding else 0.0
            with tf.control_dependencies([rounding] if from_rounding else []):
                # Otherwise the sum may wait, and keep the tensors that it reads.
                inside = tf.identity(inside)
            return inside, (below - rounding) * share, (above + rounding) * share

        return y, backward

    return forward(x, learned_low, learned_high)


def search_sorted(ascending, values):
    """For each value, how many of `ascending` are smaller."""
    return tf.searchsorted(ascending, values)


def only_gradient(x):
    """Zeros going forward, the gradient unchanged going back."""
    return x - tf.stop_gradient(x)


def scale_gradient(x, factor):
    """`x` going forward, `factor` times the gradient going back."""

    @tf.custom_gradient
    def forward(x):
        return tf.identity(x), lambda upstream: upstream * tf.cast(factor, x.dtype)

    return forward(x)


def weight_fake_quant(kernel, scale, steps, integers, held, limit, slope, share):
    """`integers * held`, with gradients for the weights and for a scale that is trained.

    Args:
        kernel: float32 weights.
        scale: what takes the scale's gradient, of a shape that broadcasts against `kernel`; `None` for none.
        steps: `kernel / held`.
        integers: the rounded `steps`, clipped to `±limit`.
        held: the scale in use.
        limit: float, the largest integer, where weights may lie beyond it; otherwise `None`.
        slope: gradient of the weights inside, or `None` for 1.
        share: what the scale's gradient is multiplied by.
    """
    values = integers * held

    def within(upstream):
        return upstream if limit is None else _inside(upstream, steps, -limit, limit)

    def weights_gradient(inside):
        return inside if slope is None else inside * slope

    if scale is None:

        @tf.custom_gradient
        def fixed(_kernel):
            return tf.identity(values), lambda upstream: weights_gradient(within(upstream))

        return fixed(kernel)

    @tf.custom_gradient
    def learned(_kernel, scale):
        def backward(upstream):
            # `integers - steps` inside and `±limit` outside, where that is what `integers` are: from two inner products.
            inside = within(upstream)
            axes = [axis for axis, size in enumerate(scale.shape) if size == 1]
            of_scale = tf.reduce_sum(upstream * integers - inside * steps, axes, keepdims=True)
            return weights_gradient(inside), of_scale * share

        return tf.identity(values), backward

    return learned(kernel, scale)


def proportional_fake_quant(x, low, high, reach, share, bits, narrow, divides):
    """`fake_quant` onto a grid whose ends are proportional to `reach`, with a gradient for it.

    `x̂ = r·Q(x/r)`, so with `u` the gradient of `x̂` and `v` that of `x`: `∂L/∂r = (⟨u, x̂⟩ - ⟨v, x⟩) / r`. That is LSQ's sum,
    to which `(x̂ - x) / r` counts inside the range and the end's own share of `r` outside, from two inner products.

    Args:
        x: float32 tensor.
        low, high: ends of the grid.
        reach: what takes the gradient, a positive scalar.
        share: what its gradient is multiplied by.
        bits, narrow: as in `fake_quant`.
        divides: whether `⟨v, x⟩` counts; not where `x` was multiplied by `divided_by` already. Nobody keeps `x` then with 8
            bits, as in `fake_quant`.
    """

    @tf.custom_gradient
    def forward(x, reach):
        y = _on_levels(x, low, high, bits, narrow)
        told_by = (x, low, high) if divides else _told_by(x, y, low, high, bits)

        def backward(upstream):
            inside = _inside(upstream, *told_by)
            total = tf.reduce_sum(upstream * y)
            if divides:
                total -= tf.reduce_sum(inside * x)
            with tf.control_dependencies([total]):
                # Otherwise the sums may wait, and keep the tensors that they read.
                inside = tf.identity(inside)
            return inside, total / reach * share

        return y, backward

    return forward(x, reach)


def divided_by(reach, share):
    """1 going forward, and going back the gradient of `1 / reach` times its value: `-share / reach`."""

    @tf.custom_gradient
    def forward(reach):
        return tf.ones_like(reach), lambda upstream: -upstream / reach * share

    return forward(reach)


def is_positive_now(variable):
    """Whether all values are above zero, as far as can be told while a function is traced."""
    try:
        with tf.init_scope():
            return bool(tf.reduce_all(tf.convert_to_tensor(variable.value) > 0))
    except (ValueError, TypeError, RuntimeError, tf.errors.OpError, NotImplementedError):
        return False


def _on_levels(x, low, high, bits, narrow):
    if bits <= 8:
        return tf.quantization.fake_quant_with_min_max_vars(x, low, high, num_bits=bits, narrow_range=narrow)
    # The operation above adds the lower end to a product, which float32 rounds by some of the 16 bits' steps.
    scale = (high - low) / (2.0**bits - (2.0 if narrow else 1.0))
    return tf.math.rint(clip(x, low, high) * (1.0 / scale)) * scale


def _inside(upstream, x, low, high):
    if compiles_with_xla():
        return tf.where((x >= low) & (x <= high), upstream, 0.0)
    # The same in one pass; XLA, which makes one of the above, has no kernel for it.
    return tf.raw_ops.QuantizeAndDequantizeV4Grad(gradients=upstream, input=x, input_min=low, input_max=high)[0]


def compiles_with_xla():
    """Whether the function being traced is one of `jit_compile=True`."""
    return not tf.executing_eagerly() and control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def first_time(is_set, value, compute):
    """`value`, a tensor or a list of them, where it is set; otherwise what `compute` makes, which runs only then."""
    return tf.cond(is_set, lambda: value, compute)


def constant_fake_quant(x, low, high):
    """`fake_quant` with Python floats as the range, which compilers read off the graph."""
    return tf.quantization.fake_quant_with_min_max_args(x, low, high)


def straight_through(values, gradient_of):
    """`values` going forward, the identity on `gradient_of` going back."""

    @tf.custom_gradient
    def forward(x):
        return tf.stop_gradient(values), lambda upstream: upstream

    return forward(gradient_of)


def batch_normalize(x, gamma, beta, epsilon):
    """Batch normalization by the batch's own statistics in one fused operation.

    Args:
        x: float32 tensor `(batch, height, width, channels)`.
        gamma, beta: float32 `(channels,)`.
        epsilon: float.

    Returns:
        Normalized `x`, batch mean and (biased, as in Keras) batch variance, both `(channels,)`.
    """
    # The operation reports the unbiased variance, n / (n - 1) times the biased one that Keras keeps.
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=gamma, offset=beta, mean=[], variance=[], epsilon=epsilon, is_training=True
    )
    return y, mean, variance * (1.0 - x.shape[-1] / tf.cast(tf.size(x), tf.float32))


def scale_and_shift(x, scale, shift):
    """`x * scale + shift` per channel."""
    return x * scale + shift


def keras_logits(probabilities, logits):
    """Mark `probabilities` with the logits they came from, so that Keras's losses compute from those (as Keras does)."""
    probabilities._keras_logits = logits
    return probabilities


def is_symbolic(x):
    return isinstance(x, keras.KerasTensor)


def compiled(function):
    """`function` as a graph, traced once for all batch sizes."""
    return tf.function(function, reduce_retracing=True, autograph=False)


def assigning(variables):
    """A compiled function that assigns one value to all `variables`."""

    def assign(value):
        for variable in variables:
            variable.assign(value)

    return compiled(assign)


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


class Summaries:
    """Writes TensorBoard's event files, without TensorBoard.

    Histograms keep the bins that they are given: TensorBoard's own function would sort values into 30 of its own.

    Args:
        folder: where the event file goes.
    """

    def __init__(self, folder):
        self._writer = tf.summary.create_file_writer(str(folder))

    def scalar(self, name, value, step):
        """One number."""
        self._write(name, "scalars", summary_pb2.DATA_CLASS_SCALAR, tf.constant(value, tf.float32), step)

    def histogram(self, name, edges, counts, step):
        """Counts of values between edges, of which there is one more."""
        bins = tf.stack([tf.cast(x, tf.float64) for x in (edges[:-1], edges[1:], counts)], axis=-1)
        self._write(name, "histograms", summary_pb2.DATA_CLASS_TENSOR, bins, step)

    def _write(self, name, plugin, kind, tensor, step):
        metadata = tf.compat.v1.SummaryMetadata(data_class=kind)
        metadata.plugin_data.plugin_name = plugin
        with self._writer.as_default():
            tf.summary.write(name, tensor, step, metadata)

    def flush(self):
        self._writer.flush()

    def close(self):
        self._writer.close()
