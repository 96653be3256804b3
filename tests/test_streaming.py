"""Files that take a sequence step by step compute the integers that `predict` computes of the whole sequence."""

import keras
import numpy as np
import pytest

import keras_quant as kq
from tests.helpers import few, sequential, shake

L = keras.layers
LENGTH = 20
IMAGE = (LENGTH, 8, 1)
CASES = {
    "lstm": lambda: [L.LSTM(6, return_sequences=True), L.Dense(3)],
    "lstm_last": lambda: [L.LSTM(6), L.Dense(3)],
    "grus": lambda: [L.Dense(4, activation="relu"), L.GRU(6, return_sequences=True), L.GRU(4), L.Dense(3)],
    "simple": lambda: [L.SimpleRNN(6, return_sequences=True)],
    "cells": lambda: [L.RNN([L.LSTMCell(4), L.GRUCell(3)], return_sequences=True)],
    "causal": lambda: [L.Conv1D(4, 3, padding="causal"), L.Conv1D(4, 3, padding="causal", dilation_rate=4), L.Dense(2)],
    "causal_before_gru": lambda: [L.Conv1D(4, 3, padding="causal"), L.BatchNormalization(), L.GRU(4, return_sequences=True)],
    "strides": lambda: [L.Conv1D(4, 3, strides=2, padding="causal"), L.GRU(4, return_sequences=True)],
    "valid": lambda: [L.Conv1D(4, 3, activation="relu"), L.Conv1D(4, 3, dilation_rate=2)],
    "valid_strides": lambda: [L.Conv1D(4, 4, strides=2, activation="relu"), L.Dense(2)],
    "mean": lambda: [L.Conv1D(4, 3, activation="relu"), L.GlobalAveragePooling1D(), L.Dense(2)],
    "pooling": lambda: [L.Conv1D(4, 3, padding="causal"), L.MaxPooling1D(2), L.Conv1D(4, 3), L.Flatten(), L.Dense(2)],
    "average_pooling": lambda: [L.AveragePooling1D(2), L.GRU(3)],
    "separable": lambda: [L.SeparableConv1D(4, 3, activation="relu"), L.GlobalMaxPooling1D(), L.Dense(2)],
    "padded": lambda: [L.ZeroPadding1D((2, 0)), L.Conv1D(4, 3), L.GRU(3)],
    "normalized": lambda: [L.LayerNormalization(), L.GRU(4, return_sequences=True), L.Softmax()],
    "around": lambda: [L.TimeDistributed(L.Dense(4)), L.LSTM(4)],
    "residual": lambda: [L.Conv1D(5, 3, padding="causal"), Residual()],
}
IMAGES = {
    "image": lambda: [L.Conv2D(4, 3, activation="relu"), L.DepthwiseConv2D(3), L.GlobalAveragePooling2D(), L.Dense(3)],
    "image_to_gru": lambda: [L.ZeroPadding2D(((2, 0), (1, 1))), L.Conv2D(4, 3), L.Reshape((LENGTH, 32)), L.GRU(4)],
}


