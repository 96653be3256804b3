import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from keras_quant.quantizers import AbsMax


@given(st.integers(0, 2**31), st.integers(2, 8))
def test_weights_land_on_the_nearest_level_of_their_channel(seed, bits):
    kernel = np.random.default_rng(seed).standard_normal((3, 3, 4, 5)).astype("float32")
    quantizer = AbsMax(bits)
    scale = np.asarray(quantizer.scale(kernel, (0, 1, 2)))
    top = 2 ** (bits - 1) - 1
    np.testing.assert_allclose(scale, np.abs(kernel).max((0, 1, 2)) / top, rtol=1e-6)
    seen = np.asarray(quantizer.fake_quant(kernel, (0, 1, 2)))
    assert np.all(np.abs(np.rint(seen / scale)) <= top)
    assert np.all(np.abs(seen - kernel) <= scale * 0.5001)


def test_weights_between_two_steps_are_rounded_alike_in_graphs():
    import tensorflow as tf

    kernel = np.random.default_rng(0).integers(-7, 7, (16, 16)).astype("float32") + np.float32(0.5)
    kernel[0], quantizer = 7.0, AbsMax(4)
    wanted, kernel = np.clip(np.rint(kernel), -7, 7), tf.Variable(kernel)
    for function in (lambda: quantizer.fake_quant(kernel, (0,)), lambda: quantizer.integers(kernel, (0,))):
        for compiled in (False, True):
            np.testing.assert_array_equal(tf.function(function, jit_compile=compiled)(), wanted)


def test_gradient_passes_straight_through():
    import tensorflow as tf

    kernel = tf.Variable(np.random.default_rng(0).standard_normal((4, 3)).astype("float32"))
    upstream = np.arange(12, dtype="float32").reshape(4, 3)
    with tf.GradientTape() as tape:
        y = tf.reduce_sum(AbsMax().fake_quant(kernel, (0,)) * upstream)
    np.testing.assert_array_equal(tape.gradient(y, kernel), upstream)


def test_a_channel_of_zeros_has_a_scale():
    kernel = np.zeros((2, 3), "float32")
    kernel[:, 1] = 2
    assert np.all(np.asarray(AbsMax().scale(kernel, (0,))) > 0)
    np.testing.assert_array_equal(AbsMax().fake_quant(kernel, (0,)), kernel)
