import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import keras_quant as kq
from keras_quant.tflite import read_model
from tests.helpers import few, images, quantize_and_ship, sequential, shake, ship

L = keras.layers
X = images()


def model():
    return sequential(L.Conv2D(4, 3, name="conv"), L.BatchNormalization(), L.ReLU(), L.Flatten(), L.Dense(3, name="logits"))


def quantized():
    return kq.quantize(shake(model()), "int8", X)


def test_the_file_is_the_same_each_time(tmp_path):
    qmodel = quantized()
    kq.export(qmodel, tmp_path / "a.tflite")
    kq.export(qmodel, tmp_path / "b.tflite")
    assert (tmp_path / "a.tflite").read_bytes() == (tmp_path / "b.tflite").read_bytes()


def test_signature_has_the_keras_names(tmp_path):
    a, b = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    total = L.Add(name="total")([a, b])
    two = keras.Model([a, b], {"sum": total, "score": L.Dense(2)(total)})
    kq.export(kq.quantize(two, "int8", [images(shape=(4,)), images(shape=(4,), seed=3)]), tmp_path / "m.tflite")
    signature = Interpreter(str(tmp_path / "m.tflite")).get_signature_list()["serving_default"]
    assert sorted(signature["inputs"]) == ["left", "right"]
    assert sorted(signature["outputs"]) == ["score", "sum"]


def test_signature_runs(tmp_path):
    kq.export(quantized(), tmp_path / "m.tflite")
    runner = Interpreter(str(tmp_path / "m.tflite")).get_signature_runner("serving_default")
    (name,) = runner.get_input_details()
    outputs = runner(**{name: np.zeros((1, 12, 12, 6), np.int8)})
    assert outputs["logits"].dtype == np.int8 and outputs["logits"].shape == (1, 3)


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_batch_size_is_the_files(batch_size, tmp_path):
    report, _ = ship(quantized(), tmp_path, X, batch_size=batch_size)
    assert report.tensors[0].shape == (batch_size, 12, 12, 6)


def test_an_open_batch_is_resized_at_run_time(tmp_path):
    ship(quantized(), tmp_path, X, batch_size=None)
    interpreter = Interpreter(str(tmp_path / "model.tflite"))
    detail = interpreter.get_input_details()[0]
    assert list(detail["shape_signature"]) == [-1, 12, 12, 6]
    for size in (1, 5, 2):
        interpreter.resize_tensor_input(detail["index"], (size, 12, 12, 6))
        interpreter.allocate_tensors()
        interpreter.set_tensor(detail["index"], np.zeros((size, 12, 12, 6), np.int8))
        interpreter.invoke()
        assert interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).shape == (size, 3)


def test_metadata_names_the_oldest_runtime(tmp_path):
    kq.export(quantized(), tmp_path / "m.tflite")
    _, parsed = read_model(tmp_path / "m.tflite")
    (entry,) = [m for m in parsed.metadata if m.name == b"min_runtime_version"]
    assert bytes(parsed.buffers[entry.buffer].data).rstrip(b"\0") == b"2.10.0"


def test_constants_are_aligned_to_sixteen_bytes(tmp_path):
    kq.export(quantized(), tmp_path / "m.tflite")
    content, parsed = read_model(tmp_path / "m.tflite")
    constants = [bytes(b.data) for b in parsed.buffers if b.data is not None]
    assert constants
    for data in constants:
        starts = [i for i in range(0, len(content) - len(data) + 1, 16) if content[i : i + len(data)] == data]
        assert starts


def test_report_tells_operators_layers_and_quantization(tmp_path):
    report = kq.export(quantized(), tmp_path / "m.tflite")
    assert [(op.name, op.layer) for op in report.operators] == [
        ("CONV_2D", "conv"),
        ("RESHAPE", report.operators[1].layer),
        ("FULLY_CONNECTED", "logits"),
    ]
    assert report.bytes == (tmp_path / "m.tflite").stat().st_size
    assert {t.dtype for t in report.tensors} == {"int8", "int32"}
    bias = next(t for t in report.tensors if t.name == "conv/bias")
    kernel = next(t for t in report.tensors if t.name == "conv/kernel")
    np.testing.assert_allclose(bias.scale, np.array(kernel.scale) * report.tensors[0].scale[0], rtol=1e-6)
    assert "3 of 3 operators on XNNPACK in 1 partition" in str(report)


def test_a_model_built_by_subclassing_ships(tmp_path):
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.convs = [kq.layers.QuantConv2D(4, 3, activation="relu", name=f"conv{i}") for i in range(2)]
            self.join = kq.layers.QuantConcatenate()
            self.head = kq.layers.QuantDense(3, activation="sigmoid")

        def call(self, x, training=False):
            return self.head(self.join([conv(x, training=training) for conv in self.convs], training=training))

    model = Model()
    model(X[:2])
    kq.calibrate(model, X, verbose=0)
    report, _ = ship(model, tmp_path, X)
    assert report.partitions == 1


# Degenerate models that have to come out right.


def dead_gain():
    float_model = shake(model())
    gamma = float_model.layers[1].gamma
    gamma.assign([0.0, 1e-30, 1.0, -1.0])
    return float_model


def zero_kernel():
    float_model = shake(model())
    float_model.get_layer("conv").kernel.assign(np.zeros((3, 3, 6, 4)))
    return float_model


def tiny_kernel():
    float_model = shake(model())
    float_model.get_layer("conv").kernel.assign(np.full((3, 3, 6, 4), 1e-12))
    return float_model


def dead_relu():
    float_model = sequential(L.Conv2D(4, 3, name="conv"), L.ReLU(), L.Conv2D(3, 1))
    float_model.get_layer("conv").bias.assign(np.full(4, -1e3))
    return float_model


