"""Scales by group of inputs: on XNNPACK's kernels for Dense with weights of 4 bits and dynamic activations."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_quant as kq
from keras_quant import backend, quantizers
from keras_quant.posttraining import AdaRound
from keras_quant.tflite.runtime import Runtime
from tests.helpers import few, sequential, ship
from tests.quantizers.test_gradients import away_from_edges, gradients, lsq_by_the_paper

L = keras.layers
X = np.random.default_rng(0).normal(size=(32, 64)).astype("float32")
Y = np.arange(32) % 10
QUANTIZERS = {
    "abs_max": quantizers.AbsMax,
    "lsq": quantizers.KernelLSQ,
    "learned_clipping": quantizers.LearnedClipping,
    "mse": quantizers.ClippedAbsMax,
}


def network():
    keras.utils.set_random_seed(0)
    model = sequential(L.Dense(96, "relu", name="first"), L.Dense(10, name="logits"), shape=(64,))
    # Groups that differ by more than weights of 4 bits hold at one scale.
    first = model.get_layer("first")
    first.kernel.assign(first.kernel * np.repeat([1.0, 30.0], 32)[:, None])
    return model


def policy(name, bits=4, group_size=32):
    quantizer = QUANTIZERS[name](bits=bits, granularity="group", group_size=group_size)
    return kq.Policy(f"int{bits}", "dynamic", kernel_quantizer=quantizer)


def trained(policy):
    qmodel = kq.quantize(network(), policy)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    qmodel.compile(keras.optimizers.Adam(1e-3), loss, jit_compile=False)
    qmodel.fit(X, Y, batch_size=16, verbose=0)
    return qmodel


@pytest.mark.parametrize("bits", few([2, 3, 4], 4))
@pytest.mark.parametrize("name", QUANTIZERS)
def test_groups_train_save_and_ship(name, bits, tmp_path):
    qmodel = trained(policy(name, bits))
    report, _ = ship(qmodel, tmp_path, X)
    assert report.partitions == 1 and report.off_xnnpack == ()
    layer = qmodel.get_layer("first")
    scale = np.asarray(layer.kernel_quantizer.scale(layer.kernel, layer.kernel_axes))
    assert scale.shape == (2, 96)
    (stored,) = [t for t in report.tensors if t.name == "first/kernel"]
    assert stored.dtype == "int4"
    np.testing.assert_array_equal(np.reshape(stored.scale, (96, 2)), scale.T)
    qmodel.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.get_layer("first").kernel_quantizer.group_size == 32
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), qmodel.predict(X, verbose=0))


def test_the_kernel_adds_up_one_product_of_integers_for_each_group(tmp_path):
    """`y = (Σ_g s_g · Σ x̂·ŵ) / m + b`: to the last bit."""
    qmodel = kq.quantize(sequential(L.Dense(24), shape=(128,)), policy("abs_max", group_size=64))
    kq.export(qmodel, tmp_path / "m.tflite", batch_size=8)
    x = np.random.default_rng(1).normal(size=(8, 128)).astype("float32")
    runtime = Runtime((tmp_path / "m.tflite").read_bytes(), "m.tflite")
    runtime.interpreter.set_tensor(runtime.inputs[0]["index"], x)
    runtime.interpreter.invoke()
    found = runtime.interpreter.get_tensor(runtime.interpreter.get_output_details()[0]["index"])
    layer = qmodel.layers[-1]
    quantizer = layer.kernel_quantizer
    scale = np.asarray(quantizer.scale(layer.kernel, (0,)))
    kernel = np.int64(quantizer.integers(layer.kernel, (0,))).reshape(2, 64, 24)
    low, high = np.minimum(x.min(1, keepdims=True), 0), np.maximum(x.max(1, keepdims=True), 0)
    per_step = np.float32(255) / (high - low)
    bottom, top = low * per_step, high * per_step
    zero = np.rint(np.clip(np.where((-128 + bottom) + (127 + top) > 0, -128 - bottom, 127 - top), -128, 127))
    centred = np.int64(np.clip(np.rint(x * per_step) + zero, -128, 127) - zero).reshape(8, 2, 64)
    total = np.zeros((8, 24), np.float32)
    for group in range(2):
        total += np.float32(centred[:, group] @ kernel[group]) * scale[group]
    np.testing.assert_array_equal(found, total * (np.float32(1) / per_step))


def test_groups_lose_less_than_channels_where_inputs_differ():
    kernel = np.asarray(network().get_layer("first").kernel)
    noise = lambda **options: np.asarray(quantizers.AbsMax(bits=4, **options).fake_quant(kernel, (0,)) - kernel)[:32].std()
    assert noise(granularity="group") < 0.1 * noise()


@given(seed=st.integers(0, 2**31), bits=st.integers(2, 4))
@settings(max_examples=30, deadline=None)
def test_lsq_by_group_has_the_papers_gradients(seed, bits):
    kernel = np.random.default_rng(seed).standard_normal((64, 3)).astype("float32")
    quantizer = quantizers.KernelLSQ(bits=bits, granularity="group")
    quantizer.create(kernel.shape, (0,))
    quantizer.fit_to(kernel, (0,))
    quantizer.reach.assign(quantizer.reach * 0.6)
    scale, limit = np.float64(quantizer.scale(kernel, (0,))), quantizer.limit
    parts = away_from_edges(kernel.reshape(2, 32, 3), scale[:, None], [-limit * scale[:, None], limit * scale[:, None]])
    upstream, _, (of_kernel, of_reach) = gradients(
        lambda kernel, _: quantizer.fake_quant(kernel, (0,)), parts.reshape(64, 3), quantizer.reach
    )
    upstream, of_kernel = upstream.reshape(parts.shape), of_kernel.reshape(parts.shape)
    for group, channel in np.ndindex(2, 3):
        step = scale[group, channel]
        wanted, wanted_step = lsq_by_the_paper(parts[group, :, channel], step, -limit, limit, upstream[group, :, channel])
        np.testing.assert_allclose(of_kernel[group, :, channel], wanted, rtol=1e-6)
        share = 1 / np.sqrt(32 * limit)
        assert of_reach[group, channel] / limit == pytest.approx(wanted_step * share, rel=1e-3, abs=1e-3)


@given(st.lists(st.floats(2**-14, 2.0**100, width=32), min_size=1))
@settings(max_examples=50, deadline=None)
def test_scales_round_to_bfloat16_with_and_without_xla(values):
    wanted = tf.cast(tf.cast(tf.constant(values, tf.float32), tf.bfloat16), tf.float32)
    np.testing.assert_array_equal(backend.round_to_bfloat16(tf.constant(values, tf.float32)), wanted)
    compiled = tf.function(backend.round_to_bfloat16, jit_compile=True, reduce_retracing=True)
    np.testing.assert_array_equal(compiled(tf.constant(values, tf.float32)), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gptq", AdaRound(iterations=60)], ids=["gptq", "adaround"])
def test_rounding_is_learned_by_group_too(method, tmp_path):
    qmodel = kq.quantize(network(), policy("abs_max"))
    kq.refine(qmodel, X, [method], verbose=0)
    ship(qmodel, tmp_path, X)


@pytest.mark.parametrize("opset", [None, 13])
def test_groups_ship_to_onnx(opset, tmp_path):
    pytest.importorskip("tf2onnx")
    qmodel = kq.quantize(network(), policy("mse"))
    kq.export(qmodel, tmp_path / "m.onnx", opset=opset)
    assert kq.verify(qmodel, tmp_path / "m.onnx", X, verbose=0).equal


def test_a_report_counts_integers_by_group():
    report = kq.report(kq.quantize(network(), policy("lsq")), X)
    assert np.isfinite(report.to_pandas()["local_sqnr"]).all()


@pytest.mark.parametrize(
    "layer, policy, problem",
    [
        (
            L.Dense(4),
            kq.Policy("int4", kernel_quantizer=quantizers.AbsMax(granularity="group")),
            "no kernel with scales by group",
        ),
        (
            L.Conv1D(4, 3),
            kq.Policy("int4", kernel_quantizer=quantizers.AbsMax(granularity="group")),
            "no kernel with scales by",
        ),
        (L.Dense(4), policy("abs_max", group_size=48), "a multiple of 32 that divides the 64 inputs.*group_size=48, bits=4"),
        (L.Dense(4), policy("abs_max", group_size=128), "divides the 64 inputs.*group_size=128"),
        (L.Dense(4), policy("abs_max", 8), "weights of up to 4 bits.*bits=8"),
    ],
)
def test_where_there_is_no_kernel_the_layer_is_named(layer, policy, problem):
    layer.name = "it"
    with pytest.raises(kq.UnsupportedLayerError, match=f"Layer 'it'.*{problem}"):
        kq.quantize(sequential(layer, shape=(6, 64)), policy)


@pytest.mark.parametrize("arguments", [{"group_size": 32}, {"granularity": "group", "group_size": 0}])
def test_a_group_size_without_sense_is_refused(arguments):
    with pytest.raises(
        kq.QuantizationError, match='`group_size` is a positive integer, with `granularity="group"`. Received'
    ):
        quantizers.AbsMax(**arguments)
