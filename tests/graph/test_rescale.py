import keras
import numpy as np
import pytest

import keras_quant as kq
from tests.helpers import functional, images, quantize_and_ship, sequential

L = keras.layers


def names(model):
    """Layers of the quantized model, without input and its grid."""
    return [layer.name for layer in kq.quantize(model).layers][2:]


@pytest.mark.parametrize(
    "scale",
    [
        lambda: L.Rescaling(1 / 255),
        lambda: L.Normalization(mean=0.0, variance=4.0),
        lambda: L.Lambda(lambda x: x / 127.5),
    ],
)
@pytest.mark.parametrize(
    "layer",
    [
        lambda: L.Conv2D(4, 3, padding="same", name="a"),
        lambda: L.DepthwiseConv2D(3, name="a"),
        lambda: L.Conv2DTranspose(4, 3, name="a"),
        lambda: L.Dense(4, name="a"),
    ],
)
def test_a_rescaling_joins_the_kernel_behind_it(scale, layer):
    assert names(sequential(scale(), layer())) == ["a"]


def test_a_rescaling_passes_padding_and_reshaping():
    assert names(sequential(L.Rescaling(2.0), L.ZeroPadding2D(1, name="p"), L.Conv2D(4, 3, name="a"))) == ["p", "a"]
    assert names(sequential(L.Rescaling(2.0), L.Flatten(name="f"), L.Dense(4, name="a"))) == ["f", "a"]


def test_rescalings_that_join_each_other_join_the_kernel():
    layers = L.Rescaling(2.0), L.Normalization(mean=[0.0] * 6, variance=[4.0] * 6), L.Conv2D(4, 3, name="a")
    assert names(sequential(*layers)) == ["a"]


@pytest.mark.parametrize(
    "layers",
    [
        lambda: (L.Rescaling(2.0, offset=1.0, name="r"), L.Conv2D(4, 3, name="a")),
        lambda: (L.Rescaling([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], name="r"), L.Conv2D(4, 3, name="a")),
        lambda: (L.Rescaling(2.0, name="r"), L.ReLU(name="b"), L.Conv2D(4, 3, name="a")),
    ],
)
def test_other_rescalings_stay_layers(layers):
    assert names(sequential(*layers()))[0] == "r"


def test_a_rescaling_that_two_read_stays_a_layer():
    def build(x):
        y = L.Rescaling(2.0, name="r")(x)
        return L.Add(name="sum")([L.Conv2D(6, 1, name="a")(y), y])

    assert names(functional(build)) == ["r", "a", "sum"]


def test_a_joined_rescaling_trains_saves_and_ships_as_the_float_model(tmp_path):
    x = 255 * np.abs(images())
    model = sequential(L.Rescaling(1 / 255), L.Conv2D(4, 3), L.BatchNormalization(), L.ReLU(), L.GlobalMaxPooling2D())
    qmodel, report = quantize_and_ship(model, tmp_path, x)
    assert [op.name for op in report.operators] == ["CONV_2D", "REDUCE_MAX"]
    np.testing.assert_array_equal(qmodel.layers[2].kernel, model.layers[1].kernel)
    trained = np.asarray(qmodel(x, training=True))
    assert np.abs(trained - model(x, training=True)).mean() < 0.02 * trained.max()
    qmodel.save(tmp_path / "m.keras")
    kq.calibrate(qmodel, x)
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.layers[2].input_scale == 1 / 255