@keras.saving.register_keras_serializable("tests")
class Residual(L.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = L.Conv1D(5, 3, padding="causal", activation="relu")

    def build(self, input_shape):
        self.conv.build(input_shape)

    def call(self, x):
        return x + self.conv(x)


def trained(layers, shape):
    x = np.random.default_rng(0).standard_normal((6, *shape)).astype("float32")
    return kq.quantize(shake(sequential(*layers, shape=shape)), "int8", x), x


@pytest.mark.parametrize("kept", [True, "inputs"])
@pytest.mark.parametrize(
    "name", few({**CASES, **IMAGES}, "lstm", "grus", "causal_before_gru", "valid_strides", "pooling", "image")
)
def test_step_by_step_as_the_whole(name, kept, tmp_path):
    qmodel, x = trained({**CASES, **IMAGES}[name](), IMAGE if name in IMAGES else (LENGTH, 5))
    report = kq.export(qmodel, tmp_path / "m.tflite", streaming=kept)
    parity = kq.verify(qmodel, tmp_path / "m.tflite", x, verbose=0)
    assert parity.elements > 0 and parity.mismatches == 0
    assert report.bytes == (tmp_path / "m.tflite").stat().st_size


@pytest.mark.parametrize("policy", ["w4a8", "float32", "dynamic_int8"])
def test_in_other_precisions(policy, tmp_path):
    x = np.random.default_rng(0).standard_normal((4, LENGTH, 5)).astype("float32")
    model = shake(sequential(L.Conv1D(4, 3, padding="causal"), L.LSTM(6), L.Dense(3), shape=(LENGTH, 5)))
    qmodel = kq.quantize(model, policy, x)
    kq.export(qmodel, tmp_path / "m.tflite", streaming=True)
    assert kq.verify(qmodel, tmp_path / "m.tflite", x, verbose=0).largest == 0


def test_ids_step_by_step(tmp_path):
    ids = np.random.default_rng(0).integers(0, 30, (6, LENGTH)).astype("int32")
    x = keras.Input((LENGTH,), dtype="int32")
    model = shake(keras.Model(x, L.Dense(30)(L.GRU(6, return_sequences=True)(L.Embedding(30, 8)(x)))))
    qmodel = kq.quantize(model, "int8", ids)
    kq.export(qmodel, tmp_path / "m.tflite", streaming=True)
    assert kq.verify(qmodel, tmp_path / "m.tflite", ids, verbose=0).mismatches == 0


def test_reset_resets_and_variables_begin_at_zero(tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    qmodel, x = trained(CASES["lstm"](), (LENGTH, 5))
    kq.export(qmodel, tmp_path / "m.tflite", streaming=True, input_type="float32", output_type="float32")
    interpreter = Interpreter(str(tmp_path / "m.tflite"))
    interpreter.allocate_tensors()
    step, reset = interpreter.get_signature_runner("serving_default"), interpreter.get_signature_runner("reset")
    (name,) = step.get_input_details()
    run = lambda x: np.concatenate([next(iter(step(**{name: x[None, t : t + 1]}).values())) for t in range(LENGTH)], 1)
    wanted = qmodel.predict(x[:2], verbose=0)
    np.testing.assert_array_equal(run(x[0]), wanted[:1])
    assert np.any(run(x[0]) != wanted[:1])
    reset(any=np.zeros(1, "int32"))
    np.testing.assert_array_equal(run(x[1]), wanted[1:])


REFUSED = {
    "same": (lambda: [L.Conv1D(4, 5, padding="same", name="odd")], r"'odd' \(QuantConv1D\) needs 2 steps"),
    "both_ways": (lambda: [L.Bidirectional(L.GRU(4))], "backward_gru.*needs 19 steps"),
    "over_time": (lambda: [L.Softmax(axis=1, name="odd")], "odd.*needs 19 steps"),
    "valid_before_gru": (lambda: [L.Conv1D(4, 3), L.GRU(4, name="odd")], "'odd' is recurrent and reads.*causal"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_looks_ahead_is_refused(name, tmp_path):
    make, message = REFUSED[name]
    qmodel, _ = trained(make(), (LENGTH, 5))
    with pytest.raises(kq.ExportError, match=message):
        kq.export(qmodel, tmp_path / "m.tflite", streaming=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"streaming": "disk"}, "`streaming` is True"),
        ({"batch_size": 2}, "Leave out batch_size"),
        ({"input_shape": (9, 5)}, "Leave out input_shape"),
    ],
)
def test_what_does_not_go_together(options, message, tmp_path):
    qmodel, _ = trained(CASES["simple"](), (LENGTH, 5))
    with pytest.raises(kq.ExportError, match=message):
        kq.export(qmodel, tmp_path / "m.tflite", **{"streaming": True, **options})


def test_a_model_without_a_sequence(tmp_path):
    qmodel, _ = trained([L.Dense(3)], (5,))
    with pytest.raises(kq.ExportError, match="no sequence among its inputs"):
        kq.export(qmodel, tmp_path / "m.tflite", streaming=True)


@pytest.mark.parametrize("name", few(CASES, "grus"))
def test_a_step_is_one_partition(name, tmp_path):
    if "pooling" in name or name == "normalized":
        pytest.skip("Pooling along one axis and a softmax at the end have kernels of LiteRT's own.")
    qmodel, _ = trained(CASES[name](), (LENGTH, 5))
    report = kq.export(qmodel, tmp_path / "m.tflite", streaming=True)
    assert report.partitions == 1, str(report)
