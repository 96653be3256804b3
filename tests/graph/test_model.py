"""Layers of the float model's names in the quantized one."""

import keras
import numpy as np
import pytest

import keras_quant as kq
from tests.helpers import assert_near_float, functional, images, shake, ship

L = keras.layers


def _backbone():
    def build(x):
        block = keras.Sequential(
            [L.Conv2D(4, 3, use_bias=False, name="conv"), L.BatchNormalization(name="norm")], name="block"
        )
        x = L.ReLU(name="relu")(block(x))
        x = L.Activation("silu", name="silu")(L.Conv2D(6, 1, name="second")(x))
        return L.Add(name="sum")([x, L.BatchNormalization(name="last_norm")(L.DepthwiseConv2D(1, name="depthwise")(x))])

    return shake(functional(build))


def test_every_layer_is_found_by_the_float_models_path(tmp_path):
    model, x = _backbone(), images()
    qmodel = kq.quantize(model, "int8", x)
    qmodel.save(tmp_path / "q.keras")
    for each in (qmodel, keras.models.load_model(tmp_path / "q.keras")):
        assert each.get_layer("relu").name == "block.conv" == each.get_layer("block/conv").name
        assert each.get_layer("last_norm").name == "depthwise"
        for layer in model.layers[1:]:
            assert layer.name == "block" or each.get_layer(layer.name) in each.layers
        with pytest.warns(UserWarning, match="'block/norm' joined layer 'block.conv' with what follows it"):
            each.get_layer("block/norm")
    assert keras.models.clone_model(qmodel).get_layer("block.conv").name == "block.conv"
    with pytest.raises(ValueError, match="No such layer: nowhere"):
        qmodel.get_layer("nowhere")


def test_a_model_on_taps_trains_and_ships(tmp_path):
    model, x, names = _backbone(), images(), ("relu", "silu", "last_norm")
    qmodel = kq.quantize(model, "int8", x)
    cut = keras.Model(qmodel.input, [qmodel.get_layer(name).output for name in names])
    assert_near_float(keras.Model(model.input, [model.get_layer(name).output for name in names]), cut, x)
    ship(cut, tmp_path, x)
    qmodel.trainable = False
    pooled = [kq.layers.QuantGlobalAveragePooling2D()(tap) for tap in cut.outputs]
    top = keras.Model(cut.inputs, kq.layers.QuantDense(2)(kq.layers.QuantConcatenate()(pooled)))
    kq.calibrate(top, x, verbose=0)
    before = [w.numpy() for w in qmodel.weights]
    top.compile("sgd", "mse")
    top.fit(x, np.ones((len(x), 2)), verbose=0)
    assert len(top.trainable_weights) == 2
    assert all(np.array_equal(a, b) for a, b in zip(before, qmodel.weights))
    ship(top, tmp_path, x)


def test_layers_inside_of_a_recurrent_one_are_found_by_their_paths():
    x = images(8, (20, 5))
    qmodel = kq.quantize(keras.Sequential([keras.Input((20, 5)), keras.layers.LSTM(4, name="lstm")]), "int8", x)
    for path in ("lstm/gates_input", "lstm/gates", "lstm/candidate_recurrent"):
        assert qmodel.get_layer(path).name == path.replace("/", ".")
    with pytest.raises(ValueError, match="No such layer"):
        qmodel.get_layer("lstm/none")
