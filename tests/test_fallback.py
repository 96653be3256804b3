"""A layer that stays in float, and the file that TFLiteConverter makes of its model."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_quant as kq
from tests.helpers import assert_near_float, images, sequential, shake

L = keras.layers
X = images(shape=(8, 8, 3))


@keras.saving.register_keras_serializable(package="tests")
class Wave(L.Layer):
    """Ends in an operator of TensorFlow's that `keras.ops` has no function for."""

    def build(self, shape):
        self.rate = self.add_weight(name="rate", shape=(shape[-1],), initializer="ones")

    def call(self, x):
        return tf.nn.local_response_normalization(tf.sin(x * self.rate))


def network():
    return shake(
        sequential(
            *(L.Conv2D(4, 3, name="conv"), L.BatchNormalization(), L.ReLU(), Wave(name="wave")),
            *(L.Conv2D(4, 3), L.Flatten(), L.Dense(3, name="logits")),
            shape=(8, 8, 3),
        )
    )


@pytest.fixture(scope="module")
def models():
    model = network()
    model.get_layer("wave").rate.assign([0.5, 1.0, 1.5, 2.0])
    return model, kq.quantize(model, "int8", X, fallback="float")


def test_a_kept_layer_is_a_copy_between_quantized_ones(models):
    model, qmodel = models
    kept = qmodel.get_layer("wave")
    assert type(kept) is Wave and kept is not model.get_layer("wave")
    np.testing.assert_array_equal(kept.rate, model.get_layer("wave").rate)
    assert np.corrcoef(np.ravel(qmodel(X)), np.ravel(model(X)))[0, 1] > 0.98


def test_the_converters_file_is_verified(models, tmp_path):
    _, qmodel = models
    path = tmp_path / "m.tflite"
    report = kq.export(qmodel, path, fallback="converter")
    assert report.bytes == path.stat().st_size and report.partitions >= 1
    assert {"CONV_2D", "SIN", "LOCAL_RESPONSE_NORMALIZATION", "FULLY_CONNECTED"} <= {op.name for op in report.operators}
    assert any(t.name.startswith("wave/") for t in report.tensors)
    parity = kq.verify(qmodel, path, X, verbose=0)
    assert parity.elements == 3 * len(X)
    assert parity.mismatches <= 0.1 * parity.elements and parity.largest <= 2
    with pytest.raises(kq.ModelFileError, match="made by TFLiteConverter"):
        kq.verify(qmodel, path, X, intermediates=True, verbose=0)


def test_the_comparison_is_truthful(models, tmp_path):
    _, qmodel = models
    kq.export(qmodel, tmp_path / "m.tflite", fallback="converter")
    other = keras.models.clone_model(qmodel)
    other.set_weights(qmodel.get_weights())
    other.get_layer("wave").rate.assign([2.0, 1.5, 1.0, 0.5])
    assert kq.verify(other, tmp_path / "m.tflite", X, verbose=0).mismatches > len(X)


def test_without_fallback_every_float_layer_is_named(models, tmp_path):
    with pytest.raises(kq.ExportError, match=r"'wave' \(Wave\) computes in float.*fallback=\"converter\""):
        kq.export(models[1], tmp_path / "m.tflite")
    assert list(tmp_path.iterdir()) == []


def test_a_model_with_kept_layers_is_saved_loaded_and_trained(models, tmp_path):
    qmodel = models[1]
    qmodel.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded(X), qmodel(X))
    loaded.compile("sgd", "mse")
    before = np.array(loaded.get_layer("wave").rate)
    loaded.fit(X, np.zeros((len(X), 3)), verbose=0)
    assert np.any(before != loaded.get_layer("wave").rate)


def test_where_every_layer_has_a_rule_the_fallback_changes_nothing(tmp_path):
    qmodel = kq.quantize(sequential(L.Conv2D(3, 3), shape=(8, 8, 3)), "int8", X, fallback="float")
    kq.export(qmodel, tmp_path / "a.tflite")
    kq.export(qmodel, tmp_path / "b.tflite", fallback="converter")
    assert (tmp_path / "a.tflite").read_bytes() == (tmp_path / "b.tflite").read_bytes()


