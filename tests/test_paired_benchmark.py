"""`benchmarks/paired.py`: held-out images are in no draw, and McNemar's test counts each image once."""

import pathlib
import sys

import keras
import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "benchmarks"))

import paired

L = keras.layers


def test_no_draw_holds_what_is_held_out(monkeypatch):
    monkeypatch.setattr(paired, "HELD_OUT", 30)
    drawn, held_out = paired.draws(4, 10, 100)
    assert len(set(held_out)) == 30 and not set(held_out) & set(np.concatenate(drawn))
    # As `accuracy.measure` draws them.
    np.testing.assert_array_equal(drawn[3], np.random.default_rng(3).choice(100, 10, replace=False))


def test_images_that_both_get_right_say_nothing():
    ours, theirs = np.array([3, 2, 0, 1, 1, 1]), np.array([3, 0, 1, 0, 0, 0])
    # Four to one, or one to four, by throws of a coin.
    assert paired.paired(ours, theirs) == (4, 1, pytest.approx(12 / 32))
    assert paired.paired(ours, ours) == (0, 0, 1.0)


def test_the_network_up_to_its_logits_has_the_same_weights():
    model = keras.Sequential([keras.Input((4,)), L.Dense(3, activation="softmax")])
    cut = paired.without_softmax(model)
    x = np.random.default_rng(0).standard_normal((5, 4)).astype("float32")
    np.testing.assert_allclose(keras.ops.softmax(cut(x)), model(x), rtol=1e-5)
    assert paired.without_softmax(cut) is cut
