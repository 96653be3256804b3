"""Layers with `stateful=True` go on where the last call ended, in `predict` and in the file, with the same integers."""

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import keras_quant as kq
from tests.helpers import few, shake, slow

L = keras.layers
BATCH, LENGTH, CALLS = 3, 20, 4


def kept(layer, **options):
    return lambda x: L.Dense(2)(layer(stateful=True, return_sequences=True, name="kept", **options)(x))


def twice(x):
    layer = L.GRU(5, stateful=True, return_sequences=True)
    return layer(layer(L.Dense(5)(x)))


def masked(x):
    return L.LSTM(4, stateful=True, return_sequences=True)(L.Masking()(x))


CASES = {
    "lstm": kept(lambda **o: L.LSTM(6, **o)),
    "gru": kept(lambda **o: L.GRU(6, **o)),
    "simple": kept(lambda **o: L.SimpleRNN(6, **o)),
    "cells": kept(lambda **o: L.RNN([L.LSTMCell(4), L.GRUCell(6)], **o)),
    "both_ways": kept(lambda **o: L.Bidirectional(L.GRU(4, **o))),
    "last_and_states": lambda x: L.LSTM(4, stateful=True, return_state=True)(x),
    "two_layers": lambda x: L.GRU(3, stateful=True)(kept(lambda **o: L.LSTM(6, **o))(x)),
    "one_of_two": lambda x: L.GRU(3)(kept(lambda **o: L.LSTM(6, **o))(x)),
    "masked": masked,
    "twice": twice,
}


