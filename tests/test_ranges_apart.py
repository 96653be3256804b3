"""Concatenations of tensors with ranges far apart."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops

import keras_quant as kq
from tests.helpers import images, shake, ship, slow

L = keras.layers
SHAPE = (8, 8, 3)


def _parts(pixels):
    """Boxes of up to so many pixels, and scores from 0 to 1."""
    inputs = keras.Input(SHAPE)
    x = L.Conv2D(6, 3, strides=2, padding="same", activation="relu")(inputs)
    boxes = L.Reshape((16, 4))(L.Conv2D(4, 1, activation="sigmoid")(x) * float(pixels))
    scores = L.Reshape((16, 3))(L.Conv2D(3, 1, activation="sigmoid")(x))
    return inputs, boxes, scores


def _plain(pixels):
    inputs, boxes, scores = _parts(pixels)
    return keras.Model(inputs, L.Concatenate(name="predictions")([boxes, scores]))


def _moved_and_joined(pixels):
    """A concatenation in a concatenation, moved on its way out, by layers and by operations."""
    inputs, boxes, scores = _parts(pixels)
    inner = ops.concatenate([boxes, scores], -1)
    outer = L.Concatenate(axis=1)([inner, ops.concatenate([boxes * 0.5, scores], -1)])
    outer = ops.reshape(L.Permute((2, 1))(outer), (-1, 7, 2, 16))
    return keras.Model(inputs, [ops.transpose(outer, (0, 3, 2, 1)), L.Flatten()(scores)])


def _inside(pixels):
    inputs, boxes, scores = _parts(pixels)
    joined = L.Concatenate(name="joined")([boxes, scores])
    return keras.Model(inputs, L.Dense(2, name="head")(joined))


def _decibels(wanted, got):
    return 10 * np.log10(np.sum(np.square(wanted)) / np.sum(np.square(wanted - got)))


@pytest.mark.parametrize("build", [_plain, slow(_moved_and_joined)])
@pytest.mark.parametrize("pixels", [slow(64), 640])
def test_at_the_end_each_part_keeps_its_grid(build, pixels, tmp_path):
    model, x = shake(build(pixels)), images(shape=SHAPE)
    with warnings.catch_warnings():
        warnings.simplefilter("error", kq.RangesApartWarning)
        qmodel = kq.quantize(model, "int8", x)
    report, _ = ship(qmodel, tmp_path, x)
    floats = [operator.name for operator in report.operators if operator.is_float]
    assert "CONCATENATION" in floats and not set(floats) & {"CONV_2D", "LOGISTIC", "MUL"}
    wanted, got = (keras.tree.flatten(m.predict(x, verbose=0))[0] for m in (model, qmodel))
    if build is _plain:
        assert _decibels(wanted[..., 4:], got[..., 4:]) > 30
    loaded = tmp_path / "q.keras"
    qmodel.save(loaded)
    again = keras.models.load_model(loaded)
    np.testing.assert_array_equal(keras.tree.flatten(again.predict(x, verbose=0))[0], got)


def test_parts_alike_stay_integers(tmp_path):
    qmodel = kq.quantize(shake(_plain(8)), "int8", images(shape=SHAPE))
    report, _ = ship(qmodel, tmp_path, images(shape=SHAPE))
    assert not any(operator.is_float for operator in report.operators)


def test_elsewhere_calibrate_warns_until_the_parts_are_alike(tmp_path):
    x = images(shape=SHAPE)
    with pytest.warns(kq.RangesApartWarning, match="'joined' joins ranges far apart.* has [1-8] of 255 steps") as caught:
        kq.quantize(shake(_inside(64)), "int8", x)
    assert next(w for w in caught if w.category is kq.RangesApartWarning).filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error", kq.RangesApartWarning)
        qmodel = kq.quantize(shake(_inside(1)), "int8", x)
    ship(qmodel, tmp_path, x)


def test_a_map_that_names_integers_is_kept():
    with pytest.warns(kq.RangesApartWarning, match="'predictions'"):
        kq.quantize(shake(_plain(64)), kq.PolicyMap({"predictions": "int8"}), images(shape=SHAPE))
