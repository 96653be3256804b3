"""Weights that are computed from weights: they follow what they are made of, in training and in the file."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_quant as kq
from keras_quant.layers.derived import Source, sharing_objects
from tests.helpers import functional, images, quantize_and_ship, ship

L = keras.layers
WORDS = (12, 8)


class Tied(L.Layer):
    """Ids in, logits out, by one table."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.table, self.dense = L.Embedding(20, 8), L.Dense(8, "relu")

    def call(self, ids):
        return ops.matmul(self.dense(self.table(ids)), ops.transpose(self.table.embeddings))


def reversible():
    """Keras's own layer, called both ways."""
    ids, table = keras.Input((12,), dtype="int32"), L.ReversibleEmbedding(20, 8, name="own")
    return keras.Model(ids, table(L.Dense(8, "relu")(table(ids)), reverse=True))


def tied():
    ids = keras.Input((12,), dtype="int32")
    return keras.Model(ids, Tied(name="own")(ids))


needs_reversible = pytest.mark.skipif(not hasattr(L, "ReversibleEmbedding"), reason="not in this Keras")


@pytest.mark.parametrize("make", [pytest.param(reversible, marks=needs_reversible), tied])
def test_a_table_and_its_logits_stay_one_weight(make, tmp_path):
    ids = np.random.default_rng(0).integers(0, 20, (24, 12)).astype("int32")
    model = make()
    qmodel, _ = quantize_and_ship(model, tmp_path, ids)
    assert len(qmodel.trainable_variables) == len(model.trainable_variables)
    for trained in (qmodel, _saved(qmodel, tmp_path)):
        before = _table_and_kernel(trained)[0]
        trained.compile("adam", "mse")
        trained.fit(ids, np.zeros((24, 12, 20)), verbose=0)
        table, kernel = _table_and_kernel(trained)
        assert not np.any(np.all(table == before, -1))
        np.testing.assert_array_equal(table, kernel.T)
        ship(trained, tmp_path, ids)


def _saved(qmodel, folder):
    qmodel.save(folder / "q.keras")
    return keras.models.load_model(folder / "q.keras")


def _table_and_kernel(qmodel):
    (table,) = [layer.embeddings for layer in qmodel.layers if isinstance(layer, kq.layers.QuantEmbedding)]
    (kernel,) = [layer.kernel for layer in qmodel.layers if getattr(layer, "kernel", np.zeros(())).shape == (8, 20)]
    return np.array(table), np.array(kernel)


class Scaled(L.Layer):
    def build(self, input_shape):
        self.w = self.add_weight(shape=(8,), initializer="uniform", name="w")

    def call(self, x):
        return x * ops.exp(self.w)


def test_a_layer_that_is_called_twice_has_one_weight(tmp_path):
    def build(x):
        scaled, y = Scaled(name="own"), L.Dense(8)(x)
        return L.Dense(3)(scaled(y) + scaled(L.ReLU()(y)))

    model = functional(build, WORDS)
    qmodel, _ = quantize_and_ship(model, tmp_path)
    assert len(qmodel.trainable_variables) == len(model.trainable_variables)
    sources = [layer for layer in qmodel._flatten_layers() if isinstance(layer, Source)]
    assert {source.name for source in sources} == {"own.w"}
    with sharing_objects():
        assert len(keras.models.clone_model(qmodel).weights) == len(qmodel.weights)
    copy = type(qmodel).from_config(qmodel.get_config())
    copy.set_weights(qmodel.get_weights())
    np.testing.assert_array_equal(copy.predict(images(4, WORDS), verbose=0), qmodel.predict(images(4, WORDS), verbose=0))


class Readers(L.Layer):
    """Positions of an Embedding, and queries that a layer makes, both of weights alone."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.positions, self.dense = L.Embedding(16, 8), L.Dense(8, "relu")

    def build(self, input_shape):
        self.queries = self.add_weight(shape=(12, 8), initializer="uniform", name="queries")

    def call(self, x):
        return x * self.dense(self.queries) + self.positions(ops.arange(x.shape[1]))


def test_layers_on_weights_alone_train(tmp_path):
    model, x = functional(lambda x: L.Dense(3)(Readers(name="own")(L.Dense(8)(x))), WORDS), images(24, WORDS)
    qmodel, _ = quantize_and_ship(model, tmp_path)
    own = [v for v in qmodel.trainable_variables if v.path.startswith("own")]
    assert len(own) == 4
    before = [np.array(v) for v in own]
    qmodel.compile("adam", "mse")
    qmodel.fit(x, np.zeros((24, 12, 3)), verbose=0)
    assert not any(np.array_equal(old, v) for old, v in zip(before, own))
    ship(qmodel, tmp_path, x)


def test_refine_passes_over_a_computed_kernel(tmp_path):
    x = images(24, WORDS)
    model = functional(lambda x: L.Dense(3)(ops.relu(Standardized(name="own")(x))), WORDS)
    qmodel, _ = quantize_and_ship(model, tmp_path, x)
    kq.refine(qmodel, x, ("equalization", "bias_correction"))
    ship(qmodel, tmp_path, x)
    (kernel,) = [layer.kernel for layer in qmodel.layers if layer.name.startswith("own")]
    with pytest.raises(kq.QuantizationError, match="computed from \\['own.w'\\].*Assign to the variable `value`"):
        kernel.assign(ops.zeros(kernel.shape))


class Standardized(L.Layer):
    def build(self, input_shape):
        self.w = self.add_weight(shape=(3, 8, 6), initializer="glorot_uniform", name="w")

    def call(self, x):
        mean, variance = ops.moments(self.w, (0, 1), keepdims=True)
        return ops.conv(x, (self.w - mean) * ops.rsqrt(variance + 1e-5), padding="same")
