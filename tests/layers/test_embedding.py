"""Tables: rows picked by ids, in the bits of the policy, with the gradient that Keras has."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import keras_quant as kq
from tests.helpers import few, ship

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
@pytest.mark.parametrize("policy", few(["int8", "int4", "w8a4"], "int8", "int4"))
def test_tables_ship(name, policy, tmp_path):
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


@pytest.mark.parametrize("dtype", few(["int32", "int64", "float32"], "float32"))
def test_inputs_that_are_only_ids_are_integers_in_the_file(dtype, tmp_path):
    report, _ = ship(kq.quantize(tabulated(NETWORKS["mean"], dtype), "int8", IDS), tmp_path, IDS.astype(dtype))
    kinds = {tensor.name: tensor.dtype for tensor in report.tensors}
    assert kinds[next(name for name in kinds if name.startswith(("input", "keras_tensor")))] == dtype.replace(
        "float32", "int32"
    )


def test_a_table_trains_by_the_rows_that_a_batch_picks():
    qmodel = kq.quantize(tabulated(NETWORKS["mean"]), "int8", IDS)
    (layer,) = [layer for layer in qmodel.layers if isinstance(layer, kq.layers.QuantEmbedding)]
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