def built(build, batch=BATCH, length=LENGTH):
    """A float model and data for several calls, with steps of zeros, which masks leave out."""
    keras.utils.set_random_seed(0)
    x = keras.Input(batch_shape=(batch, length, 4))
    data = np.random.default_rng(0).standard_normal((CALLS * batch, length, 4)).astype("float32")
    data[::2, length // 2] = 0
    return shake(keras.Model(x, build(x))), data


def ship(qmodel, path, data, **options):
    kq.export(qmodel, path, **options)
    report = kq.verify(qmodel, path, data, verbose=0)
    assert report.elements and report.equal, str(report)


@pytest.mark.parametrize("name", few(CASES, "lstm", "twice"))
def test_every_call_goes_on_where_the_last_one_ended(name, tmp_path):
    model, data = built(CASES[name])
    qmodel = kq.quantize(model, "int8", data)
    ship(qmodel, tmp_path / "m.tflite", data)
    floats, ours = (m.predict(data, batch_size=BATCH, verbose=0) for m in (model, qmodel))
    for a, b in zip(keras.tree.flatten(floats), keras.tree.flatten(ours)):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.98
    qmodel.compile("sgd", "mse")
    targets = [np.zeros((len(data), *out.shape[1:])) for out in qmodel.outputs]
    qmodel.fit(data, targets if len(targets) > 1 else targets[0], batch_size=BATCH, shuffle=False, verbose=0)
    ship(qmodel, tmp_path / "trained.tflite", data)


@pytest.mark.parametrize("policy", few(["float32", "float16", "dynamic_int8", "w4a8"], "dynamic_int8"))
def test_in_every_precision(policy, tmp_path):
    model, data = built(CASES["lstm"])
    ship(kq.quantize(model, policy, data if policy == "w4a8" else None), tmp_path / "m.tflite", data)


@pytest.mark.parametrize("batch, length", [(1, 1), slow(2, 40)])
def test_of_one_step_and_of_many(batch, length, tmp_path):
    model, data = built(CASES["gru"], batch, length)
    ship(kq.quantize(model, "int8", data), tmp_path / "m.tflite", data)


def test_calls_of_another_length(tmp_path):
    model, data = built(CASES["lstm"])
    qmodel = kq.quantize(model, "int8", data)
    ship(qmodel, tmp_path / "m.tflite", data[:, :5], input_shape=(5, 4))


def test_resetting(tmp_path):
    model, data = built(CASES["lstm"])
    qmodel = kq.quantize(model, "int8", data)
    first, second = (
        lambda: qmodel.predict(data[:BATCH], verbose=0),
        lambda: qmodel.predict(data[BATCH : 2 * BATCH], verbose=0),
    )
    wanted = first(), second()
    assert np.any(first() != wanted[0])
    qmodel.get_layer("kept").reset_state()
    np.testing.assert_array_equal(first(), wanted[0])
    kq.export(qmodel, tmp_path / "m.tflite", input_type="float32", output_type="float32")
    # Verifying leaves the model's states as they are.
    assert kq.verify(qmodel, tmp_path / "m.tflite", data, verbose=0).equal
    np.testing.assert_array_equal(second(), wanted[1])
    interpreter = Interpreter(str(tmp_path / "m.tflite"))
    interpreter.allocate_tensors()
    call, reset = map(interpreter.get_signature_runner, ("serving_default", "reset"))
    for _ in range(2):
        for index, outputs in enumerate(wanted):
            given = {qmodel.inputs[0].name: data[index * BATCH : (index + 1) * BATCH]}
            np.testing.assert_array_equal(next(iter(call(**given).values())), outputs)
        reset(any=np.zeros(1, "int32"))


def test_it_is_saved_and_built_by_hand(tmp_path):
    x = keras.Input(batch_shape=(BATCH, LENGTH, 4))
    qmodel = shake(keras.Model(x, kq.layers.QuantLSTM(5, stateful=True, name="kept")(x)))
    _, data = built(CASES["lstm"])
    kq.calibrate(qmodel, data, verbose=0)
    ship(qmodel, tmp_path / "m.tflite", data)
    qmodel.get_layer("kept").reset_state()
    wanted = qmodel.predict(data, batch_size=BATCH, verbose=0)
    qmodel.get_layer("kept").reset_state()
    qmodel.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(again.predict(data, batch_size=BATCH, verbose=0), wanted)


def test_step_by_step(tmp_path):
    model, data = built(CASES["gru"])
    ship(kq.quantize(model, "int8", data), tmp_path / "m.tflite", data, streaming=True)


def test_what_cannot_be(tmp_path):
    model, data = built(CASES["lstm"])
    qmodel = kq.quantize(model, "int8", data)
    path = tmp_path / "m.tflite"
    with pytest.raises(
        kq.ExportError, match="'kept' is stateful and keeps the states of 3 sequences. Leave `batch_size` out"
    ):
        kq.export(qmodel, path, batch_size=1)
    with pytest.raises(kq.ExportError, match="`stateful` layers, whose states are in one file. Leave out signatures"):
        kq.export(qmodel, path, signatures={"a": (LENGTH, 4), "b": (5, 4)})
    with pytest.raises(
        kq.CalibrationError, match="takes batches of 3 samples. Pass a multiple of 3. Received: a batch of 1"
    ):
        kq.calibrate(qmodel, data[:1], verbose=0)
    with pytest.raises(kq.ExportError, match="only a `.tflite` keeps states.*`return_state=True`"):
        kq.export(qmodel, tmp_path / "m.onnx")
    assert not path.exists()


def test_the_way_out_for_onnx(tmp_path):
    """States as inputs and outputs, as the message says."""
    pytest.importorskip("onnxruntime")
    keras.utils.set_random_seed(0)
    x, first = keras.Input((LENGTH, 4)), keras.Input((5,), name="first")
    model = shake(keras.Model([x, first], L.GRU(5, return_sequences=True, return_state=True)(x, initial_state=first)))
    rng = np.random.default_rng(0)
    data = [rng.standard_normal((8, LENGTH, 4)).astype("float32"), rng.uniform(-1, 1, (8, 5)).astype("float32")]
    qmodel = kq.quantize(model, "int8", data)
    kq.export(qmodel, tmp_path / "m.onnx")
    assert kq.verify(qmodel, tmp_path / "m.onnx", data, verbose=0).elements
