"""Integers and booleans in a model: computed as they are, by `predict` and by the device."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_quant as kq
from tests.helpers import assert_near_float, few, images, ship

L = keras.layers
IDS = np.random.default_rng(0).integers(0, 60, (16, 10)).astype("int32")


def table(ids):
    return L.Embedding(60, 8, embeddings_initializer=keras.initializers.RandomNormal(seed=1))(ids)


def mask(condition):
    return ops.cast(ops.expand_dims(condition, -1), "float32")


def places(chosen):
    """As attention with linear biases has them: products with numbers, one for each head."""
    counted = (ops.cumsum(chosen, axis=-1) - 1) * chosen
    return ops.expand_dims(ops.cast(counted, "float32"), -1) * np.float32([0.5, 0.25])


def of_seven(lengths):
    """Lengths behind a convolution of three with a stride of two."""
    return (ops.floor((ops.cast(lengths, "float32") - 3) / 2) + 1)[:, None]


MODELS = {
    "shifted": lambda x: table((x + 1) % 60),
    "halved": lambda x: table(x // 2),
    "clipped": lambda x: table(ops.clip(x, 2, 40)),
    "places_in_a_mask": lambda x: places(ops.cast(x > 30, "int32")),
    "row_of_the_largest": lambda x: ops.take_along_axis(table(x), ops.argmax(x, axis=-1)[:, None, None], axis=1),
    "mask_of_a_length": lambda x: table(x) * mask(of_seven(ops.sum(ops.cast(x > 30, "int32"), 1)) > np.arange(10)),
    "zeros_to_choose": lambda x: ops.where(ops.expand_dims(x > 30, -1), ops.zeros_like(table(x)), table(x)),
    "opposite": lambda x: table(ops.abs(-x)),
    "reshaped": lambda x: table(ops.reshape(x, (-1, 5, 2))),
    "layers": lambda x: table(L.Flatten()(L.Reshape((5, 2))(x))),
    "decoder_inputs": lambda x: table(ops.pad(x[:, :-1], [[0, 0], [1, 0]])),
    "joined": lambda x: table(ops.concatenate([x[:, :3], x[:, 5:]], axis=1)),
    "repeated": lambda x: table(ops.tile(ops.flip(x, 1), (1, 2))),
    "stacked": lambda x: table(ops.stack([x, x // 3], axis=1)),
    "counted": lambda x: table(ops.cumsum(ops.cast(x > 30, "int32"), axis=1)),
    "summed": lambda x: table(ops.sum(ops.cast(x > 30, "int32"), axis=1, keepdims=True)),
    "nonzero": lambda x: table(ops.count_nonzero(x > 30, axis=1)),
    "masked": lambda x: table(x) * mask(ops.not_equal(x, 3)),
    "masked_without_cast": lambda x: table(x) * ops.expand_dims(ops.logical_and(x > 5, ops.logical_not(x > 30)), -1),
    "either": lambda x: table(x) * mask(ops.logical_or(ops.logical_xor(x > 5, x > 10), x <= 2)),
    "of_real_numbers": lambda x: (lambda v: v * ops.cast(v > 0.5, "float32"))(table(x)),
    "any": lambda x: ops.cast(ops.any(x > 55, axis=1, keepdims=True), "float32"),
    "all": lambda x: ops.cast(ops.all(x > 1, axis=1), "float32"),
    "mean_by_length": lambda x: (
        ops.sum(table(x), 1) / ops.cast(ops.sum(ops.cast(x > 0, "int32"), 1, keepdims=True), "float32")
    ),
    "one_hot": lambda x: L.Dense(3)(ops.one_hot(x, 60)),
    "multi_hot": lambda x: L.Dense(3)(ops.multi_hot(x, 60)),
    "multi_hot_layer": lambda x: L.Dense(3)(L.CategoryEncoding(60)(x)),
    "one_hot_layer": lambda x: L.Dense(3)(L.CategoryEncoding(60, output_mode="one_hot")(x[:, :1])),
    "count_layer": lambda x: L.Dense(3)(L.CategoryEncoding(60, output_mode="count")(x)),
    "place_of_the_largest": lambda x: ops.argmax(L.Dense(7)(table(x)), axis=-1),
    "place_of_the_smallest": lambda x: ops.argmin(table(x), axis=1, keepdims=True),
    "integers_out": lambda x: {"ids": x * 2, "logits": L.Dense(3)(table(x))},
}


@pytest.mark.parametrize(
    "name", few(MODELS, "places_in_a_mask", "masked", "counted", "multi_hot_layer", "place_of_the_largest", "integers_out")
)
def test_integers_ship(name, tmp_path):
    x = keras.Input((10,), dtype="int32")
    model = keras.Model(x, MODELS[name](x))
    qmodel = kq.quantize(model, "int8", IDS)
    ship(qmodel, tmp_path, IDS)
    for wanted, got in zip(*(keras.tree.flatten(m.predict(IDS, verbose=0)) for m in (model, qmodel))):
        assert wanted.dtype == got.dtype
        if wanted.dtype.kind in "bi" and not name.startswith("place"):
            np.testing.assert_array_equal(wanted, got)


FEATURES = np.random.default_rng(0).normal(size=(32, 3)).astype("float32")
BINS = {
    "table": lambda x: L.Flatten()(L.Embedding(4, 5)(L.Discretization([-1.0, 0.0, 0.5])(x))),
    "one_hot": lambda x: L.Discretization([-1.0, 0.0, 0.5], output_mode="one_hot")(x[:, :1]),
    "digitize": lambda x: ops.digitize(x, np.float32([-1.0, 0.5])),
}


@pytest.mark.parametrize("name", few(BINS, "table"))
def test_features_are_compared_with_bins_as_they_are(name, tmp_path):
    """On a grid a value near the end of a bin would fall into its neighbour."""
    x = keras.Input((3,))
    model = keras.Model(x, BINS[name](x))
    qmodel = kq.quantize(model, "int8", FEATURES)
    ship(qmodel, tmp_path, FEATURES)
    np.testing.assert_allclose(model.predict(FEATURES, verbose=0), qmodel.predict(FEATURES, verbose=0), atol=1e-3)


def test_ids_beyond_what_float32_counts_stay_whole(tmp_path):
    ids = np.int32([[2**24 + 1], [2**24 + 3]])
    x = keras.Input((1,), dtype="int32")
    model = keras.Model(x, table(x - 2**24))
    qmodel = kq.quantize(model, "int8", ids)
    ship(qmodel, tmp_path, ids)
    assert np.any(np.diff(qmodel.predict(ids, verbose=0), axis=0))


PLACES = {
    "along the rows": lambda x, ids: ops.take_along_axis(x, ops.repeat(ids, 8, axis=2), axis=1),
    "along the last axis": lambda x, ids: ops.take_along_axis(x, ops.repeat(ids, 6, axis=1)[:, :6, :1], axis=-1),
    "of a vector": lambda x, ids: ops.take_along_axis(x[:, 0], ids[:, :, 0], axis=1),
}


@pytest.mark.parametrize("name", few(PLACES, "along the rows"))
def test_places_pick_what_keras_picks(name, tmp_path):
    """Negative ones count from the end."""
    x = keras.Input((6, 8), name="x")
    ids = keras.Input((3, 1), dtype="int32", name="ids")
    model = keras.Model([x, ids], PLACES[name](L.Dense(8)(x), ids))
    data = [images(32, (6, 8)), np.random.default_rng(1).integers(-6, 6, (32, 3, 1)).astype("int32")]
    qmodel = kq.quantize(model, "int8", data)
    ship(qmodel, tmp_path, data)
    assert_near_float(model, qmodel, data)


ONES = np.ones((1, 6, 8), "float32")
UNPICKED = {
    "sizes": (
        lambda x, ids: ops.take_along_axis(x, ids[:, :1], axis=-1),
        r"Repeat the places, `ops.repeat\(places, n, axis\)`",
    ),
    "constants": (lambda x, ids: ops.take_along_axis(ONES, ids, axis=1), r"`ops.take\(table, places, axis=0\)`"),
    "batch": (lambda x, ids: ops.take_along_axis(x, ids, axis=0), "takes along the batch.*Take along another axis"),
}


@pytest.mark.parametrize("name", UNPICKED)
def test_places_that_do_not_fit_are_an_error_with_the_way_out(name):
    x, ids = keras.Input((6, 8)), keras.Input((6, 8), dtype="int32")
    pick, said = UNPICKED[name]
    model = keras.Model([x, ids], [x, pick(L.Dense(8)(x), ids)])
    with pytest.raises(kq.UnsupportedLayerError, match=rf"Operation 'take_along_axis\w*' .*{said}"):
        kq.quantize(model)
