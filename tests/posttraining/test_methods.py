"""What each method promises of a layer, and that the file computes what Keras predicts afterwards."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import keras_quant as kq
from keras_quant.graph import trace
from keras_quant.graph.graph import in_float
from keras_quant.posttraining import GPTQ, AdaRound, BatchNormReestimation, BiasCorrection, CrossLayerEqualization
from keras_quant.posttraining.gptq import _rounded
from tests.helpers import functional, images, shake, ship, slow
from tests.quantizers.test_shipping import KERNELS, network

L = keras.layers
X = images(64)
QUICK = AdaRound(iterations=60, batch_size=64, places=512)
POLICIES = ["int8", "w2a8", "w4a4", "dynamic_int4", kq.Policy("int4", "int8", kernel_quantizer="lsq")]


def quantized(build=network, policy="int4", x=X, **options):
    return kq.quantize(shake(functional(build, x.shape[1:])), policy, x, **options)


def float_outputs(qmodel, x=X):
    graph = trace(qmodel, keep_float=True)
    values = graph.run([ops.convert_to_tensor(x)], in_float)
    return np.asarray(values[graph.outputs])


def kernels(qmodel):
    return {layer.name: layer for layer in qmodel._flatten_layers() if getattr(layer, "kernel_quantizer", None) is not None}


@pytest.mark.parametrize("method", [slow(AdaRound(iterations=300, batch_size=64)), GPTQ()], ids=["adaround", "gptq"])
def test_errors_of_inputs_that_go_together_cancel(method):
    # All inputs are the same, so weights of 0.9 steps in all are best as one of a step; alone, each is rounded to none.
    x = np.repeat(images(64, (1,)), 4, axis=1)
    qmodel = kq.quantize(keras.Sequential([keras.Input((4,)), L.Dense(1)]), "int4", x)
    layer = qmodel.layers[-1]
    layer.kernel.assign([[0.45], [0.35], [7.0], [0.1]])
    kq.refine(qmodel, x, [method], verbose=0)
    integers = np.rint(np.asarray(layer.kernel)).ravel()
    assert sorted(integers) == [0, 0, 1, 7]


@given(seed=st.integers(0, 2**31), inputs=st.integers(2, 200), limit=st.sampled_from([1, 7, 127]))
@settings(max_examples=20, deadline=None)
def test_gptq_loses_less_than_rounding_to_nearest(seed, inputs, limit):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(4 * inputs, max(1, inputs // 3))) @ rng.normal(size=(max(1, inputs // 3), inputs))
    hessian = rows.T @ rows + 0.01 * np.eye(inputs) * np.trace(rows.T @ rows) / inputs
    steps = rng.uniform(-limit, limit, (inputs, 5))
    nearest = np.clip(np.rint(steps), -limit, limit)
    factor = np.linalg.cholesky(np.linalg.inv(hessian)).T
    found = _rounded(steps, nearest, np.ones(steps.shape, bool), factor, limit)
    assert np.all(found == np.rint(found)) and np.abs(found).max() <= limit
    loss = lambda integers: np.trace((steps - integers).T @ hessian @ (steps - integers))
    assert loss(found) <= loss(nearest)


BY_GPTQ = [(GPTQ(), name) if name in ("abs_max", "lsq") else slow(GPTQ(), name) for name in KERNELS]
BY_TRAINING = [slow(QUICK, name) for name in ("abs_max", "lsq", "mse", "tensor", "soft")]


@pytest.mark.parametrize("method, name", BY_GPTQ + BY_TRAINING)
def test_rounding_keeps_scales_and_moves_no_weight_by_more_than_it_may(method, name):
    qmodel = quantized(policy=kq.Policy("int4", "int8", kernel_quantizer=KERNELS[name]))
    layers = kernels(qmodel)
    scale = lambda layer: np.asarray(layer.kernel_quantizer.scale(layer.kernel, layer.kernel_axes))
    before = {key: (scale(layer), np.asarray(layer.kernel)) for key, layer in layers.items()}
    report = kq.refine(qmodel, X, [method], verbose=0)
    moved = 0
    for key, layer in layers.items():
        np.testing.assert_array_equal(scale(layer), before[key][0])
        by = np.abs(np.asarray(layer.kernel) - before[key][1]) / np.expand_dims(before[key][0], layer.kernel_axes)
        moved += np.count_nonzero(by)
        if method is QUICK:
            steps = np.abs(before[key][1]) / np.expand_dims(before[key][0], layer.kernel_axes)
            assert by[steps <= layer.kernel_quantizer.limit].max() < 1.001
    assert moved and report.methods[0].changed
    assert all(change.after <= change.before for change in report.methods[0].layers.values())


def test_bias_correction_puts_the_means_back():
    qmodel = quantized(lambda x: L.Dense(6, name="d")(L.Flatten()(L.Conv2D(4, 3, name="c", activation="relu")(x))))
    wanted = float_outputs(qmodel).mean(0)
    kq.refine(qmodel, X, [BiasCorrection()], verbose=0)
    layer = qmodel.layers[-1]
    grid = float(layer.output_quantizer.params().scale)
    assert np.abs(qmodel.predict(X, verbose=0).mean(0) - wanted).max() < grid / 2


def test_batch_norms_get_the_moments_of_what_the_integers_make():
    def build(x):
        x = L.BatchNormalization(name="alone")(L.ReLU()(x))
        return L.BatchNormalization(name="bn")(L.Conv2D(4, 3, use_bias=False, name="conv")(x))

    qmodel = quantized(build, "w2a8")
    kq.refine(qmodel, X, [BatchNormReestimation()], verbose=0)
    layers = {layer.name: layer for layer in qmodel._flatten_layers()}
    inner = keras.Model(qmodel.inputs, layers["alone"].input).predict(X, verbose=0)
    np.testing.assert_allclose(layers["alone"].moving_mean, inner.mean((0, 1, 2)), rtol=1e-3)
    np.testing.assert_allclose(layers["alone"].moving_variance, inner.var((0, 1, 2)), rtol=1e-3)
    conv, x = layers["conv"], keras.Model(qmodel.inputs, layers["conv"].input).predict(X, verbose=0)
    made = np.asarray(conv.product(x, conv.kernel_quantizer.fake_quant(conv.kernel, conv.kernel_axes)))
    np.testing.assert_allclose(conv.batch_norm.moving_mean, made.mean((0, 1, 2)), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(conv.batch_norm.moving_variance, made.var((0, 1, 2)), rtol=1e-3)


def unequal(activation, normalized=False):
    """A network whose channels reach over three decades, which the kernels behind it make up for."""

    def build(x):
        x = L.Conv2D(8, 3, padding="same", name="first", use_bias=not normalized)(x)
        x = L.BatchNormalization(name="bn")(x) if normalized else x
        x = L.DepthwiseConv2D(3, name="depthwise")(L.Dropout(0.1)(L.Activation(activation)(x)))
        return L.Conv2D(4, 1, name="last")(L.MaxPooling2D()(L.Activation(activation)(x)))

    model = shake(functional(build))
    factors = np.logspace(-2.5, 0, 8)
    first = model.get_layer("first")
    for variable in (model.get_layer("bn").gamma, model.get_layer("bn").beta) if normalized else first.weights:
        variable.assign(variable * factors)
    depthwise = model.get_layer("depthwise")
    depthwise.kernel.assign(depthwise.kernel / factors[:, None])
    return model


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("activation", ["linear", slow("relu"), "relu6"])
def test_equalization_changes_nothing_in_float_and_saves_what_small_channels_lose(activation, normalized):
    model = unequal(activation, normalized)
    qmodel = kq.quantize(model, "int8", X)
    report = kq.refine(qmodel, X, [CrossLayerEqualization()], verbose=0)
    np.testing.assert_allclose(float_outputs(qmodel), model.predict(X, verbose=0), rtol=1e-3, atol=1e-3)
    (method,) = report.methods
    (name,) = method.before
    assert method.layers["depthwise"].after < 0.2 * method.layers["depthwise"].before
    assert method.after[name] > method.before[name] + 6


def test_layers_that_others_read_or_that_do_not_let_factors_through_are_left_alone():
    def build(x):
        first = L.Conv2D(4, 1, name="read_twice")(x)
        second = L.Conv2D(4, 1, name="silu", activation="silu")(first)
        shared = L.Conv2D(4, 1, name="shared", activation="relu")
        grouped = L.Conv2D(4, 1, groups=2, name="grouped")
        return L.Add()([first, L.Conv2D(4, 1, name="end")(grouped(shared(shared(second))))])

    from keras_quant.posttraining.equalization import pairs

    qmodel = quantized(build)
    found = {(a.path, b.path) for a, b in pairs(trace(qmodel, keep_float=True))}
    assert found == {("grouped", "end")}


@pytest.mark.parametrize("policy", ["int4", *(pytest.param(p, marks=pytest.mark.slow) for p in POLICIES)], ids=str)
def test_the_file_computes_what_keras_predicts_after_every_method(policy, tmp_path):
    x = X[:32]
    qmodel = quantized(policy=policy, x=x, **({"fallback": "float"} if "dynamic" in str(policy) else {}))
    report = kq.refine(qmodel, x, ["equalization", "gptq", QUICK, "bias_correction", "batch_norm"], verbose=0)
    assert len(report.methods) == 5
    if "dynamic" in str(policy):
        kq.export(qmodel, tmp_path / "model.tflite")
        assert kq.verify(qmodel, tmp_path / "model.tflite", x, verbose=0).equal
    else:
        ship(qmodel, tmp_path, x)


def test_layers_inside_of_a_loop(tmp_path):
    x = images(32, (20, 5))
    build = lambda x: L.LSTM(8, return_sequences=True, name="lstm")(x)
    qmodel = quantized(build, "w3a8", x)
    exact = {name: layer.kernel.numpy() for name, layer in kernels(qmodel).items()}
    report = kq.refine(qmodel, x, [GPTQ(), QUICK, "bias_correction"], verbose=0)
    inside = {"lstm/gates_recurrent", "lstm/candidate_recurrent"}
    for method in report.methods:
        assert inside <= set(method.layers)
        assert all(method.layers[path].after <= method.layers[path].before for path in inside)
    assert report.methods[-1].after["lstm"] > report.methods[0].before["lstm"]
    assert any(np.any(layer.kernel.numpy() != exact[name]) for name, layer in kernels(qmodel).items() if "recurrent" in name)
    ship(qmodel, tmp_path, x)
