import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_quant as kq
from keras_quant.tflite import loop_parity
from tests.helpers import functional, images, sequential, shake

L = keras.layers
X = images(40)


@pytest.fixture
def shipped(tmp_path):
    model = sequential(L.Conv2D(4, 3, name="conv", activation="relu"), L.Flatten(), L.Dense(3, name="logits"))
    qmodel = kq.quantize(model, "int8", X)
    kq.export(qmodel, tmp_path / "m.tflite")
    return qmodel, tmp_path / "m.tflite"


def test_counts_elements_of_each_output(shipped):
    qmodel, path = shipped
    report = kq.verify(qmodel, path, X, verbose=0)
    assert (report.samples, report.elements, report.mismatches, report.largest) == (40, 120, 0, 0)
    assert [t.name for t in report.outputs] == ["logits"]
    assert "0 of 120 outputs differ" in str(report)
    assert kq.verify(qmodel, path, X, steps=1, verbose=0).samples == 32


def test_finds_a_difference(shipped):
    """The judge can say no: a model that was trained on after the export no longer matches its file."""
    qmodel, path = shipped
    dense = qmodel.get_layer("logits")
    dense.bias.assign(dense.bias + 5 * float(dense.output_quantizer.params().scale))
    report = kq.verify(qmodel, path, X, intermediates=True, verbose=0)
    assert not report.equal and report.mismatches > 60 and 4 <= report.largest <= 6
    differing = [t.name for t in report.intermediates if t.mismatches]
    assert differing == ["logits"]


def test_a_file_of_another_model_is_refused(shipped, tmp_path):
    qmodel, _ = shipped
    other = kq.quantize(sequential(L.Conv2D(4, 3, name="other")), "int8", X)
    kq.export(other, tmp_path / "other.tflite")
    with pytest.raises(kq.ModelFileError, match="other.tflite' was exported from another model"):
        kq.verify(qmodel, tmp_path / "other.tflite", X, verbose=0)


def test_bad_data_is_refused(shipped):
    qmodel, path = shipped
    with pytest.raises(kq.CalibrationError, match="takes batches of shape"):
        kq.verify(qmodel, path, X[:, :5], verbose=0)


@pytest.mark.parametrize("content", [b"", b"short", b"\0" * 1000, np.random.default_rng(0).bytes(5000)])
def test_a_file_that_is_no_flatbuffer_is_refused(content, shipped, tmp_path):
    path = tmp_path / "bad.tflite"
    path.write_bytes(content)
    with pytest.raises(kq.ModelFileError, match="bad.tflite' is not a TFLite flatbuffer"):
        kq.verify(shipped[0], path, X, verbose=0)


def test_a_missing_file_is_refused(shipped, tmp_path):
    with pytest.raises(kq.ModelFileError, match="Cannot read '.*none.tflite'"):
        kq.verify(shipped[0], tmp_path / "none.tflite", X, verbose=0)


