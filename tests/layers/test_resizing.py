"""Resizing and cropping: the places that Keras reads, and what has no int8 form."""

import keras
import numpy as np
import pytest

import keras_quant as kq
from tests.helpers import images, sequential, ship

L = keras.layers
LAYERS = {
    "up": lambda: L.Resizing(29, 17),
    "down": lambda: L.Resizing(5, 7),
    "nearest": lambda: L.Resizing(18, 5, "nearest"),
    "cropped": lambda: L.Resizing(11, 5, crop_to_aspect_ratio=True),
    "padded": lambda: L.Resizing(9, 4, pad_to_aspect_ratio=True),
    "antialiased": lambda: L.Resizing(24, 24, antialias=True),
    "center": lambda: L.CenterCrop(7, 6),
}


@pytest.mark.parametrize("name", LAYERS)
def test_values_are_those_of_keras_within_a_step(name):
    """Half a step for the input, half for the output, and what 11 bits of weight leave."""
    model, x = sequential(LAYERS[name](), shape=(12, 9, 2)), np.clip(images(shape=(12, 9, 2)), -1, 1)
    qmodel = kq.quantize(model, "int8", x)
    step = float(qmodel.layers[1].output_quantizer.params().scale)
    for training in (False, True):
        assert np.abs(np.asarray(qmodel(x, training=training)) - np.asarray(model(x))).max() < 1.2 * step


def test_a_network_with_resizing_trains_saves_and_ships(tmp_path):
    model = sequential(L.Resizing(6, 9, crop_to_aspect_ratio=True), L.Conv2D(3, 3), L.Resizing(8, 14), L.CenterCrop(4, 5))
    x = images()
    qmodel = kq.quantize(model, "int8", x)
    qmodel.compile("sgd", "mse")
    qmodel.fit(x, np.ones((len(x), 4, 5, 3)), verbose=0)
    qmodel.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), qmodel.predict(x, verbose=0))
    ship(again, tmp_path, x, batch_size=None)


REFUSED = {
    "fill": (lambda: L.Resizing(6, 9, pad_to_aspect_ratio=True, fill_value=1.0, name="odd"), "'odd' pads with zeros only"),
    "enlarging_crop": (lambda: L.CenterCrop(20, 4, name="odd"), "'odd' crops to 20×4 an image of 12×12"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_int8_form_is_refused_by_name(name):
    make, message = REFUSED[name]
    with pytest.raises(kq.UnsupportedLayerError, match=message):
        kq.quantize(sequential(make()), "int8")


def test_blocks_that_do_not_divide_the_image_are_refused():
    with pytest.raises(kq.UnsupportedLayerError, match="'odd': blocks of 5×5"):
        kq.layers.QuantSpaceToDepth(5, name="odd")(keras.Input((12, 12, 6)))
