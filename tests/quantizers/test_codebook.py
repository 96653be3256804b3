import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_quant as kq
from keras_quant import quantizers
from tests.helpers import few, functional, shake, ship
from tests.quantizers.test_shipping import X, trained

L = keras.layers
AXES = (0, 1, 2)
SCALAR = ("look_up", "powers_of_two", "quantile", "kmeans", "learned_codebook")


def kernel(seed=0, shape=(3, 3, 16, 8)):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def fitted(name, bits=4, weights=None, **arguments):
    weights = kernel() if weights is None else weights
    quantizer = quantizers.get(name, quantizers.KERNEL, bits) if isinstance(name, str) else name
    quantizer.create(weights.shape, AXES)
    quantizer.fit_to(weights, AXES)
    return quantizer


def integers(quantizer, weights):
    return np.asarray(quantizer.values(weights, AXES)) / np.asarray(quantizer.scale(weights, AXES))


@pytest.mark.parametrize("name", SCALAR)
@given(seed=st.integers(0, 2**31))
@settings(max_examples=8)
def test_weights_take_the_nearest_of_few_integers(name, seed):
    weights = kernel(seed)
    quantizer = fitted(name, 4, weights)
    found = integers(quantizer, weights)
    levels = np.unique(np.rint(found))
    assert len(levels) <= 16 and np.abs(levels).max() <= quantizer.limit <= 127
    np.testing.assert_allclose(found, np.rint(found), atol=1e-3)
    steps = weights / np.asarray(quantizer.scale(weights, AXES))
    all_levels = np.rint(np.sort(np.asarray(quantizer.codebook)) * quantizer.limit)
    nearest = np.abs(steps[..., None] - all_levels).min(-1)
    np.testing.assert_allclose(np.abs(steps - found), nearest, atol=1e-3)


def test_the_levels_are_what_they_are_called():
    assert set(np.unique(np.rint(integers(fitted("powers_of_two"), kernel())))) <= {
        *(sign * 2**i for i in range(7) for sign in (-1, 1)),
        0,
    }
    counts = np.unique(np.rint(integers(fitted("quantile"), kernel())), return_counts=True)[1]
    assert counts.max() < 2.5 * counts.min()
    given = quantizers.LookUp([-1.0, -0.25, 0.0, 0.5, 1.0])
    assert set(np.rint(integers(fitted(given), kernel())).ravel()) == {-127, -32, 0, 64, 127}


def test_k_means_loses_less_than_other_levels():
    loss = lambda name: float(((np.asarray(fitted(name).values(kernel(), AXES)) - kernel()) ** 2).mean())
    uniform = quantizers.AbsMax(4)
    plain = float(((np.asarray(uniform.fake_quant(kernel(), AXES)) - kernel()) ** 2).mean())
    assert loss("kmeans") < min(plain, loss("quantile"), loss("powers_of_two"))


def test_vectors_are_shared():
    weights = kernel()
    quantizer = fitted(quantizers.ProductCodebook(bits=5, length=3))
    found = np.rint(integers(quantizer, weights)).transpose(3, 0, 1, 2).reshape(-1, 3)
    assert len(np.unique(found, axis=0)) <= 32
    steps = (weights / np.asarray(quantizer.scale(weights, AXES))).transpose(3, 0, 1, 2).reshape(-1, 3)
    levels = np.rint(np.asarray(quantizer.codebook) * 127)
    distances = ((steps[:, None] - levels) ** 2).sum(-1)
    np.testing.assert_allclose(((steps - found) ** 2).sum(-1), distances.min(1), rtol=1e-3)
    # A channel that the length does not divide ends in part of a vector.
    odd = kernel(shape=(3, 3, 5, 4))
    assert fitted(quantizers.ProductCodebook(bits=4, length=4), weights=odd).values(odd, AXES).shape == odd.shape


def test_a_learned_codebook_gets_the_sum_of_its_weights_gradients():
    weights = kernel()
    quantizer = fitted("learned_codebook", 3)
    upstream = np.random.default_rng(1).standard_normal(weights.shape).astype("float32")
    variable = tf.constant(weights)
    with tf.GradientTape() as tape:
        tape.watch(variable)
        total = tf.reduce_sum(quantizer.fake_quant(variable, AXES) * upstream)
    of_weights, of_levels = tape.gradient(total, [variable, quantizer.codebook.value])
    np.testing.assert_allclose(of_weights, upstream)
    levels = np.rint(np.asarray(quantizer.codebook) * 127)
    largest = np.abs(weights).max(AXES)
    chosen = np.rint(integers(quantizer, weights))
    wanted = [(upstream * largest)[chosen == level].sum() for level in levels]
    np.testing.assert_allclose(of_levels, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", few([*SCALAR, "product"], "product"))
def test_codebooks_ship(name, tmp_path):
    product = name == "product"
    qmodel = trained(kq.Policy("int3" if product else "int4", "int8", kernel_quantizer=name))
    report, _ = ship(qmodel, tmp_path, X)
    assert report.partitions == 1 and all(t.dtype != "int4" for t in report.tensors)
    weights = qmodel.get_layer("up")
    x, y = quantizers.MovingAverage().params(), weights.output_quantizer.params()
    if not product:
        assert len(np.unique(weights.folded_weights(x, y).kernel)) <= 16
    qmodel.save(tmp_path / "m.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "m.keras")(X), qmodel(X))


def test_the_file_compresses_as_the_report_says(tmp_path):
    def build(x):
        x = L.Dense(96, activation="relu", name="mid")(L.Dense(256, activation="relu", name="big")(L.Flatten()(x)))
        return L.Dense(4)(x)

    model = shake(functional(build))
    sizes = {}
    for name in ("abs_max", "kmeans", "product"):
        given = quantizers.ProductCodebook(length=4) if name == "product" else name
        policy = kq.Policy("int8" if name == "abs_max" else "int4", "int8", kernel_quantizer=given)
        qmodel = kq.quantize(model, kq.PolicyMap({"big|mid": policy}), X)
        report = kq.export(qmodel, tmp_path / f"{name}.tflite")
        sizes[name] = report.compressed()
        assert kq.verify(qmodel, tmp_path / f"{name}.tflite", X, verbose=0).equal
    for method, whole in sizes["abs_max"].items():
        assert sizes["kmeans"][method] < 0.65 * whole
        # 4 bits for 4 weights.
        assert sizes["product"][method] < 0.3 * whole


@pytest.mark.parametrize(
    "quantizer, message",
    [
        (quantizers.KMeans(8), "Layer 'small': a codebook of 256 entries is larger than the kernel, which has 54 weights"),
        (quantizers.ProductCodebook(5, 2), "Layer 'small': a codebook of 32 vectors .* 30 vectors of 2"),
    ],
)
def test_a_codebook_larger_than_the_kernel_is_refused_with_the_layer(quantizer, message):
    policy = kq.Policy(f"int{quantizer.bits}", "int8", kernel_quantizer=quantizer)
    with pytest.raises(kq.QuantizationError, match=message):
        kq.quantize(functional(lambda x: L.DepthwiseConv2D(3, name="small")(x)), policy)


def test_bad_levels_are_refused():
    for levels in ([0.5], [0.0, 1.5], [0.0, float("nan")]):
        with pytest.raises(kq.QuantizationError, match="2 to 256 numbers in"):
            quantizers.LookUp(levels)
    with pytest.raises(kq.QuantizationError, match="Received: length=1"):
        quantizers.ProductCodebook(length=1)
