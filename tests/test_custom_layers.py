"""Layers that users register themselves."""

import pathlib
import re

import keras
import numpy as np
import pytest

import keras_quant as kq

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "custom_layers.md"


def test_the_example_in_the_documentation_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names = {}
    exec(compile(code, str(PAGE), "exec"), names)
    qmodel, data = names["qmodel"], names["data"]
    qmodel.save("m.keras")
    np.testing.assert_array_equal(keras.models.load_model("m.keras")(data), qmodel(data))
    qmodel.compile("sgd", "mse")
    qmodel.fit(data, qmodel(data) * 0.5, verbose=0)
    kq.export(qmodel, "trained.tflite")
    assert kq.verify(qmodel, "trained.tflite", data, intermediates=True, verbose=0).equal


def test_the_form_and_its_rule_take_under_twenty_lines():
    form = PAGE.read_text().split("@kq.register_quantized_layer")[1].split("model = keras.Sequential")[0]
    assert len([line for line in form.splitlines() if line.strip()]) < 20


def test_only_layer_classes_are_registered():
    with pytest.raises(TypeError, match="takes the float layers' classes. Received: <function"):
        kq.register_quantized_layer(keras.activations.relu)


def test_a_quantized_layer_without_a_rule_is_named(tmp_path):
    class Plain(keras.layers.Layer):
        def call(self, x):
            return x

        def compute_output_shape(self, shape):
            return shape

    @kq.register_quantized_layer(Plain, package="tests")
    class QuantPlain(kq.layers.QuantLayer, Plain):
        keeps_grid = True

    qmodel = kq.quantize(keras.Sequential([keras.Input((8, 8, 3)), Plain(name="odd")]))
    with pytest.raises(kq.ExportError, match=r"'odd' \(QuantPlain\) has no rule.*register_lowering"):
        kq.export(qmodel, tmp_path / "m.tflite")
