"""Tables: rows picked by ids, in the bits of the policy, with the gradient that Keras has."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import keras_quant as kq
from tests.helpers import assert_near_float, few, ship, slow

L = keras.layers
IDS = np.random.default_rng(0).integers(0, 60, (16, 10)).astype("int32")


def tabulated(build, dtype="int32", shape=(10,)):
    x = keras.Input(shape, dtype=dtype)
    model = keras.Model(x, build(x))
    for weight in model.weights:
        if "embeddings" in weight.path:
            weight.assign(np.random.default_rng(1).normal(size=weight.shape))
    return model


NETWORKS = {
    "mean": lambda x: L.Dense(3)(L.GlobalAveragePooling1D()(L.Embedding(60, 8)(x))),
    "convolution": lambda x: L.GlobalMaxPooling1D()(L.Conv1D(6, 3, activation="relu")(L.Embedding(60, 8)(x))),
    "positions": lambda x: L.Dense(3)(L.Embedding(60, 8)(x) + L.Embedding(10, 8)(ops.arange(10))),
    "shared": lambda x: (lambda table: L.Dense(3)(ops.concatenate([table(x), table((x + 1) % 60)], -1)))(L.Embedding(60, 8)),
    "array": lambda x: L.Dense(3)(ops.take(np.random.default_rng(2).normal(size=(60, 8)).astype("float32"), x, axis=0)),
    "odd_rows": lambda x: L.Embedding(60, 7)(x),
}


@pytest.mark.parametrize("name", few(NETWORKS, "convolution", "shared"))
@pytest.mark.parametrize("policy", few(["int8", "int4", "w8a4", "dynamic_int8", "dynamic_int4"], "int8", "int4"))
def test_tables_ship(name, policy, tmp_path):
    policy = policy if name != "convolution" else kq.PolicyMap({"embedding.*": policy})  # which has no form in float
    qmodel = kq.quantize(tabulated(NETWORKS[name]), policy, IDS)
    ship(qmodel, tmp_path, IDS)


def test_a_table_of_4_bits_takes_half_the_bytes(tmp_path):
    model = tabulated(lambda x: L.Embedding(4000, 32)(x))
    sizes = [ship(kq.quantize(model, p, IDS), tmp_path, IDS)[0].bytes for p in ("int8", "int4")]
    assert sizes[1] < 0.52 * sizes[0]


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["int16", "float32", "float16"])
def test_tables_of_other_precisions_ship(policy, tmp_path):
    ship(kq.quantize(tabulated(NETWORKS["positions"]), kq.PolicyMap({"embedding.*": policy}), IDS), tmp_path, IDS)


@pytest.mark.parametrize("policy, of_float", [("float16", 0.5), slow("dynamic_int8", 0.29), ("dynamic_int4", 0.16)])
def test_real_numbers_from_a_smaller_table(policy, of_float, tmp_path):
    model = tabulated(lambda x: L.Embedding(4000, 32)(x))
    qmodel = kq.quantize(model, policy, IDS)
    report, parity = ship(qmodel, tmp_path, IDS)
    assert report.bytes < of_float * 4 * 4000 * 32 + 4000
    # Half numbers are allowed to be computed in half; of integers, nothing differs.
    assert parity.outputs[0].tolerance == (1e-2 if policy == "float16" else 0.0)
    assert_near_float(model, qmodel, IDS, 55 if policy == "float16" else 40 if policy == "dynamic_int8" else 16)


def uneven(build):
    """Rows of which some are a hundred times as large as others."""
    model = tabulated(build)
    table = model.layers[1].embeddings
    table.assign(np.array(table) * np.geomspace(0.05, 5, 60)[:, None])
    return model


ROWS = kq.quantizers.TableQuantizer(granularity="row")


@pytest.mark.parametrize("weights, network", [("int4", "convolution"), slow("int4", "odd_rows"), slow("int8", "mean")])
def test_a_scale_a_row(weights, network, tmp_path):
    model = uneven(NETWORKS[network])
    of_table = lambda **rows: kq.quantize(model, kq.PolicyMap({"embedding.*": kq.Policy(weights, "int8", **rows)}), IDS)
    qmodel = of_table(output_quantizer=ROWS)
    qmodel.compile("adam", "mse")
    ship(qmodel, tmp_path, IDS)
    noise = [error_of_rows(model, made) for made in (of_table(), qmodel)]
    assert noise[1] < (0.2 if weights == "int4" else 1.1) * noise[0]
    qmodel.fit(IDS, np.ones((16, *qmodel.output_shape[1:])), epochs=2, verbose=0)
    ship(qmodel, tmp_path, IDS)
    qmodel.save(tmp_path / "q.keras")
    kq.export(keras.models.load_model(tmp_path / "q.keras"), tmp_path / "loaded.tflite")
    assert (tmp_path / "loaded.tflite").read_bytes() == (tmp_path / "model.tflite").read_bytes()


def error_of_rows(model, qmodel):
    wanted, got = (np.asarray(m.layers[1](np.arange(60))) for m in (model, qmodel))
    return np.sum((wanted - got) ** 2)


def test_rows_on_half_steps_round_alike_in_a_graph_and_outside(tmp_path):
    """TensorFlow's optimizer makes a division of a product with a reciprocal."""
    model = uneven(NETWORKS["odd_rows"])
    table = np.array(model.layers[1].embeddings)
    most = np.abs(table).max(1, keepdims=True)
    model.layers[1].embeddings.assign(np.rint(table / most * 254) / 254 * most)
    ship(kq.quantize(model, "dynamic_int8", IDS), tmp_path, np.arange(60, dtype="int32").reshape(6, 10))


