"""Masks: what Keras hands from layer to layer, what models compute and add, and what data must not do."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_quant as kq
from tests.helpers import assert_near_float, shake, ship

L = keras.layers
STEPS, WORDS = 10, 20


def words(count=24, seed=0):
    """Ids with zeros behind each text's end."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, WORDS, (count, STEPS))
    return np.where(np.arange(STEPS) < rng.integers(3, STEPS + 1, (count, 1)), ids, 0).astype("int32")


def of_words(build):
    x = keras.Input((STEPS,), dtype="int32")
    return keras.Model(x, build(L.Embedding(WORDS, 8, mask_zero=True)(x)))


def shipped(model, folder, x):
    qmodel = kq.quantize(shake(model), "int8", x)
    ship(qmodel, folder, x)
    assert_near_float(model, qmodel, x)
    return qmodel


@keras.saving.register_keras_serializable(package="keras_quant_tests")
class Block(L.Layer):
    """Passes no mask on by an argument: Keras does, on the tensor."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention, self.norm, self.supports_masking = L.MultiHeadAttention(2, 4), L.LayerNormalization(), True

    def call(self, x):
        return self.norm(x + self.attention(x, x))


def nested(x):
    inside = keras.Input((STEPS, 8))
    return keras.Model(inside, L.MultiHeadAttention(2, 4)(inside, inside))(x)


PASSED_ON = {
    "mean": lambda x: L.GlobalAveragePooling1D()(L.Dense(6)(L.Dropout(0.1)(x))),
    "block": lambda x: L.Dense(3)(Block()(x)),
    "nested": nested,
    "attention": lambda x: L.Attention()([x, L.Dense(8)(x)], use_causal_mask=True),
    "grouped": lambda x: L.GroupQueryAttention(4, 4, 2)(x, x, use_causal_mask=True),
    "joined": lambda x: L.GlobalAveragePooling1D()(L.Concatenate()([x, L.Dense(4)(x)])),
}


@pytest.mark.parametrize("name", [n if n == "block" else pytest.param(n, marks=pytest.mark.slow) for n in PASSED_ON])
def test_keras_masks_reach_the_layers_that_they_reach_in_the_float_model(name, tmp_path):
    model = of_words(PASSED_ON[name])
    qmodel = shipped(model, tmp_path, words())
    # What is masked counts for nothing: other weights of padding change no output of the first step.
    outputs = [
        np.asarray(m(words()))[:, :1] if len(m.output_shape) == 3 else np.asarray(m(words())) for m in (model, qmodel)
    ]
    assert np.corrcoef(*map(np.ravel, outputs))[0, 1] > 0.98
    qmodel.save(tmp_path / "q.keras")
    kq.export(keras.models.load_model(tmp_path / "q.keras"), tmp_path / "loaded.tflite")
    assert (tmp_path / "loaded.tflite").read_bytes() == (tmp_path / "model.tflite").read_bytes()


def of_numbers(call):
    """Two inputs, numbers and a mask for them, and a model inside."""
    x, mask, inside = keras.Input((STEPS, 4)), keras.Input((STEPS,), dtype="bool"), keras.Input((STEPS, 4))
    model = keras.Model(inside, L.GlobalAveragePooling1D()(L.Dense(6)(inside)))
    return shake(keras.Model([x, mask], call(model, x, mask)))


CALLS = {
    "alone": lambda model, x, mask: model(x, mask=mask),
    "first": lambda model, x, mask: model(x, mask=mask) + model(x),  # Keras leaves the mask on `x`
    "second": lambda model, x, mask: model(x) + model(x, mask=mask),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_model_is_called_with_a_mask(name):
    rng = np.random.default_rng(0)
    model, x = of_numbers(CALLS[name]), [rng.standard_normal((8, STEPS, 4)).astype("float32"), words(8) > 0]
    np.testing.assert_allclose(kq.quantize(model, "float32", x).predict(x), model.predict(x), atol=1e-6)


def test_losses_leave_out_what_the_float_models_leave_out(tmp_path):
    model, x = shake(of_words(lambda x: L.Dense(5)(x))), words()
    labels = np.random.default_rng(1).normal(size=(24, STEPS, 5)).astype("float32")
    labels[x == 0] = 9
    qmodel = kq.quantize(model, "int8", x)
    losses = []
    for each in (model, qmodel):
        each.compile("sgd", "mse")
        losses.append(each.evaluate(x, labels, verbose=0))
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
    assert losses[0] < 0.5 * np.mean((np.asarray(model(x)) - labels) ** 2)
    qmodel.fit(x, labels, verbose=0)
    ship(qmodel, tmp_path, x)


@pytest.mark.slow
def test_masks_in_onnx(tmp_path):
    pytest.importorskip("onnxruntime")

    def build(x):
        y = L.Dense(8)(x)
        return L.GlobalAveragePooling1D()(ops.where(ops.mean(y, -1, keepdims=True) > 0, y, -0.5))

    qmodel = kq.quantize(shake(of_words(build)), "int8", words())
    kq.export(qmodel, tmp_path / "model.onnx")
    parity = kq.verify(qmodel, tmp_path / "model.onnx", words(), verbose=0)
    assert parity.largest <= 1


@pytest.mark.slow
def test_all_may_be_masked(tmp_path):
    x, mask = keras.Input((STEPS, 8)), keras.Input((STEPS,), dtype="bool")
    y = L.MultiHeadAttention(2, 4, dropout=0.1)(x, x, attention_mask=mask[:, None, :])
    model = keras.Model([x, mask], L.GlobalAveragePooling1D()(y, mask=mask))
    rng = np.random.default_rng(0)
    data = [rng.normal(size=(24, STEPS, 8)).astype("float32"), rng.random((24, STEPS)) < 0.7]
    qmodel = kq.quantize(shake(model), "int8", data)
    data[1][:4] = False
    ship(qmodel, tmp_path, data)
    assert not np.any(qmodel.predict(data, verbose=0)[:4])


@pytest.mark.slow
def test_a_constant_of_a_variable_fills_what_is_masked_and_trains(tmp_path):
    @keras.saving.register_keras_serializable(package="keras_quant_tests")
    class MaskedToken(L.Layer):
        def build(self, input_shape):
            self.token = self.add_weight(shape=(1, 1, 8), initializer="normal")

        def call(self, x):
            return ops.where(x[:, :, :1] > 0, x, self.token)

    x = keras.Input((STEPS, 8))
    model = keras.Model(x, L.Dense(3)(MaskedToken()(L.Dense(8)(x))))
    data = np.random.default_rng(0).normal(size=(24, STEPS, 8)).astype("float32")
    qmodel = shipped(model, tmp_path, data)
    (layer,) = [layer for layer in qmodel.layers if isinstance(layer, kq.layers.QuantWhere)]
    before = np.array(layer.array)
    qmodel.compile("sgd", "mse")
    qmodel.fit(data, np.ones((24, STEPS, 3)), verbose=0)
    assert np.any(before != np.array(layer.array))


@pytest.mark.parametrize("bad, said", [(WORDS, "ids from 0 to 20"), (-1, "ids from -1 to 19")])
def test_ids_beyond_the_table_are_an_error(bad, said, tmp_path):
    model, x = of_words(lambda x: L.Dense(3)(x)), words()
    wrong = x.copy()
    wrong[0, :2] = bad, WORDS - 1
    with pytest.raises(kq.CalibrationError, match=said):
        kq.quantize(model, "int8", wrong)
    qmodel = kq.quantize(model, "int8", x)
    kq.export(qmodel, tmp_path / "model.tflite")
    with pytest.raises(kq.CalibrationError, match="has a table of 20 rows"):
        kq.verify(qmodel, tmp_path / "model.tflite", wrong, verbose=0)


def test_fractions_for_ids_are_an_error():
    x = keras.Input((STEPS,))
    with pytest.raises(kq.CalibrationError, match="the data holds fractions"):
        kq.quantize(keras.Model(x, L.Dense(3)(L.Embedding(WORDS, 8)(x))), "int8", words() + 0.5)
