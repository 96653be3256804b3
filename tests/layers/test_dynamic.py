"""Layers that quantize their activations as they run: what Keras predicts is what XNNPACK computes."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_quant as kq
from keras_quant.graph import trace
from keras_quant.layers import DynamicDense
from keras_quant.tflite.parity import TOLERANCES
from tests.helpers import assert_near_float, functional, images, sequential, shake, ship, slow

L = keras.layers

LAYERS = {
    "rows": (
        (5, 3, 32),
        L.Dense(6),
        L.EinsumDense("abcd,de->abce", (None, None, 6), activation="tanh"),
        L.EinsumDense("abcd,def->abcef", (None, None, 3, 4), bias_axes="ef"),
        L.EinsumDense("abcd,cde->abe", (None, 6), bias_axes="e", activation="relu"),
    ),
    "sequences": (
        (11, 4),
        L.Conv1D(5, 3, padding="same", strides=2),
        L.Conv1D(5, 3, padding="causal", dilation_rate=2, activation="relu"),
        L.Conv1D(5, 1),
        L.Conv1D(6, 3, groups=2),
        L.Conv1DTranspose(5, 3, strides=2, padding="same"),
    ),
    "images": (
        (9, 8, 4),
        L.Conv2D(5, 3, padding="same", strides=2),
        L.Conv2D(5, 1, padding="same", activation="gelu"),
        L.Conv2D(6, 3, groups=2, dilation_rate=2, padding="same"),
        L.Conv2D(6, 1, groups=2),
        L.Conv2D(4, 3, groups=4),
        L.Conv2DTranspose(5, 3, strides=2, activation="relu"),
        L.Conv2DTranspose(5, 2, strides=3, padding="same", use_bias=False),
        L.Conv2DTranspose(5, 3, dilation_rate=2),
        L.Conv2DTranspose(5, 2, strides=2, output_padding=1),
        L.SeparableConv2D(6, 3, padding="same", depth_multiplier=2, activation="relu"),
    ),
    "one channel": ((9, 8, 1), L.Conv2D(1, 1), L.Conv2D(2, 1)),
    "volumes": (
        (7, 5, 6, 4),
        L.Conv3D(6, 3, padding="same"),
        L.Conv3D(6, (2, 3, 3), strides=(2, 1, 2), activation="relu"),
        L.Conv3D(6, 2, dilation_rate=2, groups=2),
        L.Conv3D(6, (3, 1, 1), padding="same"),
        L.Conv3D(6, 1),
        L.Conv3DTranspose(5, 3, strides=2),
        L.Conv3DTranspose(5, 2, strides=(3, 1, 2), padding="same"),
    ),
}


def several(name):
    shape, *layers = LAYERS[name]
    own = [type(layer).from_config(layer.get_config()) for layer in layers]
    return shake(functional(lambda x: [layer(x) for layer in own], shape))


def every(policy):
    """A map that names all layers."""
    return kq.PolicyMap({".*": policy})


@pytest.mark.parametrize("policy", ["dynamic_int8", slow("dynamic_int4")])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_simulated_far_below_a_step_and_are_one_partition(name, policy, tmp_path, monkeypatch):
    monkeypatch.setitem(TOLERANCES, "dynamic", 5e-5)
    model, x = several(name), images(6, LAYERS[name][0])
    qmodel = kq.quantize(model, every(policy))
    report, parity = ship(qmodel, tmp_path, x * np.float32(10.0) ** np.arange(-3, 3).reshape(-1, *[1] * (x.ndim - 1)))
    assert report.off_xnnpack == () and report.partitions == 1 and len(parity.outputs) == len(LAYERS[name]) - 1
    kernels = {t.dtype for t in report.tensors if t.constant and t.name.endswith("kernel") and "depthwise" not in t.name}
    assert kernels == {"int4" if (name, policy) == ("rows", "dynamic_int4") else "int8"}
    if policy == "dynamic_int8":
        assert_near_float(model, qmodel, x, 35)
    qmodel.save(tmp_path / "m.keras")
    for wanted, got in zip(qmodel(x), keras.models.load_model(tmp_path / "m.keras")(x)):
        np.testing.assert_array_equal(got, wanted)


def test_a_row_of_a_product_has_a_grid_for_all_that_is_summed():
    """A token whose heads differ by four orders of magnitude."""
    layer = kq.layers.DynamicEinsumDense("abcd,cde->abe", (None, 4))
    x = images(1, (3, 2, 8)) * np.float32([[1e-4], [1.0]])
    layer.build((None, 3, 2, 8))
    alone, both = ops.convert_to_numpy(layer(x * [[1.0], [0.0]])), ops.convert_to_numpy(layer(x))
    rest = ops.convert_to_numpy(layer(x * [[0.0], [1.0]]))
    assert np.abs(alone).max() > 0
    np.testing.assert_array_equal(both, rest)


@pytest.mark.parametrize("name", ["rows", slow("images"), slow("volumes")])
def test_layers_train_on_the_grids_of_the_device(name, tmp_path):
    x = images(32, LAYERS[name][0])
    qmodel = kq.quantize(several(name), every("dynamic_int4"))
    targets = [images(32, tuple(y.shape[1:]), seed) for seed, y in enumerate(qmodel.outputs)]
    qmodel.compile(keras.optimizers.Adam(0.02), "mse")
    before = [ops.convert_to_numpy(v) for v in qmodel.trainable_variables]
    losses = qmodel.fit(x, targets, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert all(np.any(ops.convert_to_numpy(v) != old) for v, old in zip(qmodel.trainable_variables, before))
    trained = [ops.convert_to_numpy(y) for y in qmodel(x[:4], training=True)]
    for wanted, got in zip(trained, qmodel.predict(x[:4], verbose=0)):
        np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max())
    ship(qmodel, tmp_path, x)


def test_einsum_dense_takes_scales_by_group(tmp_path):
    by_group = kq.Policy("int4", "dynamic", kernel_quantizer=kq.quantizers.AbsMax(granularity="group", group_size=32))
    x = images(16, (5, 2, 32))
    model = shake(sequential(L.EinsumDense("abcd,cde->abe", (None, 64), bias_axes="e"), shape=x.shape[1:]))
    report, _ = ship(kq.quantize(model, by_group), tmp_path, x)
    assert report.partitions == 1 and len(next(t for t in report.tensors if t.name.endswith("kernel")).scale) == 2 * 64


def test_attention_has_dynamic_projections():
    model = functional(lambda x: L.MultiHeadAttention(2, 8, name="mha")(x, x), (6, 16))
    nodes = trace(kq.quantize(shake(model), "dynamic_int8"), keep_float=True).nodes
    found = {n.path for n in nodes if isinstance(n.operation, DynamicDense)}
    assert found == {f"mha.{part}_dense" for part in ("query", "key", "value", "attention_output")}


def transformer(x):
    for _ in range(3):
        y = L.LayerNormalization()(x)
        x = L.Add()([x, L.MultiHeadAttention(4, 16)(y, y)])
        x = L.Add()([x, L.Dense(64)(L.Dense(256, activation="gelu")(L.LayerNormalization()(x)))])
    return L.Dense(10)(L.GlobalAveragePooling1D()(x))


def test_a_transformer_is_one_partition_and_no_rounding_spreads_from_layer_to_layer(tmp_path, monkeypatch):
    """What a layer quantizes as it runs is taken from the file: a value on the border of two steps falls to either."""
    monkeypatch.setitem(TOLERANCES, "dynamic", 1e-4)
    x = images(8, (32, 64))
    model = shake(functional(transformer, x.shape[1:]))
    qmodel = kq.quantize(model, "dynamic_int8")
    report, _ = ship(qmodel, tmp_path, x)
    assert report.partitions == 1 and report.off_xnnpack == ()
    assert [op.name for op in report.operators].count("FULLY_CONNECTED") == 3 * 6 + 1
    assert_near_float(model, qmodel, x, 30)


class Products(L.Layer):
    """Products with weights, as layers of one's own spell them."""

    def build(self, shape):
        weight = lambda name, *shape: self.add_weight(name=name, shape=shape)
        self.inner, self.heads, self.outer = weight("inner", shape[-1], 8), weight("heads", 8, 3, 2), weight("outer", 5, 6)

    def call(self, x):
        x = ops.reshape(ops.einsum("abc,cde->abde", ops.matmul(x, self.inner), self.heads), (-1, 6, 6))
        return ops.matmul(self.outer, x)