def test_a_file_cut_short_anywhere_is_refused_and_never_crashes(shipped, tmp_path):
    """In a process of its own: a damaged file must not even reach the runtime's C++."""
    _, path = shipped
    script = tmp_path / "cut.py"
    script.write_text(
        "import pathlib, sys\n"
        "from keras_quant import ModelFileError\n"
        "from keras_quant.tflite import Runtime, read_model\n"
        "content = pathlib.Path(sys.argv[1]).read_bytes()\n"
        "refused = loaded = 0\n"
        "for size in range(0, len(content), max(len(content) // 300, 1)):\n"
        "    cut = pathlib.Path(sys.argv[1] + '.cut'); cut.write_bytes(content[:size])\n"
        "    try:\n"
        "        data, _ = read_model(cut)\n"
        "        Runtime(data, cut); loaded += 1\n"
        "    except ModelFileError:\n"
        "        refused += 1\n"
        "print(refused, loaded)\n"
    )
    root = pathlib.Path(kq.__file__).parents[1]
    done = subprocess.run([sys.executable, script, path], capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    refused, loaded = map(int, done.stdout.split()[-2:])
    assert refused >= 300 and loaded == 0


def test_one_tensor_may_be_two_outputs(tmp_path):
    x = keras.Input((6,))
    y = keras.layers.Dense(3)(x)
    qmodel, x = (
        kq.quantize(keras.Model(x, {"a": y, "b": y, "c": keras.layers.ReLU()(y)}), "int8", images(8, (6,))),
        images(8, (6,)),
    )
    kq.export(qmodel, tmp_path / "m.tflite")
    parity = kq.verify(qmodel, tmp_path / "m.tflite", x, verbose=0)
    assert [t.name for t in parity.outputs] == ["a", "b", "c"] and parity.mismatches == 0


@pytest.mark.parametrize("policy", ["int8", "dynamic_int8"])
def test_each_call_of_a_shared_layer_is_compared(policy, tmp_path):
    x = images(8, (6,))
    shared = L.Dense(6, activation="relu", name="shared")
    qmodel = kq.quantize(shake(functional(lambda x: L.Dense(2)(shared(shared(shared(x)))), (6,))), policy, x)
    kq.export(qmodel, tmp_path / "m.tflite")
    report = kq.verify(qmodel, tmp_path / "m.tflite", x, intermediates=True, verbose=0)
    names = [t.name for t in report.intermediates]
    assert report.equal and {"shared", "shared:1", "shared:2"} <= set(names)


def recurrent(x):
    return L.Dense(2)(L.LSTM(6, return_sequences=True, name="lstm")(x))


def test_tensors_inside_loops_are_compared(tmp_path):
    x = images(8, (20, 5))
    qmodel = kq.quantize(shake(functional(recurrent, (20, 5))), "int8", x)
    kq.export(qmodel, tmp_path / "m.tflite")
    report = kq.verify(qmodel, tmp_path / "m.tflite", x, intermediates=True, verbose=0)
    inside = {t.name: t for t in report.intermediates if t.name.startswith("lstm/")}
    assert report.equal and {"lstm/gates_recurrent", "lstm/gates", "lstm/cell", "lstm/output"} <= set(inside)
    assert inside["lstm/gates"].elements == 8 * 20 * 18
    # A state is real numbers, of which not one may differ.
    assert inside["lstm/cell"].tolerance == 0.0 and inside["lstm/gates"].tolerance is None
    names = [t.name for t in report.intermediates]
    assert names.index("lstm.gates_input") < names.index("lstm/gates") < names.index("lstm")


def test_a_difference_inside_a_loop_is_found_where_it_is(monkeypatch, tmp_path):
    """The states are those of Keras at each step, so what follows from a difference is no difference of its own."""
    x = images(8, (20, 5))
    qmodel = kq.quantize(shake(functional(recurrent, (20, 5))), "int8", x)
    kq.export(qmodel, tmp_path / "m.tflite")

    def off_by_two(layer):
        content, fed, names = loop_parity_file(layer)
        kernel = qmodel.get_layer("lstm/candidate_recurrent").kernel
        kernel.assign(2 * kernel)
        return content, fed, names

    loop_parity_file = loop_parity.step_file
    monkeypatch.setattr(loop_parity, "step_file", off_by_two)
    report = kq.verify(qmodel, tmp_path / "m.tflite", x, intermediates=True, verbose=0)
    differing = [t.name for t in report.intermediates if t.name.startswith("lstm/") and t.mismatches]
    assert differing[0] == "lstm/candidate_recurrent" and "lstm/gates" not in differing


def test_the_first_states_of_a_decoder_are_compared(tmp_path):
    def build(x):
        _, *states = L.GRU(4, return_state=True, name="encoder")(x)
        return L.GRU(4, return_sequences=True, name="decoder")(L.Dense(3)(x), initial_state=states)

    x = images(8, (18, 5))
    qmodel = kq.quantize(shake(functional(build, (18, 5))), "int8", x)
    kq.export(qmodel, tmp_path / "m.tflite")
    report = kq.verify(qmodel, tmp_path / "m.tflite", x, intermediates=True, verbose=0)
    assert report.equal
    assert {"encoder/state", "decoder/state", "encoder/1"} <= {t.name for t in report.intermediates}
