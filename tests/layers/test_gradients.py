"""Gradients that are written by hand, against those that TensorFlow finds of the plain form."""

import numpy as np
import pytest
import tensorflow as tf

from keras_quant.layers.dense import QuantDense
from keras_quant.layers.gelu import QuantGELU
from keras_quant.layers.matmul import QuantMatmul
from keras_quant.layers.standardize import QuantExactStandardize


def outputs_and_gradients(function, inputs, weights, jit_compile=False):
    """Of `function(inputs)`, and of a sum of it with random weights, by the inputs and by variables."""
    rng = np.random.default_rng(1)

    @tf.function(jit_compile=jit_compile, autograph=False)
    def step(*inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = function(*inputs)
            total = tf.reduce_sum(y * tf.constant(rng.standard_normal(y.shape), "float32"))
        return [y, *tape.gradient(total, [*inputs, *(w.value for w in weights)])]

    return [np.asarray(v) for v in step(*map(tf.constant, inputs))]


def check(layer, *inputs, to_the_bit=True):
    """In training a layer gives the outputs of its plain form, and the gradients as far as float32 goes."""
    rng = np.random.default_rng(0)
    layer.build(inputs[0].shape if len(inputs) == 1 else [x.shape for x in inputs])
    for weight in layer.trainable_weights:
        weight.assign(rng.uniform(0.5, 2, weight.shape))
    structure = lambda *inputs: inputs[0] if len(inputs) == 1 else list(inputs)
    of = lambda call, **how: outputs_and_gradients(lambda *x: call(structure(*x)), inputs, layer.trainable_weights, **how)
    plain, own = of(layer.float_call), of(layer.train_arithmetic)
    if to_the_bit:
        np.testing.assert_array_equal(own[0], plain[0])
    for mine, wanted in zip([*own, *of(layer.train_arithmetic, jit_compile=True)], [*plain, *plain]):
        np.testing.assert_allclose(mine, wanted, rtol=2e-4, atol=2e-5 * np.abs(wanted).max())


def values(*shape):
    return np.random.default_rng(2).normal(0.5, 2, shape).astype("float32")


@pytest.mark.parametrize("weights", ["", "scale", "offset", "scale offset"])
@pytest.mark.parametrize(
    ("shape", "axis", "options"),
    [
        ((3, 5, 8), [-1], {}),
        ((3, 5, 8), [1, 2], {}),
        ((3, 5, 8), [-1], {"center": False}),
        ((3, 5, 8), [-1], {"center": False, "statistic": "sum", "epsilon": 1e-12}),
        ((3, 4, 5, 8), [-1], {"groups": 2}),
    ],
    ids=["layer", "two axes", "root mean square", "unit", "group"],
)
def test_normalization(shape, axis, options, weights):
    uses = {"use_scale": "scale" in weights, "use_offset": "offset" in weights}
    check(QuantExactStandardize([a % len(shape) for a in axis], **options, **uses), values(*shape))


@pytest.mark.parametrize("approximate", [False, True])
def test_gelu(approximate):
    x = np.concatenate([np.linspace(-8, 8, 121), [-30, 30, 0, -0.0]]).astype("float32")
    # TensorFlow's own was 0 far below zero up to 2.18.
    check(QuantGELU(approximate), np.tile(x, (3, 1)), to_the_bit=approximate)


@pytest.mark.parametrize("transpose_b", [False, True])
def test_products(transpose_b):
    layer = QuantMatmul(transpose_b=transpose_b, input_scale=0.3).product
    check(layer, values(2, 4, 5), values(*((2, 6, 5) if transpose_b else (2, 5, 6))))


@pytest.mark.parametrize("shape", [(3, 6), (2, 4, 6)])
def test_dense(shape):
    layer = QuantDense(5, input_scale=0.3)
    layer.build(shape)
    layer.bias.assign(values(5))
    plain = lambda x: layer.scaled_product(x, layer.kernel.value) + layer.bias.value
    own = lambda x: layer.biased_product(x, layer.kernel.value, layer.bias.value)
    results = [outputs_and_gradients(form, [values(*shape)], layer.trainable_weights) for form in (own, plain)]
    for mine, wanted in zip(*results):
        np.testing.assert_allclose(mine, wanted, rtol=1e-5, atol=1e-5)