def test_products_with_weights_of_ones_own_are_quantized_as_they_run(tmp_path):
    model, x = functional(lambda x: Products(name="own")(x), (6, 16)), images(8, (6, 16))
    qmodel = kq.quantize(model, "dynamic_int8")
    report, _ = ship(qmodel, tmp_path, x)
    assert [op.name for op in report.operators].count("FULLY_CONNECTED") == 3 and report.partitions == 1
    assert_near_float(model, qmodel, x, 30)


class Scores(L.Layer):
    """The scores of all words of a table that another layer reads, too."""

    def __init__(self, table, **kwargs):
        super().__init__(**kwargs)
        self.table = table

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.table.embeddings))


def test_a_tied_table_stays_tied(tmp_path):
    ids = keras.Input((5,), dtype="int32")
    table = L.Embedding(20, 16, name="table")
    model = keras.Model(ids, Scores(table, name="scores")(L.Dense(16)(table(ids))))
    x = np.random.default_rng(0).integers(0, 20, (16, 5)).astype("int32")
    qmodel = kq.quantize(model, "dynamic_int8")
    assert len(qmodel.trainable_variables) == 3
    qmodel.compile("adam", keras.losses.SparseCategoricalCrossentropy(True))
    qmodel.fit(x, x, verbose=0)
    ship(qmodel, tmp_path, x)
    qmodel.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded(x), qmodel(x))
    assert len(loaded.trainable_variables) == 3


