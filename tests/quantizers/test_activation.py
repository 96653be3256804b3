import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import keras_quant as kq
from keras_quant import backend, quantizers
from keras_quant.quantizers import FixedGrid, MovingAverage

ranges = st.tuples(st.floats(-1e4, 0, width=32), st.floats(2.0**-10, 1e4, width=32))


def with_range(low, high):
    quantizer = MovingAverage()
    quantizer.set_range(low, high)
    return quantizer


@given(ranges)
def test_zero_lies_on_the_grid_and_the_range_inside_it(limits):
    low, high = limits
    params = with_range(low, high).params()
    scale, zero_point = float(params.scale), float(params.zero_point)
    assert zero_point == round(zero_point) and -128 <= zero_point <= 127
    assert scale * (-128 - zero_point) <= low + scale * 0.51
    assert scale * (127 - zero_point) >= high - scale * 0.51


@given(ranges, st.integers(0, 2**31))
def test_fake_quant_gives_the_nearest_level_and_passes_gradients_inside_the_range(limits, seed):
    import tensorflow as tf

    quantizer = with_range(*limits)
    # One that follows the data passes all.
    quantizer.trainable = False
    params = quantizer.params()
    scale, zero_point = float(params.scale), float(params.zero_point)
    lowest, highest = scale * (-128 - zero_point), scale * (127 - zero_point)
    span = highest - lowest
    x = tf.constant(np.random.default_rng(seed).uniform(lowest - span / 2, highest + span / 2, 200).astype("float32"))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = quantizer.fake_quant(x)
    clipped = np.clip(x, lowest, highest)
    assert np.abs(np.asarray(y) - clipped).max() <= scale * 0.501
    inside = (np.asarray(x) > lowest + scale * 0.501) & (np.asarray(x) < highest - scale * 0.501)
    outside = (np.asarray(x) < lowest - span * 1e-5) | (np.asarray(x) > highest + span * 1e-5)
    gradient = np.asarray(tape.gradient(y, x))
    assert np.all(gradient[inside] == 1) and np.all(gradient[outside] == 0)


@pytest.mark.parametrize("low, trainable, passes", [(None, True, 1), (None, False, 0), (0.0, True, 0)])
def test_what_follows_the_data_passes_gradients_from_outside(low, trainable, passes):
    import tensorflow as tf

    quantizer = with_range(-1.0 if low is None else low, 1.0)
    quantizer.bounds, quantizer.trainable = (low, None), trainable
    x = tf.constant([-3.0, 0.5, 3.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = quantizer.fake_quant(x)
    np.testing.assert_array_equal(tape.gradient(y, x), [passes, 1, passes])


def test_first_batch_sets_the_range_and_later_ones_move_it():
    quantizer = MovingAverage(momentum=0.9)
    quantizer.observe(keras.ops.convert_to_tensor([-1.0, 3.0]))
    assert (float(quantizer.low.numpy()), float(quantizer.high.numpy())) == (-1.0, 3.0)
    quantizer.observe(keras.ops.convert_to_tensor([-2.0, 5.0]))
    np.testing.assert_allclose([quantizer.low.numpy(), quantizer.high.numpy()], [-1.1, 3.2], rtol=1e-6)


def test_a_frozen_quantizer_keeps_its_range():
    quantizer = with_range(-1, 1)
    quantizer.trainable = False
    quantizer.observe(keras.ops.convert_to_tensor([-9.0, 9.0]))
    assert float(quantizer.high.numpy()) == 1.0


def test_bounds_of_an_activation_limit_the_range():
    quantizer = MovingAverage()
    quantizer.bounds = (0.0, 6.0)
    quantizer.observe(keras.ops.convert_to_tensor([-3.0, 40.0]))
    assert (float(quantizer.low.numpy()), float(quantizer.high.numpy())) == (0.0, 6.0)
    assert float(quantizer.params().zero_point) == -128


@pytest.mark.parametrize("low, high", [(0.0, 0.0), (2.0, 2.0), (-2.0, -2.0)])
def test_a_collapsed_range_still_gives_a_grid(low, high):
    quantizer = with_range(low, high)
    params = quantizer.params()
    assert quantizer.is_set and np.isfinite(float(params.scale)) and float(params.scale) > 0


def test_a_range_as_wide_above_zero_as_below_has_one_zero_point_in_graphs_and_outside():
    quantizer = MovingAverage()
    in_graph = backend.compiled(lambda: quantizer.params().zero_point)
    for reach in np.random.default_rng(0).uniform(0.1, 10, 50):
        quantizer.set_range(-reach, reach)
        assert float(in_graph()) == float(quantizer.params().zero_point) == 0


@pytest.mark.parametrize("shift", [0, 1e-6, -1e-6, 1e-4])
def test_training_clips_at_the_ends_of_the_grid_of_inference(shift):
    # A zero point half way between two integers: what finds it in training computes in float32.
    for high in np.random.default_rng(0).uniform(0.01, 100, 50).astype("float32"):
        quantizer = with_range(-high, high * np.float32(1 + shift))
        params = quantizer.params()
        ends = [float(end * params.scale) for end in (params.low, params.high)]
        made = quantizer.fake_quant(keras.ops.convert_to_tensor([-2 * high, 0.0, 2 * high]))
        np.testing.assert_allclose(made, [ends[0], 0.0, ends[1]], rtol=1e-5)


def test_unset_quantizer_says_so():
    assert not MovingAverage().is_set


def test_tied_quantizers_use_the_union_of_their_ranges():
    a, b, c = with_range(-1, 2), with_range(0, 5), with_range(-3, 1)
    a.tie(b)
    c.tie(b)
    for quantizer in (a, b, c):
        assert float(quantizer.params().scale) == pytest.approx(8 / 255)
    assert float(a.high.numpy()) == 2.0


def test_a_tied_quantizer_covers_only_bounds_that_all_share():
    a, b = MovingAverage(), MovingAverage()
    a.bounds, b.bounds = (0.0, 6.0), (0.0, None)
    assert a.covers((0.0, 6.0)) and a.covers((0.0, None)) and not b.covers((0.0, 6.0))
    a.tie(b)
    assert a.covers((0.0, None)) and not a.covers((0.0, 6.0))


def test_fixed_grid_is_what_the_format_prescribes():
    params = FixedGrid(1 / 256, -128).params()
    assert (float(params.scale), float(params.zero_point)) == (1 / 256, -128)
    low, high = FixedGrid(1 / 128, 0).range()
    assert (float(low), float(high)) == (-1.0, 127 / 128)


@pytest.mark.parametrize("identifier", ["moving_average", "abs_max", "fixed_grid", MovingAverage(momentum=0.5)])
def test_get_and_serialize_round_trip(identifier):
    quantizer = quantizers.get(identifier)
    again = quantizers.get(quantizers.serialize(quantizer))
    assert type(again) is type(quantizer)
    assert again.get_config() == quantizer.get_config()


def test_unknown_quantizer_is_refused_with_the_known_ones():
    with pytest.raises(kq.QuantizationError, match="moving_average.*Received: 'nope'"):
        quantizers.get("nope")


def test_bad_arguments_are_refused():
    with pytest.raises(kq.QuantizationError, match="Received: momentum=1.5"):
        MovingAverage(momentum=1.5)
    with pytest.raises(ValueError, match="Received: bits=9"):
        quantizers.AbsMax(bits=9)