@keras.saving.register_keras_serializable("tests")
class Warm(L.GRUCell):
    """A cell that begins with ones."""

    def get_initial_state(self, batch_size=None):
        return [keras.ops.ones((batch_size, self.units))]


def test_a_recurrent_layer_whose_cell_has_no_form_stays_float(tmp_path):
    model = sequential(L.Dense(4), L.RNN(Warm(3), name="memory"), L.Dense(2), shape=(5, 4))
    with pytest.raises(kq.UnsupportedLayerError, match=r"'memory' \(RNN\).*not zero. Pass them"):
        kq.quantize(model, "int8", images(shape=(5, 4)))
    qmodel = kq.quantize(model, "int8", images(shape=(5, 4)), fallback="float")
    np.testing.assert_array_equal(qmodel.get_layer("memory").get_weights()[0], model.get_layer("memory").get_weights()[0])


def test_an_operation_whose_constant_no_layer_takes_stays_float(tmp_path):
    x = keras.Input((8, 8, 3))
    y = keras.ops.power(L.Conv2D(4, 3, activation="relu")(x), np.linspace(1, 2, 4, dtype="float32"))
    model = keras.Model(x, L.Dense(2)(y))
    with pytest.raises(kq.UnsupportedLayerError, match=r"'power.*' \(Power\).*one number. Received: shape \(4,\)"):
        kq.quantize(model, "int8", X)
    qmodel = kq.quantize(model, "int8", X, fallback="float")
    kq.export(qmodel, tmp_path / "m.tflite", fallback="converter")
    assert kq.verify(qmodel, tmp_path / "m.tflite", X, verbose=0).mismatches == 0


def test_what_the_converter_cannot_do_is_said(tmp_path):
    x = keras.Input((8, 8, 3))
    model = keras.Model(x, L.Lambda(lambda t: tf.math.lgamma(t), (8, 8, 3), name="strange")(x))
    qmodel = kq.quantize(model, "int8", X, fallback="float")
    with pytest.raises(kq.ExportError, match=r"TFLiteConverter cannot convert.*'strange' \(Lambda\)"):
        kq.export(qmodel, tmp_path / "m.tflite", fallback="converter")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fallback", ["converter", "int8", True])
def test_an_unknown_fallback_is_refused(fallback, models, tmp_path):
    with pytest.raises(kq.QuantizationError, match="Received: fallback="):
        kq.quantize(models[0], fallback=fallback)
    if fallback != "converter":
        with pytest.raises(kq.ExportError, match="Received: fallback="):
            kq.export(models[1], tmp_path / "m.tflite", fallback=fallback)


@keras.saving.register_keras_serializable(package="tests")
class Decay(L.Layer):
    """Takes its mask as an argument, and computes what has no int8 form."""

    supports_masking = True

    def call(self, x, mask=None):
        return keras.ops.cumprod(1 - 0.5 * keras.ops.sigmoid(x) * keras.ops.cast(mask, x.dtype)[..., None], axis=1)


@pytest.mark.parametrize("build", [lambda: L.GRU(5), lambda: L.Bidirectional(L.LSTM(3)), Decay])
def test_masks_reach_kept_layers(build, tmp_path):
    ids = np.tril(np.random.default_rng(0).integers(1, 9, (6, 6)))
    x = keras.Input((6,), dtype="int32")
    model = shake(keras.Model(x, L.Dense(3)(build()(L.Embedding(9, 4, mask_zero=True)(x)))))
    qmodel = kq.quantize(model, "int8", ids, fallback="float")
    assert_near_float(model, qmodel, ids)
    kq.export(qmodel, tmp_path / "m.tflite", fallback="converter")
    parity = kq.verify(qmodel, tmp_path / "m.tflite", ids, verbose=0)
    assert parity.elements > 0 and parity.mismatches == 0