def test_what_has_no_such_kernel_stays_float_or_is_refused():
    model = functional(lambda x: L.DepthwiseConv2D(3, name="depthwise")(x))
    with pytest.raises(kq.QuantizationError, match="'depthwise' .*nearest policies that work are 'int8' and 'float32'"):
        kq.quantize(model, kq.PolicyMap({"depthwise": "dynamic_int8"}))
    assert type(kq.quantize(model, "dynamic_int8").get_layer("depthwise")) is L.DepthwiseConv2D


def test_groups_of_few_channels_are_faster_in_float():
    model = functional(
        lambda x: L.Conv2D(32, 3, groups=2, name="many")(L.Conv2D(32, 3, groups=4, name="few")(x)), (9, 9, 32)
    )
    default, named = kq.quantize(model, "dynamic_int8"), kq.quantize(model, every("dynamic_int8"))
    assert type(default.get_layer("few")) is L.Conv2D
    assert all(isinstance(q.get_layer("many"), kq.layers.DynamicConv2D) for q in (default, named))
    assert isinstance(named.get_layer("few"), kq.layers.DynamicConv2D)


@pytest.mark.parametrize("policy", ["dynamic_int8", kq.PolicyMap({"odd": "dynamic_int8"})], ids=["default", "named"])
def test_what_moves_around_a_product_is_float(policy, tmp_path):
    """The labels are in an order of their own."""
    model = shake(functional(lambda x: L.EinsumDense("abc,cd->adb", (3, 6), name="odd")(x), (6, 16)))
    report, _ = ship(kq.quantize(model, policy), tmp_path, images(8, (6, 16)))
    assert [op.name for op in report.operators] == ["FULLY_CONNECTED", "TRANSPOSE"]


@pytest.mark.parametrize("name", ["images", slow("sequences"), slow("volumes")])
def test_the_batch_may_be_open(name, tmp_path):
    ship(kq.quantize(several(name), every("dynamic_int8")), tmp_path, images(6, LAYERS[name][0]), batch_size=None)
