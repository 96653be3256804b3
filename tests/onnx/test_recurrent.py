"""Recurrent layers as ONNX: Scan, whose body holds the step's operators as ONNX Runtime fuses them."""

import pathlib
import sys

import keras
import numpy as np
import pytest

pytest.importorskip("tf2onnx", reason="the extra `onnx` is not installed")

import keras_quant as kq
from keras_quant.graph import trace
from keras_quant.layers.loop import Loop
from keras_quant.onnx import Runtime, read_model
from tests.helpers import few, functional, sequential, shake, signal_to_noise
from tests.layers.test_recurrent import CASES, CONVOLUTIONAL, LONG, SHORT, encoder_decoder, masked, words

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "benchmarks"))
from onnx_alone import alone

L = keras.layers
FAST = "lstm_states", "gru", "simple_short", "masked_leaky_last", "encoder_decoder_lstm", "both_ways_sum", "masked_backwards"


@pytest.fixture(autouse=True)
def same_weights():
    keras.utils.set_random_seed(0)


def check(qmodel, path, x, **options):
    """Export, run, and hold each operator of each step to one step of its grid; returns the reports.

    A difference of one goes around in the loop: what comes out may differ by more, and in more places.
    """
    report = kq.export(qmodel, path, **options)
    parity = kq.verify(qmodel, path, x, intermediates=True, verbose=0)
    assert parity.elements > 0 and parity.mismatches <= 0.5 * parity.elements, str(parity)
    assert report.unfused == ()
    loops = [n.operation for n in trace(qmodel, keep_float=True).nodes if isinstance(n.operation, Loop)]
    assert report.runs["Scan"] == len(loops)
    for loop in loops:
        of_step = path.with_name("step.onnx")
        kq.export(loop.step, of_step)
        found = alone(loop.step, of_step, arrays(loop.step))
        apart = {layer: one.steps for layer, one in found.items() if one.kind != "StepInput"}
        assert apart and max(apart.values()) <= 1, apart
    return report, parity


def arrays(step, count=200):
    """Inputs of a step by name."""
    rng = np.random.default_rng(0)
    kinds = {"bool": lambda shape: rng.random(shape) < 0.5}
    real = lambda shape: rng.standard_normal(shape).astype("float32")
    return {v.name: kinds.get(v.dtype, real)((count, *v.shape[1:])) for v in trace(step, keep_float=True).inputs}


@pytest.mark.parametrize("name", few(CASES, *FAST))
def test_every_operator_of_a_step_is_fused_and_within_a_step_of_keras(name, tmp_path):
    length, build = CASES[name]
    x = words(length)
    check(kq.quantize(shake(functional(build, (length, 5))), "int8", x), tmp_path / "m.onnx", x)


@pytest.mark.parametrize("name", few(CONVOLUTIONAL, "1d"))
def test_a_convolutional_one(name, tmp_path):
    layer, shape = CONVOLUTIONAL[name]()
    x = np.random.default_rng(0).standard_normal((8, *shape)).astype("float32")
    check(kq.quantize(shake(sequential(layer, shape=shape)), "int8", x), tmp_path / "m.onnx", x)


@pytest.mark.parametrize("storage, opset, batch_size", [("int8", None, None), ("uint8", 13, 3), ("int8", 13, 1)])
def test_every_form_of_a_file(storage, opset, batch_size, tmp_path):
    x = words(LONG)
    model = shake(functional(masked(lambda: L.Bidirectional(L.GRU(6, return_sequences=True))), (LONG, 5)))
    qmodel = kq.quantize(model, "int8", x)
    check(qmodel, tmp_path / "m.onnx", x, storage=storage, opset=opset, batch_size=batch_size)


@pytest.mark.parametrize("policy", ["float32", "float16", "dynamic_int8", "dynamic_int4"])
@pytest.mark.parametrize("cls", [L.LSTM, L.GRU, L.SimpleRNN])
def test_real_numbers(policy, cls, tmp_path):
    model, x = shake(functional(masked(lambda: cls(6, return_sequences=True)), (LONG, 5))), words(LONG)
    qmodel = kq.quantize(model, policy, x)
    assert kq.export(qmodel, tmp_path / "m.onnx").runs["Scan"] == 1
    parity = kq.verify(qmodel, tmp_path / "m.onnx", x, verbose=0)
    # Values at the border of two steps of a dynamic grid fall to either, and go around.
    most = 0.05 if policy.startswith("dynamic") else 0
    assert parity.elements > 0 and parity.mismatches <= most * parity.elements, str(parity)


