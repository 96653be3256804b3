"""Gradients written by hand against the automatic ones of the same formula, and against the papers'."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_quant as kq
from keras_quant import backend, quantizers
from keras_quant.layers.base import QuantLayer
from keras_quant.layers.weighted import QuantWeighted

seeds = st.integers(0, 2**31)
reaches = st.floats(0.0625, 50.0, width=32)


def gradients(function, *inputs):
    """Of the sum of `function(*inputs)` weighted at random: the weights, the values and the gradients."""
    inputs = [x if isinstance(x, keras.Variable) else tf.constant(x) for x in inputs]
    sources = [x.value if isinstance(x, keras.Variable) else x for x in inputs]
    with tf.GradientTape() as tape:
        for source in sources:
            tape.watch(source)
        values = function(*inputs)
        upstream = tf.constant(np.random.default_rng(7).standard_normal(values.shape), values.dtype)
        total = tf.reduce_sum(values * upstream)
    return np.float64(upstream), np.float64(values), [np.float64(g) for g in tape.gradient(total, sources)]


def away_from_edges(x, scale, edges, margin=1e-3):
    """Inputs moved off the values at which two executors may fall on different sides; `margin` in steps, at the edges."""
    near = np.abs(x / scale - np.rint(x / scale - 0.5) - 0.5) < 1e-3
    for edge in edges:
        near |= np.abs(x - edge) < margin * scale
    return np.where(near, np.float32((margin + 0.6) * scale), x).astype("float32")


def automatic(x, low, high, scale, zero_point, lowest, highest):
    """`s·(clip(rint(x/s) + z) - z)` with a straight-through rint, in float64, for TensorFlow to differentiate."""
    steps = x / scale
    rounded = steps + tf.stop_gradient(tf.math.rint(steps) - steps)
    return (tf.clip_by_value(rounded + zero_point, lowest, highest) - zero_point) * scale


def sample(seed, reach):
    return (np.random.default_rng(seed).standard_normal((6, 5, 7)) * reach / 2).astype("float32")


@given(seeds, reaches, st.integers(2, 8), st.booleans())
@settings(max_examples=60, deadline=None)
def test_clipped_straight_through_is_the_automatic_gradient(seed, reach, bits, symmetric):
    quantizer = quantizers.MovingAverage(bits=bits, symmetric=symmetric, trainable=False)
    quantizer.set_range(-0.7 * reach, reach)
    params = quantizer.params()
    scale, zero = float(params.scale), float(params.zero_point)
    x = away_from_edges(sample(seed, reach), scale, [float(params.low) * scale, float(params.high) * scale])
    _, ours, (gradient,) = gradients(quantizer.fake_quant, x)
    plain = lambda x: automatic(x, None, None, scale, zero, quantizer.type.low, quantizer.type.high)
    _, theirs, (wanted,) = gradients(plain, np.float64(x))
    # The two forms clip before and after rounding: they differ in the last half step at both ends.
    settled = (x >= float(params.low) * scale) & (x <= float(params.high) * scale)
    if bits == 8:  # What is rounded to an end counts as outside.
        settled &= np.abs(np.rint(x / scale) - (float(params.low) + float(params.high)) / 2) < 127.25
    settled |= (x / scale < float(params.low) - 0.5) | (x / scale > float(params.high) + 0.5)
    np.testing.assert_allclose(ours, theirs, atol=scale * 1e-3)
    np.testing.assert_allclose(gradient[settled], wanted[settled], rtol=1e-6)


def lsq_by_the_paper(x, scale, lowest, highest, upstream):
    """Gradients of input and step, equations 3 and 5 of the paper, before the gradient scale."""
    steps = np.float64(x) / scale
    inside = (steps > lowest) & (steps < highest)
    of_step = np.where(inside, np.rint(steps) - steps, np.where(steps <= lowest, lowest, highest))
    return np.where(inside, upstream, 0.0), (upstream * of_step).sum()


@given(seeds, reaches, st.integers(2, 8), st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_lsq_of_outputs_has_the_papers_gradients(seed, reach, bits, signed, scaled):
    quantizer = quantizers.LSQ(bits=bits, scale_gradient=scaled)
    if not signed:
        quantizer.bounds = (0.0, None)
    quantizer.set_range(-reach if signed else 0.0, reach * (2 ** (bits - 1) - 1) / 2 ** (bits - 1) if signed else reach)
    lowest, highest = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    scale = float(quantizer.params().scale)
    assert scale == pytest.approx(float(quantizer.value) / highest, rel=1e-6)
    # With 8 bits, what is rounded to an end counts as outside.
    margin = 0.501 if bits == 8 else 1e-3
    x = away_from_edges(sample(seed, reach), scale, [lowest * scale, highest * scale], margin)
    upstream, ours, (of_x, of_reach) = gradients(lambda x, _: quantizer.fake_quant(x), x, quantizer.value)
    wanted_x, wanted_step = lsq_by_the_paper(x, scale, lowest, highest, upstream)
    np.testing.assert_allclose(ours, np.clip(np.rint(np.float64(x) / scale), lowest, highest) * scale, atol=scale * 1e-3)
    np.testing.assert_allclose(of_x, wanted_x, rtol=1e-6)
    share = 1 / np.sqrt(35 * highest) if scaled else 1.0
    # Gradient descent on the reach moves the step as the paper's does on the step.
    assert of_reach / highest == pytest.approx(wanted_step * share, rel=1e-3, abs=1e-3 * share * np.abs(upstream).sum() / 10)


@given(seeds, reaches, st.integers(2, 8))
@settings(max_examples=60, deadline=None)
def test_lsq_plus_has_the_papers_gradients(seed, reach, bits):
    quantizer = quantizers.LSQPlus(bits=bits)
    quantizer.set_range(-0.3 * reach, reach)
    params = quantizer.params()
    scale = float(params.scale)
    low, high = float(params.low) * scale, float(params.high) * scale
    x = away_from_edges(sample(seed, reach), scale, [low, high])
    upstream, _, (of_x, of_reach, of_shift) = gradients(
        lambda x, *_: quantizer.fake_quant(x), x, quantizer.value, quantizer.offset
    )
    levels = 2**bits - 1
    inside, above = (x >= low) & (x <= high), x > high
    steps = np.float64(x) / scale
    wanted = (upstream * np.where(inside, np.rint(steps) - steps, np.where(above, levels, 0))).sum()
    share = 1 / np.sqrt(35 * float(params.high))
    np.testing.assert_allclose(of_x, np.where(inside, upstream, 0), rtol=1e-6)
    assert of_reach / levels == pytest.approx(wanted * share, rel=2e-3, abs=1e-3 * share * np.abs(upstream).sum() / 10)
    assert of_shift == pytest.approx((upstream * ~inside).sum() * share, rel=1e-4, abs=1e-5)


@given(seeds, reaches, st.integers(2, 8))
@settings(max_examples=40, deadline=None)
def test_pact_has_the_papers_gradient(seed, reach, bits):
    quantizer = quantizers.PACT(bits=bits)
    quantizer.bounds = (0.0, None)
    quantizer.set_range(0.0, reach)
    x = sample(seed, 2 * reach)
    upstream, _, (of_x, of_alpha) = gradients(lambda x, _: quantizer.fake_quant(x), x, quantizer.value)
    assert of_alpha == pytest.approx((upstream * (x >= reach)).sum(), rel=1e-4, abs=1e-5)
    np.testing.assert_array_equal(of_x != 0, (x >= 0) & (x <= reach))


@given(seeds, st.integers(2, 8), st.sampled_from(["channel", "tensor"]))
@settings(max_examples=60, deadline=None)
def test_lsq_of_kernels_has_the_papers_gradients(seed, bits, granularity):
    kernel = np.random.default_rng(seed).standard_normal((3, 3, 4, 5)).astype("float32")
    axes = (0, 1, 2)
    quantizer = quantizers.KernelLSQ(bits=bits, granularity=granularity)
    quantizer.create(kernel.shape, axes)
    limit = quantizer.limit
    quantizer.fake_quant(kernel, axes)
    per_scale = kernel.reshape(-1, 5) if granularity == "channel" else kernel.reshape(-1, 1)
    first = 2 * np.abs(per_scale).mean(0) / np.sqrt(limit)
    largest = np.abs(per_scale).max(0)
    np.testing.assert_allclose(np.ravel(quantizer.reach) / limit, np.minimum(first, largest / limit), rtol=1e-5)
    quantizer.reach.assign(quantizer.reach * 0.6)
    scale = np.float64(np.ravel(quantizer.reach)) / limit
    kernel = away_from_edges(per_scale, scale, [-limit * scale, limit * scale]).reshape(kernel.shape)
    upstream, _, (of_kernel, of_reach) = gradients(
        lambda kernel, _: quantizer.fake_quant(kernel, axes), kernel, quantizer.reach
    )
    flat, upstream = kernel.reshape(-1, len(scale)), upstream.reshape(-1, len(scale))
    for channel, step in enumerate(scale):
        wanted, wanted_step = lsq_by_the_paper(flat[:, channel], step, -limit, limit, upstream[:, channel])
        np.testing.assert_allclose(of_kernel.reshape(flat.shape)[:, channel], wanted, rtol=1e-6)
        share = 1 / np.sqrt(len(flat) * limit)
        assert np.ravel(of_reach)[channel] / limit == pytest.approx(wanted_step * share, rel=1e-3, abs=1e-4)


@given(seeds, st.integers(2, 8))
@settings(max_examples=40, deadline=None)
def test_learned_clipping_has_the_automatic_gradient(seed, bits):
    kernel = np.random.default_rng(seed).standard_normal((12, 5)).astype("float32")
    quantizer = quantizers.LearnedClipping(bits=bits)
    quantizer.create(kernel.shape, (0,))
    quantizer.clipping.assign(np.linspace(-1.0, 3.0, 5))
    largest, limit = np.float64(np.abs(kernel).max(0)), quantizer.limit
    scale = largest / (1 + np.exp(-np.linspace(-1.0, 3.0, 5))) / limit
    kernel = away_from_edges(kernel, scale, [-limit * scale, limit * scale])
    _, ours, (of_kernel, of_clipping) = gradients(lambda k, _: quantizer.fake_quant(k, (0,)), kernel, quantizer.clipping)

    def plain(kernel, clipping):
        return automatic(kernel, None, None, tf.sigmoid(clipping) * np.abs(kernel).max(0) / limit, 0.0, -limit, limit)

    _, theirs, (wanted, wanted_clipping) = gradients(plain, np.float64(kernel), np.linspace(-1.0, 3.0, 5))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    share = 1 / np.sqrt(len(kernel) * limit)
    settled = np.abs(np.abs(kernel) / scale - limit - 0.25) > 0.25 + 1e-3
    np.testing.assert_allclose(of_kernel[settled], wanted[settled], rtol=1e-6)
    if settled.all():
        np.testing.assert_allclose(of_clipping, wanted_clipping * share, rtol=1e-3, atol=1e-4)


@given(st.floats(0.125, 30.0, width=32), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_soft_rounding_has_the_slope_of_the_soft_staircase_and_ends_a_straight_through_one(sharpness, seed):
    kernel = np.random.default_rng(seed).standard_normal((40, 3)).astype("float32")
    quantizer = quantizers.AbsMax(4, rounding="soft")
    quantizer.sharpness.assign(sharpness)
    scale = np.abs(kernel).max(0) / 7
    place = np.float64(kernel / scale) - np.floor(kernel / scale) - 0.5
    slope = sharpness * (1 - np.tanh(sharpness * place) ** 2) / (2 * np.tanh(sharpness / 2))
    upstream, _, (gradient,) = gradients(lambda k: quantizer.fake_quant(k, (0,)), kernel)
    inner = np.abs(np.abs(place) - 0.5) > 1e-4
    np.testing.assert_allclose((gradient / upstream)[inner], slope[inner], rtol=2e-3, atol=1e-5)
    quantizer.sharpness.assign(0.0)
    upstream, _, (gradient,) = gradients(lambda k: quantizer.fake_quant(k, (0,)), kernel)
    np.testing.assert_allclose(gradient, upstream, rtol=1e-4)


@given(seeds)
@settings(max_examples=10, deadline=None)
@pytest.mark.slow
def test_stochastic_rounding_is_right_on_average_and_rounds_to_neighbours(seed):
    kernel = np.random.default_rng(seed).uniform(-1, 1, (8, 4)).astype("float32")
    quantizer = quantizers.AbsMax(3, rounding="stochastic", seed=seed)
    draws = np.stack([quantizer.fake_quant(kernel, (0,)) for _ in range(400)])
    scale = np.abs(kernel).max(0) / 3
    assert np.all(np.abs(draws - kernel) <= scale * 1.001)
    np.testing.assert_allclose(draws.mean(0), kernel, atol=float(scale.max()) * 0.13)
    np.testing.assert_array_equal(quantizer.scale(kernel, (0,)), quantizers.AbsMax(3).scale(kernel, (0,)))


def test_hand_written_gradients_are_the_same_under_xla():
    x = np.random.default_rng(0).standard_normal((4, 9)).astype("float32")
    for quantizer in (quantizers.MovingAverage(), quantizers.LSQ(), quantizers.PACT(), quantizers.LSQPlus()):
        quantizer.set_range(-1.0, 1.0)
        plain = gradients(quantizer.fake_quant, x)[2][0]
        compiled = tf.function(lambda x, q=quantizer: gradients_in_graph(q, x), jit_compile=True, autograph=False)
        np.testing.assert_array_equal(compiled(x) != 0, plain != 0)


def gradients_in_graph(quantizer, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = quantizer.fake_quant(x)
    return tape.gradient(y, x)


BAD = {"NaN": np.nan, "infinite": np.inf, "minus infinite": -np.inf}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("name", ["moving_average", "lsq", "lsq+", "pact"])
def test_a_batch_that_is_not_finite_leaves_a_usable_range(name, kind):
    for before in (False, True):
        quantizer = quantizers.get(name)
        if before:
            quantizer.set_range(-1.0, 1.0)
        quantizer.observe(keras.ops.convert_to_tensor(np.array([1.0, BAD[kind], -2.0], "float32")))
        params = quantizer.params()
        assert np.isfinite(float(params.scale)) and float(params.scale) > 0 and np.isfinite(float(params.zero_point))
        if before:
            assert float(params.scale) == pytest.approx(2 / 255, rel=0.02)
        quantizer.observe(keras.ops.convert_to_tensor(np.array([1.0, -2.0], "float32")))
        assert quantizer.is_set and np.isfinite(np.asarray(quantizer.fake_quant(np.ones((2, 3), "float32")))).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 0.0])
@pytest.mark.parametrize("name", ["lsq", "lsq+", "pact"])
def test_whatever_an_optimizer_makes_of_a_range_no_nan_comes_out(name, value):
    quantizer = quantizers.get(name)
    quantizer.set_range(-1.0, 1.0)
    quantizer.value.assign(value)
    assert np.isfinite(np.asarray(quantizer.fake_quant(np.ones((2, 3), "float32")))).all()
    quantizer.value.assign(quantizer.value.constraint(quantizer.value))
    assert 0 < float(quantizer.value) < np.inf and quantizer.is_set


def unit_network():
    """Layers that give a learned range's gradient each in its own way: normalizations before, kernels behind, sums, and what
    lets a unit through."""
    keras.utils.set_random_seed(0)
    norm = lambda: keras.layers.BatchNormalization(gamma_initializer="random_normal", beta_initializer="random_normal")
    inputs = x = keras.Input((12, 12, 3))
    x = short = keras.layers.ReLU(6.0)(norm()(keras.layers.Conv2D(4, 3, padding="same")(x)))
    x = keras.layers.ReLU()(norm()(keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)))
    x = keras.layers.Add()([norm()(keras.layers.Conv2D(4, 1)(x)), short])
    x = keras.layers.Conv2D(5, 3, strides=2, activation="relu")(keras.layers.ZeroPadding2D()(x))
    x = keras.layers.Subtract()([x, keras.layers.MaxPooling2D(3, 1, "same")(x)])
    x = keras.layers.Flatten()(keras.layers.AveragePooling2D(2)(keras.layers.Conv2D(6, 1)(x)))
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Reshape((9, 6))(x)[:, 4]))


@pytest.mark.parametrize("kernels", ["lsq", "abs_max", "learned_clipping"])
def test_normalizations_and_kernels_carry_their_shares_of_the_steps_gradient(kernels, monkeypatch):
    """What is taken where it costs least is the same sum as at the rounding itself, whatever of it the next layers take."""
    x = np.random.default_rng(0).standard_normal((8, 12, 12, 3)).astype("float32")
    upstream = np.random.default_rng(1).standard_normal((8, 3)).astype("float32")
    # Sums over a batch differ in their last bits from run to run, which turns a rounding over now and then: of fine steps.
    policy = kq.Policy("int8", "int16", kernel_quantizer=kernels, output_quantizer="lsq")
    model = kq.calibrate(kq.quantize(unit_network(), policy), x, verbose=0)
    for variable in model.trainable_variables:
        if variable.name == "reach" and variable.ndim == 0:
            # Where nothing is clipped, the gradient is the small difference of two large sums.
            variable.assign(variable * 0.4)
    units = []

    def times_unit(x, unit=None, per=None, function=backend.times_unit):
        units.extend([(x.shape, unit is not None, per is not None)] * (unit is not None or per is not None))
        return function(x, unit, per)

    monkeypatch.setattr(backend, "times_unit", times_unit)

    def found():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(x, training=True) * upstream)
        return [np.asarray(g) for g in tape.gradient(loss, model.trainable_variables)]

    ours = found()
    kernels = (3, 3, 4, 1), (1, 1, 4, 4), (3, 3, 4, 5)
    assert all((shape, True, False) in units for shape in kernels)
    both = [shape for shape, *of in units if all(of)]
    assert both == [(8, 12, 12, 4), (8, 12, 12, 4), (8, 6, 6, 5), (8, 6, 6, 5), (1, 1, 5, 6), (8, 3, 3, 6)]
    assert units.count(((6,), False, True)) == 1  # a bias
    before = len(units)
    for layer in (QuantWeighted, kq.layers.QuantAdd, kq.layers.QuantSubtract):
        monkeypatch.setattr(layer, "_train", QuantLayer._train)
    monkeypatch.setattr(
        QuantLayer, "_rounded", lambda self, *args, rounded=QuantLayer._rounded: (rounded(self, *args)[0], None)
    )
    theirs = found()
    assert all(shape[0] == 8 and not (unit and per) for shape, unit, per in units[before:])
    for variable, mine, wanted in zip(model.trainable_variables, ours, theirs):
        atol = 2e-3 * np.abs(wanted).max() + 1e-6
        np.testing.assert_allclose(mine, wanted, rtol=2e-3, atol=atol, err_msg=variable.path)
