"""Values close to zero and far away on one grid, masks of large negative numbers among them."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops

import keras_quant as kq
from tests.helpers import assert_near_float, ship

L = keras.layers
RNG = np.random.default_rng(0)
X, LEFT_OUT = RNG.normal(size=(32, 6, 8)).astype("float32"), RNG.random((32, 1, 6)) < 0.3


def attention(bias):
    """Attention with something added to its scores, made of an input."""
    x, mask = keras.Input((6, 8)), keras.Input((1, 6), name="mask")
    scores = ops.matmul(L.Dense(8)(x), ops.transpose(L.Dense(8)(x), (0, 2, 1))) + bias(mask)
    return keras.Model([x, mask], ops.matmul(L.Softmax()(scores), L.Dense(8)(x)))


def additive(fill):
    return [X, np.where(LEFT_OUT, fill, 0).astype("float32")]


@pytest.mark.parametrize("fill", [-1e9, -1e4, -1e3, np.finfo("float32").min])
def test_a_mask_of_large_numbers_from_outside_is_an_error_with_a_way_out(fill):
    with pytest.raises(kq.CalibrationError, match="Input 'mask' holds a mask of large negative .*zeros and ones"):
        kq.quantize(attention(lambda mask: mask), "int8", additive(fill))


def test_infinite_masks_name_the_way_out():
    with pytest.raises(kq.CalibrationError, match="'mask' holds .* infinite .*zeros and ones"):
        kq.quantize(attention(lambda mask: mask), "int8", additive(-np.inf))


@pytest.mark.parametrize(
    "bias, mask",
    [
        (lambda mask: (1 - mask) * -1e9, ~LEFT_OUT),
        (lambda mask: mask, np.where(LEFT_OUT, -30, 0)),
        (lambda mask: 4 * ops.exp(mask), np.where(LEFT_OUT, -1e9, 0)),
    ],
    ids=["zeros_and_ones", "clipped", "not_added"],
)
def test_the_ways_out_lead_out(bias, mask, tmp_path):
    model, data = attention(bias), [X, mask.astype("float32")]
    with warnings.catch_warnings():
        warnings.simplefilter("error", kq.RangesApartWarning)
        qmodel = kq.quantize(model, "int8", data)
    ship(qmodel, tmp_path, data)
    assert_near_float(model, qmodel, data, 20)


def test_marks_of_missing_values_are_a_warning():
    features, x = np.where(RNG.random((32, 6)) < 0.2, -9999, X[:, :, 0]), keras.Input((6,), name="features")
    model = keras.Model(x, L.Dense(3)(x))
    with pytest.warns(kq.RangesApartWarning, match="'features' has values close to zero and others far away, from -9999"):
        kq.quantize(model, "int8", features)
    for quiet in (features > 0) * 255.0, X[:, :, 0] * 1e5, np.abs(features) ** 0.25:
        with warnings.catch_warnings():
            warnings.simplefilter("error", kq.RangesApartWarning)
            kq.quantize(model, "int8", quiet)
