"""Batch normalization in training, one fused operation, against Keras's layer."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_quant.layers.weighted import normalize_in_training


def trained(call, jit_compile, momentum, x, upstream):
    """Output, gradients of input, gain and shift, and the statistics after a step of `call(norm, x)`."""
    norm = keras.layers.BatchNormalization(momentum=momentum)
    norm.build(x.shape)
    weights = norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance
    for variable, values in zip(weights, ([1.0, 2.0, -0.5], [0.1, 0.2, 0.3], [1.0, 2.0, 3.0], [0.5, 1.0, 4.0])):
        variable.assign(values)

    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = call(norm, x)
            total = tf.reduce_sum(y * upstream)
        return [y, *tape.gradient(total, [x, norm.gamma.value, norm.beta.value])]

    step = step if jit_compile is None else tf.function(step, jit_compile=jit_compile, autograph=False)
    return [np.asarray(v) for v in (*step(tf.constant(x)), norm.moving_mean, norm.moving_variance)]


@pytest.mark.parametrize("jit_compile", [None, False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("shape", [(8, 5, 5, 3), (4, 7, 3), (6, 3), (1, 3)])
def test_batch_statistics_and_gradients_are_those_of_keras(shape, momentum, jit_compile):
    x = np.random.default_rng(0).normal(2, 3, shape).astype("float32")
    upstream = np.random.default_rng(1).standard_normal(shape).astype("float32")
    ours = trained(normalize_in_training, jit_compile, momentum, x, upstream)
    theirs = trained(lambda norm, x: norm(x, training=True), None, momentum, x, upstream)
    for mine, wanted in zip(ours, theirs):
        np.testing.assert_allclose(mine, wanted, rtol=1e-4, atol=1e-4)
