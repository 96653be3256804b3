"""What is measured on data, against the runtime and against plain NumPy."""

import gc
import importlib

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import keras_quant as kq
from tests.helpers import functional, images, sequential, shake

L = keras.layers
X = images(24)


def sqnr(wanted, got):
    wanted, got = np.asarray(wanted, "float64"), np.asarray(got, "float64")
    return 10 * np.log10(np.sum(wanted**2) / np.sum((wanted - got) ** 2))


@pytest.fixture(scope="module")
def network():
    """A float model, the quantized one, with ranges that clip, and its report."""
    keras.utils.set_random_seed(0)
    conv = L.Conv2D(8, 3, name="conv"), L.BatchNormalization(), L.ReLU()
    model = shake(sequential(*conv, L.Flatten(name="flat"), L.Dense(5, name="logits")))
    qmodel = kq.quantize(model, "int8", X)
    for name in ("conv", "logits"):
        quantizer = qmodel.get_layer(name).output_quantizer
        quantizer.high.assign(0.6 * quantizer.high)
    return model, qmodel, kq.report(qmodel, X)


def line(report, path):
    (found,) = [layer for layer in report.layers if layer.path == path]
    return found


def on_litert(path, x):
    """A file's integers on the runtime, and the real numbers that they stand for."""
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
    (scale, zero_point), rows = given["quantization"], []
    for sample in x:
        integers = np.clip(np.rint(sample * np.float32(1 / np.float32(scale))) + zero_point, -128, 127)
        interpreter.set_tensor(given["index"], integers.astype("int8")[None])
        interpreter.invoke()
        rows.append(interpreter.get_tensor(made["index"])[0].astype("int64"))
    scale, zero_point = made["quantization"]
    return np.array(rows), scale * (np.array(rows) - zero_point)


@pytest.mark.lowest
def test_accumulated_error_is_that_of_the_device(network, tmp_path):
    model, qmodel, report = network
    kq.export(qmodel, tmp_path / "m.tflite")
    integers, real = on_litert(tmp_path / "m.tflite", X)
    expected = sqnr(model.predict(X, verbose=0), real)
    assert line(report, "logits").sqnr == pytest.approx(expected, abs=0.01)
    assert report.output_sqnr == {"logits": line(report, "logits").sqnr}
    counts = np.bincount(integers.reshape(-1) + 128, minlength=256)
    assert np.array_equal(line(report, "logits").activations.counts, counts)
    assert line(report, "logits").activations.low == -128


def test_error_of_a_layer_alone(network):
    """A Dense layer on the float layer's input, by NumPy's integers."""
    model, qmodel, report = network
    inner = keras.Model(model.inputs, model.get_layer("flat").output)
    x, wanted = inner.predict(X, verbose=0), model.predict(X, verbose=0)
    kernel, bias = (np.asarray(v, "float64") for v in model.get_layer("logits").get_weights())
    params = [qmodel.get_layer(name).output_quantizer.params() for name in ("conv", "logits")]
    (sx, zx), (sy, zy) = ((float(p.scale), float(p.zero_point)) for p in params)
    sw = np.abs(kernel).max(0) / 127
    quantized = np.clip(np.rint(x / sx), -128 - zx, 127 - zx)
    total = quantized @ np.rint(kernel / sw) + np.rint(bias / (sx * sw))
    got = sy * np.clip(np.rint(total * (sx * sw / sy)), -128 - zy, 127 - zy)
    assert line(report, "logits").local_sqnr == pytest.approx(sqnr(wanted, got), abs=0.02)
    assert line(report, "logits").local_sqnr > line(report, "logits").sqnr


@pytest.mark.lowest
def test_clipped_share(network):
    model, _, report = network
    entrance = report.layers[0]
    assert entrance.kind == "Quantize"
    for layer, values in ((line(report, "logits"), model.predict(X, verbose=0)), (entrance, X)):
        half = layer.scale / 2
        expected = np.mean((values < layer.low - half) | (values > layer.high + half))
        assert layer.clipped == expected
    assert line(report, "logits").clipped > 0.01


def test_histograms_count_every_value_and_weight(network):
    _, qmodel, report = network
    conv = line(report, "conv")
    assert conv.activations.counts.sum() == 24 * 10 * 10 * 8
    assert conv.weights.counts.sum() == 3 * 3 * 6 * 8 and conv.weights.low == -127
    kernel = np.asarray(qmodel.get_layer("conv").kernel)
    integers = np.rint(kernel / (np.abs(kernel).max((0, 1, 2)) / 127))
    # A negative gain of the batch normalization turns a filter's integers round.
    counts = np.bincount(np.abs(integers).astype(int).reshape(-1), minlength=128)
    folded = conv.weights.counts[127:] + np.concatenate([[0], conv.weights.counts[:127][::-1]])
    assert np.array_equal(folded, counts)


def test_wide_grids_are_counted_in_bins():
    qmodel = kq.quantize(sequential(L.Flatten(), L.Dense(4, name="dense")), "int16", X)
    held = line(kq.report(qmodel, X), "dense").activations
    assert (len(held.counts), held.width, held.low) == (256, 256, -32768) and held.counts.sum() == 24 * 4
    assert held.edges[0] == -32768.5 and held.edges[-1] == 32767.5


def test_narrow_grids_have_their_own_bins():
    qmodel = kq.quantize(sequential(L.Flatten(), L.Dense(4, name="dense")), "w3a4", X)
    dense = line(kq.report(qmodel, X), "dense")
    assert (len(dense.weights.counts), dense.weights.low) == (7, -3)
    assert (len(dense.activations.counts), dense.activations.low) == (16, -8)