def zero_branch():
    x = keras.Input((12, 12, 6))
    branch = L.Conv2D(6, 1, use_bias=False, kernel_initializer="zeros", name="conv")(x)
    return keras.Model(x, L.Add()([L.Rescaling(5000.0)(x), branch]))


def vanishing():
    kernel = keras.initializers.RandomNormal(stddev=1e-9, seed=0)
    return sequential(*(L.Conv2D(4, 1, use_bias=False, kernel_initializer=kernel, activation="relu") for _ in range(6)))


DEGENERATE = [dead_gain, zero_kernel, tiny_kernel, dead_relu, zero_branch, vanishing]


@pytest.mark.parametrize("build", few(DEGENERATE, zero_branch), ids=lambda f: f.__name__)
def test_dead_channels_and_collapsed_ranges_give_a_correct_model(build, tmp_path):
    float_model = build()
    qmodel = kq.quantize(float_model, "int8", X)
    report, _ = ship(qmodel, tmp_path, X)
    assert report.off_xnnpack == ()
    ours, theirs = qmodel.predict(X, verbose=0), float_model.predict(X, verbose=0)
    # Ranges of least squared error leave out a few of the largest values.
    assert np.abs(ours - theirs).max() <= 0.1 * max(np.abs(theirs).max(), 1e-6) + 1e-6


# Bad input.


def test_ranges_that_were_never_set_are_named(tmp_path):
    with pytest.raises(kq.CalibrationError, match="layer '.*' was never set.*calibrate"):
        kq.export(kq.quantize(model()), tmp_path / "m.tflite")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(value, tmp_path):
    bad = model()
    bad.get_layer("conv").kernel.assign(np.full((3, 3, 6, 4), value))
    with pytest.raises(kq.QuantizationError, match="'kernel' of layer 'conv' holds NaN or infinite"):
        kq.quantize(bad)
    qmodel = quantized()
    qmodel.get_layer("conv").kernel.assign(np.full((3, 3, 6, 4), value))
    with pytest.raises(kq.ExportError, match="'kernel' of layer 'conv' holds NaN or infinite"):
        kq.export(qmodel, tmp_path / "m.tflite")
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_written_is_named_and_nothing_is_left(tmp_path):
    with pytest.raises(kq.ExportError, match="Cannot write '.*nowhere.*No such file"):
        kq.export(quantized(), tmp_path / "nowhere" / "m.tflite")
    (tmp_path / "taken.tflite").mkdir()
    with pytest.raises(kq.ExportError, match="Cannot write"):
        kq.export(quantized(), tmp_path / "taken.tflite")
    assert [p.name for p in tmp_path.iterdir()] == ["taken.tflite"]


def test_a_failed_export_leaves_the_old_file(tmp_path):
    path = tmp_path / "m.tflite"
    qmodel = quantized()
    kq.export(qmodel, path)
    old = path.read_bytes()
    qmodel.get_layer("conv").kernel.assign(np.full((3, 3, 6, 4), np.nan))
    with pytest.raises(kq.ExportError):
        kq.export(qmodel, path)
    assert path.read_bytes() == old


@pytest.mark.parametrize("path", ["model.h5", "model", "model.pb"])
def test_another_suffix_is_refused(path, tmp_path):
    with pytest.raises(kq.ExportError, match=f"Received: path='.*{path}'"):
        kq.export(quantized(), tmp_path / path)


def test_an_opset_of_a_tflite_is_refused(tmp_path):
    with pytest.raises(kq.ExportError, match="an `.onnx` has an opset.*Received: opset=17"):
        kq.export(quantized(), tmp_path / "m.tflite", opset=17)


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, "two"])
def test_a_bad_batch_size_is_refused(batch_size, tmp_path):
    with pytest.raises(kq.ExportError, match="Received: batch_size="):
        kq.export(quantized(), tmp_path / "m.tflite", batch_size=batch_size)


def test_a_float_layer_is_named(tmp_path):
    mixed = sequential(kq.layers.QuantConv2D(4, 3), L.Lambda(keras.ops.sort, name="plain"), kq.layers.QuantConv2D(4, 3))
    with pytest.raises(kq.ExportError, match="'plain/sort'.*computes in float"):
        kq.export(mixed, tmp_path / "m.tflite")


def test_an_unknown_policy_is_refused():
    with pytest.raises(kq.QuantizationError, match="Received: policy='int3'"):
        kq.quantize(model(), "int3")


def test_a_layer_after_quantization_is_kept_under_its_path(tmp_path):
    _, report = quantize_and_ship(model(), tmp_path)
    names = {t.name for t in report.tensors}
    assert {"conv", "conv/kernel", "conv/bias", "logits"} <= names


def test_report_gives_reason_and_remedy_for_what_leaves_xnnpack(tmp_path):
    x = images(shape=(36, 36, 6))
    layers = L.Conv2D(4, 1, name="first", activation="mish"), L.Flatten(), L.Dense(3, name="last", activation="softmax")
    model = sequential(*layers, shape=(36, 36, 6))
    report = kq.export(kq.quantize(model, "int8", x), tmp_path / "m.tflite")
    off = {(op.name, op.layer): op for op in report.off_xnnpack}
    assert set(off) == {(n, "first_activation") for n in ("CAST", "ADD", "GATHER")} | {
        (n, "last_activation") for n in ("SOFTMAX", "QUANTIZE")
    }
    assert all(op.reason and op.remedy and not op.is_float for op in off.values())
    assert not any(op.reason for op in report.operators if op.on_xnnpack)
    assert report.float_operators == ()
    assert "largest logit" in str(report) and "first_activation: CAST, ADD, GATHER: " in str(report)