@pytest.mark.parametrize("policy", ["int4", "w4a8", "w8a6"])
def test_in_other_widths(policy, tmp_path):
    model, x = shake(functional(encoder_decoder(L.GRU), (SHORT, 5))), words(SHORT)
    check(kq.quantize(model, policy, x), tmp_path / "m.onnx", x)


@pytest.mark.parametrize("cls", [L.LSTM, L.GRU])
def test_integers_only(cls, tmp_path):
    model, x = shake(functional(lambda x: cls(6)(x), (LONG, 5))), words(LONG)
    report, _ = check(kq.quantize(model, "int8", x, integer_only=True), tmp_path / "m.onnx", x)
    assert "Round" not in report.runs


def test_time_distributed(tmp_path):
    """The loop's batch is the model's times three, fixed or open."""
    model = shake(functional(lambda x: L.TimeDistributed(L.LSTM(6))(x), (3, LONG, 5)))
    x = np.random.default_rng(0).standard_normal((8, 3, LONG, 5)).astype("float32")
    for policy in ("int8", "float32"):
        qmodel = kq.quantize(model, policy, x)
        for batch_size in (None, 2):
            kq.export(qmodel, tmp_path / "m.onnx", batch_size=batch_size)
            parity = kq.verify(qmodel, tmp_path / "m.onnx", x, verbose=0)
            assert parity.mismatches <= 0.1 * parity.elements, str(parity)


def test_ids_with_a_mask(tmp_path):
    ids = np.tril(np.random.default_rng(0).integers(1, 30, (LONG, LONG))).astype("int32")
    x = keras.Input((LONG,), dtype="int32")
    model = shake(keras.Model(x, L.Dense(1)(L.Bidirectional(L.LSTM(6))(L.Embedding(30, 8, mask_zero=True)(x)))))
    check(kq.quantize(model, "int8", ids), tmp_path / "m.onnx", ids)


def test_states_as_inputs_of_the_model(tmp_path):
    x, h, c = keras.Input((LONG, 5)), keras.Input((6,)), keras.Input((6,))
    model = shake(keras.Model([x, h, c], list(L.LSTM(6, return_sequences=True, return_state=True)(x, initial_state=[h, c]))))
    first = np.random.default_rng(0).standard_normal((2, 24, 6)).astype("float32")
    given = [words(LONG), np.tanh(first[0]), 3 * first[1]]
    qmodel = kq.quantize(model, "int8", given)
    check(qmodel, tmp_path / "m.onnx", given)
    got = Runtime(tmp_path / "m.onnx").run(given)
    for wanted, found in zip(model(given), got):
        assert signal_to_noise(wanted, found) >= 20


def test_the_body_is_described_and_does_not_grow_with_the_length(tmp_path):
    sizes = []
    # A number more in the layer's name would be there a hundred times.
    for length in (20, 200):
        qmodel = kq.quantize(shake(functional(L.LSTM(6, name="lstm"), (length, 5))), "int8", words(length))
        report = kq.export(qmodel, tmp_path / "m.onnx")
        sizes.append(report.bytes)
    assert abs(sizes[1] - sizes[0]) < 200
    runs = {(op.layer.rpartition(".")[2], op.name): op.runs_as for op in report.operators}
    assert runs["gates_recurrent", "Gemm"] == "QGemm" and runs["gates_sum", "Add"] == "QLinearAdd"
    kernels = {t.name.rpartition(".")[2]: t for t in report.tensors if t.constant}
    assert kernels["gates_recurrent/kernel"].dtype == "int8" and len(kernels["gates_recurrent/kernel"].scale) == 18
    grids = {t.name.rpartition(".")[2]: t.shape for t in report.tensors}
    assert grids["gates_sum/quantized"] == (None, 18)


def test_recurrent_weights_go_into_a_file_of_their_own(tmp_path):
    from keras_quant.onnx import export_onnx

    x = words(SHORT)
    qmodel = kq.quantize(shake(functional(L.LSTM(160), (SHORT, 5))), "int8", x)
    export_onnx(qmodel, tmp_path / "m.onnx", largest=1000)
    assert (tmp_path / "m.onnx.data").stat().st_size >= 160 * 480
    whole = read_model(tmp_path / "m.onnx")
    assert any(t.name.endswith("gates_recurrent/kernel") for t in whole.graph.initializer)
    assert kq.verify(qmodel, tmp_path / "m.onnx", x, verbose=0).largest <= 3
