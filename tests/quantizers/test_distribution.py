import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_quant import quantizers
from keras_quant.quantizers import Distribution


def seen(*batches):
    distribution = Distribution()
    for batch in batches:
        distribution.add(batch)
    return distribution


@given(st.integers(0, 2**31), st.floats(1e-3, 1e3))
@settings(max_examples=30, deadline=None)
def test_a_histogram_that_grew_knows_the_quantiles_to_within_a_bin(seed, growth):
    rng = np.random.default_rng(seed)
    batches = [rng.standard_normal(3000), rng.standard_normal(2000) * growth]
    values, distribution = np.concatenate(batches), seen(*batches)
    most = np.abs(values).max()
    for share in (0.01, 0.5, 0.99):
        exact = np.quantile(values, share, method="inverted_cdf")
        assert distribution.quantile(share) == pytest.approx(exact, abs=2 * most / 2048)
    assert distribution.mean == pytest.approx(values.mean(), abs=1e-6 * most)
    assert distribution.std == pytest.approx(values.std(), rel=1e-6)
    assert (distribution.low, distribution.high) == (values.min(), values.max())


def test_zeros_stay_zeros_while_the_bins_widen():
    distribution = seen(np.zeros(500), np.full(10, 1e-3), np.full(10, 1.0), np.full(10, 1e4))
    centers, counts = distribution.clipped(-np.inf, np.inf)
    assert counts[centers == 0] >= 500 and counts.sum() == 530


def test_memory_does_not_grow_with_the_data():
    few, many = seen(np.ones(10)), seen(*np.random.default_rng(0).standard_normal((50, 1000)))
    assert few._counts.nbytes == many._counts.nbytes < 70_000


def test_bounds_clip_what_was_seen():
    distribution = seen(np.array([-3.0, 1.0, 9.0])).within(0.0, 6.0)
    assert (distribution.low, distribution.high, distribution.lows, distribution.highs) == (0.0, 6.0, [0.0], [6.0])
    assert distribution.mean == pytest.approx(7 / 3, abs=0.01)


VALUES = np.concatenate([np.random.default_rng(0).standard_normal(10000), [40.0]])


def error(values, low, high, levels=255):
    scale = (high - low) / levels
    zero = np.rint(-low / scale)
    return np.mean(((np.clip(np.rint(values / scale) + zero, 0, levels) - zero) * scale - values) ** 2)


@pytest.mark.parametrize("bits", [3, 8])
def test_least_squares_loses_least(bits):
    quantizer = quantizers.MovingAverage(bits=bits)
    low, high = quantizers.LeastSquares().range_of(seen(VALUES), quantizer)
    levels = 2**bits - 1
    assert high < 40.0
    assert error(VALUES, low, high, levels) < error(VALUES, VALUES.min(), 40.0, levels)
    others = [error(VALUES, VALUES.min() * share, 40.0 * share, levels) for share in np.linspace(1, 0.4, 13)]
    assert error(VALUES, low, high, levels) <= min(others) * 1.02
    even = np.linspace(-1, 1, 1000)
    assert quantizers.LeastSquares().range_of(seen(even), quantizers.MovingAverage()) == (-1.0, 1.0)


def test_what_the_other_methods_choose():
    quantizer, distribution = quantizers.MovingAverage(), seen(VALUES[:5000], VALUES[5000:])

    def choose(method):
        return method.range_of(distribution, quantizer)

    assert choose(quantizers.MinMax()) == (VALUES.min(), 40.0)
    np.testing.assert_allclose(choose(quantizers.Percentile(99.0)), np.quantile(VALUES, [0.01, 0.99]), atol=0.03)
    np.testing.assert_allclose(choose(quantizers.MeanStd(2.0)), VALUES.mean() + np.array([-2, 2]) * VALUES.std(), rtol=1e-6)
    assert choose(quantizers.Truncation(2.5)) == (-2.5, 2.5)
    first, second = VALUES[:5000], VALUES[5000:]
    averages = 0.9 * first.min() + 0.1 * second.min(), 0.9 * first.max() + 0.1 * second.max()
    np.testing.assert_allclose(choose(quantizers.MovingMinMax(0.9)), averages)
    _, high = choose(quantizers.Entropy())
    assert high < 40.0


def test_ranges_suit_the_quantizers_own_grid():
    """On a symmetric grid a one-sided tensor wastes half the levels, and clipping pays more."""
    values = np.abs(np.random.default_rng(1).standard_normal(20000))
    plain, symmetric = quantizers.MovingAverage(bits=3), quantizers.MovingAverage(bits=3, symmetric=True)
    highs = [quantizers.LeastSquares().range_of(seen(values), quantizer)[1] for quantizer in (plain, symmetric)]
    assert highs[1] < highs[0]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_least_squares_of_weights_loses_least(bits):
    kernel = np.random.default_rng(2).standard_t(4, (3, 3, 16, 5)).astype("float32")
    axes = (0, 1, 2)
    losses = {}
    for name in ("abs_max", "mse", "percentile", "mean_std"):
        quantizer = quantizers.get(name, quantizers.KERNEL, bits)
        quantizer.create(kernel.shape, axes)
        quantizer.fit_to(kernel, axes)
        losses[name] = ((np.asarray(quantizer.fake_quant(kernel, axes)) - kernel) ** 2).mean(axes)
    assert np.all(losses["mse"] <= losses["abs_max"] * 1.0001)
    assert losses["mse"].sum() < 0.9 * losses["abs_max"].sum() if bits < 8 else True
