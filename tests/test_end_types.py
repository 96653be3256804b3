"""The types of a file's inputs and outputs."""

import warnings

import keras
import numpy as np
import pytest

import keras_quant as kq
from keras_quant.tflite import Runtime
from tests.helpers import functional, images, sequential, shake, slow

L = keras.layers
X = images()


@pytest.fixture(scope="module")
def qmodels():
    model = shake(sequential(L.Conv2D(4, 3, name="first"), L.Flatten(), L.Dense(3, name="last")))
    return {name: kq.quantize(model, policy, X) for name, policy in POLICIES.items()}


POLICIES = {
    "int8": "int8",
    "int16": "int16",
    "float32": kq.PolicyMap({"last": "float32"}),
    "narrow": kq.PolicyMap({"last": "w4a3"}),
}


@pytest.mark.parametrize(
    "name, input_type, output_type",
    [
        ("int8", "float32", "float32"),
        ("int8", "uint8", "uint8"),
        ("int8", "int8", "float32"),
        ("int8", "uint8", None),
        ("int16", "int16", "float32"),
        ("int16", "float32", "int16"),
        ("float32", "uint8", "float32"),
        ("narrow", "float32", "uint8"),
    ],
)
def test_the_file_has_the_types_and_equals_predict(name, input_type, output_type, qmodels, tmp_path):
    path = tmp_path / "m.tflite"
    report = kq.export(qmodels[name], path, input_type=input_type, output_type=output_type)
    runtime = Runtime(path.read_bytes())
    assert np.dtype(runtime.inputs[0]["dtype"]).name == input_type
    assert np.dtype(runtime.outputs[0]["dtype"]).name == (output_type or "int8")
    parity = kq.verify(qmodels[name], path, X, intermediates=True, verbose=0)
    assert parity.equal and parity.elements == 3 * len(X)
    if input_type == output_type == "float32":
        np.testing.assert_array_equal(runtime.run([X])[0], qmodels[name](X))
        assert report.partitions == 1


def test_bytes_of_a_camera_go_in_as_they_are(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 12, 12, 3)).astype("float32")
    pixels[0, 0, 0] = 0, 255, 0
    model = shake(sequential(L.Rescaling(1 / 127.5, -1), L.Conv2D(4, 3), L.Flatten(), L.Dense(3), shape=(12, 12, 3)))
    qmodel = kq.quantize(model, "int8", pixels)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        kq.export(qmodel, tmp_path / "m.tflite", input_type="uint8", output_type="float32")
    runtime = Runtime((tmp_path / "m.tflite").read_bytes())
    assert runtime.inputs[0]["quantization"] == (1.0, 0)
    np.testing.assert_array_equal(runtime.run([pixels.astype("uint8")])[0], qmodel(pixels))


@pytest.mark.parametrize("suffix", ["tflite", slow("onnx")])
def test_bytes_that_stand_for_other_numbers_are_told(suffix, qmodels, tmp_path):
    if suffix == "onnx":
        pytest.importorskip("onnx")
    with pytest.warns(UserWarning, match=r"its bytes 0 to 255 stand for the real numbers -\d.* to \d.*Rescaling"):
        kq.export(qmodels["int8"], tmp_path / f"m.{suffix}", input_type="uint8")


def test_an_input_that_integers_and_floats_read_is_float(tmp_path):
    build = lambda x: L.Add()([L.Conv2D(4, 1, name=name)(x) for name in "abc"])
    qmodel = kq.quantize(shake(functional(build)), kq.PolicyMap({"a": "float32", "b": "int16"}), X)
    kq.export(qmodel, tmp_path / "m.tflite")
    assert Runtime((tmp_path / "m.tflite").read_bytes()).inputs[0]["dtype"] == np.float32
    assert kq.verify(qmodel, tmp_path / "m.tflite", X, intermediates=True, verbose=0).equal


@pytest.mark.parametrize(
    "name, end, wanted",
    [
        ("int8", "input", "int16"),
        ("int8", "output", "int16"),
        ("int16", "input", "int8"),
        ("int16", "output", "uint8"),
        ("float32", "output", "int8"),
    ],
)
def test_a_type_that_would_round_twice_is_refused(name, end, wanted, qmodels, tmp_path):
    with pytest.raises(
        kq.ExportError, match=f"{end.capitalize()} '.*' is {name} in the model.*Received: {end}_type='{wanted}'"
    ):
        kq.export(qmodels[name], tmp_path / "m.tflite", **{f"{end}_type": wanted})
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_type_is_refused(qmodels, tmp_path):
    with pytest.raises(kq.ExportError, match="`input_type` is one of.*Received: input_type='int4'"):
        kq.export(qmodels["int8"], tmp_path / "m.tflite", input_type="int4")