def test_dynamic_tables_have_a_scale_a_row_unless_told():
    model = uneven(NETWORKS["odd_rows"])
    one = kq.Policy("int4", "dynamic", kernel_quantizer=kq.quantizers.AbsMax(granularity="tensor"))
    noise = [error_of_rows(model, kq.quantize(model, policy, IDS)) for policy in (one, "dynamic_int4")]
    assert noise[1] < 0.2 * noise[0]


def test_int16_tables_take_no_scale_a_row():
    with pytest.raises(kq.QuantizationError, match="16 bits, which need no scale a row"):
        kq.quantizers.TableQuantizer(16, granularity="row")


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["int4", "dynamic_int4", kq.Policy("int4", "int8", output_quantizer=ROWS)])
def test_tables_in_onnx(policy, tmp_path):
    pytest.importorskip("onnxruntime")
    qmodel = kq.quantize(uneven(NETWORKS["shared"]), kq.PolicyMap({"embedding.*": policy}), IDS)
    kq.export(qmodel, tmp_path / "model.onnx")
    assert kq.verify(qmodel, tmp_path / "model.onnx", IDS, verbose=0).largest <= 1


@pytest.mark.parametrize("dtype", few(["int32", "int64", "float32"], "float32"))
def test_inputs_that_are_only_ids_are_integers_in_the_file(dtype, tmp_path):
    report, _ = ship(kq.quantize(tabulated(NETWORKS["mean"], dtype), "int8", IDS), tmp_path, IDS.astype(dtype))
    kinds = {tensor.name: tensor.dtype for tensor in report.tensors}
    assert kinds[next(name for name in kinds if name.startswith(("input", "keras_tensor")))] == dtype.replace(
        "float32", "int32"
    )


@pytest.mark.parametrize("policy", few(["int8", "dynamic_int8", "rows"], "int8", "dynamic_int8"))
def test_a_table_trains_by_the_rows_that_a_batch_picks(policy):
    policy = kq.Policy(output_quantizer=ROWS) if policy == "rows" else policy
    qmodel = kq.quantize(tabulated(NETWORKS["mean"]), kq.PolicyMap({"embedding.*": policy}), IDS)
    layer = qmodel.layers[1]
    with tf.GradientTape() as tape:
        loss = ops.sum(qmodel(IDS, training=True) ** 2)
    gradient = tape.gradient(loss, layer.embeddings.value)
    assert isinstance(gradient, tf.IndexedSlices)
    qmodel.compile("adam", "mse")
    before = np.array(layer.embeddings)
    picked = IDS[:1]
    qmodel.fit(picked, np.ones((1, 3)), verbose=0)
    moved = np.abs(np.array(layer.embeddings) - before).max(axis=1) > 0
    assert set(np.flatnonzero(moved)) == set(picked.ravel())


def test_rows_that_no_data_picks_keep_their_range():
    model = tabulated(lambda x: L.Embedding(60, 8)(x))
    table = np.random.default_rng(1).normal(size=(60, 8))
    table[59] = 40.0
    model.layers[-1].embeddings.assign(table)
    qmodel = kq.quantize(model, "int8", np.zeros((4, 10), "int32"), calibration_method="min_max")
    rare = np.full((1, 10), 59, "int32")
    np.testing.assert_allclose(qmodel.predict(rare, verbose=0), 40.0, rtol=0.01)


def test_a_trained_table_ships_and_loads(tmp_path):
    qmodel = kq.quantize(tabulated(NETWORKS["shared"]), "int8", IDS)
    qmodel.compile(keras.optimizers.Adam(0.1), "mse")
    qmodel.fit(IDS, np.zeros((16, 10, 3)), epochs=2, verbose=0)
    ship(qmodel, tmp_path, IDS)
    qmodel.save(tmp_path / "q.keras")
    kq.export(keras.models.load_model(tmp_path / "q.keras"), tmp_path / "loaded.tflite")
    assert (tmp_path / "loaded.tflite").read_bytes() == (tmp_path / "model.tflite").read_bytes()
