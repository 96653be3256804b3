"""The root and the sums that normalizations take in float32."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_quant.integer import Quantized, standardize
from keras_quant.integer.normalization import heron, root_by_heron, scaled_epsilon
from tests.integer.one_op import grid

KINDS = [(True, "mean"), (False, "mean"), (False, "sum")]


@pytest.mark.parametrize("center, statistic", KINDS)
@pytest.mark.parametrize("count", [2, 3, 128, 768, 2**16, 2**20])
@pytest.mark.parametrize("small", [1e-9, 1e-3, 1.0, 1e6])
def test_the_root_converges_for_every_variance_of_integers(count, center, statistic, small):
    terms = 1 if statistic == "sum" else count
    least = (1 - 1 / count if center else 1) / terms
    most = (127.5**2 if center else 255.0**2) * count / terms
    value = np.geomspace(least, most, 10000).astype(np.float32) + np.float32(small)
    start, factors = heron(count, center, statistic, np.float32(small))
    root = np.float64(root_by_heron(value, start, factors))
    assert np.max(np.abs(root / np.sqrt(np.float64(value)) - 1)) < 2**-21
    assert len(factors) <= 7


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(KINDS),
    st.sampled_from([1, 2, 7, 128, 521, 2000]),
    st.integers(-128, 127),
    st.sampled_from([1e-12, 1e-6, 1e-3]),
    st.floats(1e-4, 10.0),
)
def test_the_formula_is_the_float_layers_on_its_integers(seed, kind, count, zero_point, epsilon, scale):
    """Also of rows that are all alike, all at the ends of the grid, or differ in one place."""
    rng, (center, statistic) = np.random.default_rng(seed), kind
    spread = rng.choice([0, 1, 40, 400], (6, 1))
    q = np.clip(rng.normal(rng.integers(-128, 128, (6, 1)), spread, (6, count)).round(), -128, 127)
    q[0] = rng.choice([-128, 127], count)
    q[1] = rng.integers(-128, 128)
    q[1, 0] = rng.integers(-128, 128)
    x = Quantized(q.astype(np.float32) - np.float32(zero_point), grid(scale, zero_point))
    c = q - zero_point
    if center:
        c = c - c.mean(1, keepdims=True)
    squares = (c**2).sum(1, keepdims=True) / (1 if statistic == "sum" else count)
    small = float(scaled_epsilon(epsilon, np.float32(scale)))
    y = grid(8 / 255, 0)
    got = np.asarray(standardize(x, y, [1], epsilon, center, statistic))
    assert np.isfinite(got).all() and np.abs(got).max() <= 128
    # A variance is known to what cancels in it, and a result to half a step.
    ends = [c / np.sqrt(np.maximum(squares + off, 0) + small + 1e-300) / y.scale for off in (-0.02 * center, 0.02 * center)]
    ends = np.nan_to_num(ends, posinf=math.inf, neginf=-math.inf)
    low, high = np.clip(np.min(ends, 0), -128, 127), np.clip(np.max(ends, 0), -128, 127)
    known = squares[:, 0] > 0.02 * center
    assert np.all((got >= low - 0.51)[known]) and np.all((got <= high + 0.51)[known])
    assert not got[squares[:, 0] == 0].any()