@pytest.mark.parametrize("policy", ["int8", "w4a8", "w2a8"])
def test_weights_of_a_file(policy, tmp_path):
    """The file's own integers, several a byte, are those of the model."""
    qmodel = kq.quantize(sequential(L.Flatten(), L.Dense(16, name="dense")), policy, X)
    kq.export(qmodel, tmp_path / "m.tflite")
    ours, theirs = line(kq.report(qmodel), "dense").weights, kq.report(tmp_path / "m.tflite").layers[-1].weights
    assert theirs.counts.sum() == ours.counts.sum() == 864 * 16
    assert np.array_equal(theirs.counts[1:], ours.counts) and theirs.counts[0] == 0
    assert theirs.low == ours.low - 1  # the model's are symmetric


def test_figures_do_not_depend_on_batches(network):
    _, qmodel, report = network
    batches = [(X[:1], np.zeros(1)), (X[1:18], np.zeros(17)), (X[18:], np.zeros(6))]
    other = kq.report(qmodel, batches)
    assert other.samples == report.samples == 24
    for a, b in zip(report.layers, other.layers):
        assert (a.clipped, a.low, a.high) == (b.clipped, b.low, b.high)
        assert a.sqnr == pytest.approx(b.sqnr) and a.local_sqnr == pytest.approx(b.local_sqnr)
        assert np.array_equal(a.activations.counts, b.activations.counts)
    assert kq.report(qmodel, batches, steps=2).samples == 18


def test_a_float_model_of_its_own(network):
    model, qmodel, report = network
    trained = keras.models.clone_model(qmodel)
    trained.set_weights(qmodel.get_weights())
    trained.get_layer("logits").bias.assign(trained.get_layer("logits").bias + 0.5)
    against = kq.report(trained, X, float_model=model)
    expected = sqnr(model.predict(X, verbose=0), trained.predict(X, verbose=0))
    assert line(against, "logits").sqnr == pytest.approx(expected, abs=1e-4)
    assert line(against, "conv").sqnr == pytest.approx(line(report, "conv").sqnr)
    assert kq.report(trained, X).output_sqnr["logits"] > expected + 1
    assert f"against the float model '{model.name}'" in str(against)


def test_float_model_of_mixed_policies():
    model = shake(
        sequential(L.Conv2D(4, 3, name="conv"), L.BatchNormalization(name="bn"), L.ReLU(), L.Flatten(), L.Dense(3))
    )
    qmodel = kq.quantize(model, kq.PolicyMap({"conv": "float32"}, default="int8"), X)
    own, theirs = kq.report(qmodel, X), kq.report(qmodel, X, float_model=model)
    for a, b in zip(own.layers, theirs.layers):
        assert (a.sqnr is None) == (b.sqnr is None) and (a.sqnr is None or a.sqnr == pytest.approx(b.sqnr, abs=1e-3)), a.path


def test_several_inputs_and_outputs():
    a, b = keras.Input((4,), name="a"), keras.Input((6,), name="b")
    x = L.Concatenate()([L.Dense(4)(a), b])
    model = keras.Model([a, b], {"left": L.Dense(2, name="l")(x), "right": L.Dense(3, name="r")(x)})
    data = {"a": images(9, (4,)), "b": images(9, (6,))}
    report = kq.report(kq.quantize(model, "int8", data), data)
    assert report.samples == 9 and set(report.output_sqnr) == {"left", "right"}
    assert all(20 < value < 60 for value in report.output_sqnr.values())


@pytest.mark.slow
def test_memory_of_inner_tensors_is_given_back(monkeypatch):
    """Whatever the model's depth, few of its tensors are held at a time."""
    module, alive = importlib.import_module("keras_quant.report.measure"), []
    add = module._add
    count = lambda: sum(isinstance(x, module._Ways) for x in gc.get_objects())
    monkeypatch.setattr(module, "_add", lambda *args: (alive.append(count()), add(*args)))
    x = y = keras.Input((4,))
    for _ in range(12):
        y = L.Dense(4)(y)
    qmodel = kq.quantize(keras.Model(x, y), "int8", images(8, (4,)))
    module.measure(qmodel, images(8, (4,)))
    assert len(alive) == 13 and max(alive) <= 2


@pytest.mark.parametrize("cls", [L.LSTM, L.GRU])
def test_the_steps_of_a_loop_are_measured(cls):
    x = images(8, (20, 5))
    model = shake(functional(lambda x: cls(6, return_sequences=True, name="rnn")(x), (20, 5)))
    qmodel = kq.quantize(model, "int8", x)
    report = kq.report(qmodel, x, float_model=model)
    whole, last = line(report, "rnn"), line(report, "rnn/output" if cls is L.LSTM else "rnn/state_quantize")
    assert whole.sqnr == pytest.approx(sqnr(model(x), qmodel(x)), abs=1e-3)
    # What the last layer of each step makes is what the loop makes.
    assert kq.report(qmodel, x).output_sqnr["rnn"] == pytest.approx(line(kq.report(qmodel, x), last.path).sqnr, abs=1e-3)
    np.testing.assert_array_equal(last.activations.counts, whole.activations.counts)
    gates = line(report, "rnn/gates")
    assert gates.activations.counts.sum() == 8 * 20 * (18 if cls is L.LSTM else 12)
    assert 20 < gates.sqnr <= gates.local_sqnr + 1
