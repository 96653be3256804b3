"""Reductions of large kernels to one value a channel."""

import numpy as np
import pytest
import tensorflow as tf

from keras_quant.backend.columns import LARGE, largest_size, sum_over

SHAPES = {(2048, 256): (0,), (2047, 130): (0,), (3, 3, 200, 160): (0, 1, 2), (3, 3, 600, 50): (0, 1), (30, 9999): (0,)}


@pytest.mark.parametrize("jit_compile", [None, False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_they_are_those_of_numpy(shape, jit_compile):
    assert np.prod(shape) >= LARGE
    x, axes = np.random.default_rng(0).standard_normal(shape).astype("float32"), SHAPES[shape]
    both = lambda x: (largest_size(x, axes), sum_over(x, axes))
    both = both if jit_compile is None else tf.function(both, jit_compile=jit_compile, autograph=False)
    largest, total = both(tf.constant(x))
    np.testing.assert_array_equal(largest, np.abs(x).max(axes))
    np.testing.assert_allclose(total, np.float64(x).sum(axes), rtol=1e-4, atol=1e-3)
