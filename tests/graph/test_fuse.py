import keras
import pytest

import keras_quant as kq
from tests.helpers import functional, sequential

L = keras.layers


def names(model):
    """Layers of the quantized model, without input and its grid."""
    return [layer.name for layer in kq.quantize(model).layers][2:]


@pytest.mark.parametrize(
    "make",
    [
        lambda: L.Conv2D(4, 3, name="a"),
        lambda: L.DepthwiseConv2D(3, name="a"),
        lambda: L.SeparableConv2D(4, 3, name="a"),
        lambda: L.Conv2DTranspose(4, 3, name="a"),
        lambda: L.Dense(4, name="a"),
    ],
)
def test_normalization_and_relu_join_every_layer_with_a_kernel(make):
    assert names(sequential(make(), L.BatchNormalization(name="b"), L.ReLU(name="c"), L.Flatten(name="d"))) == ["a", "d"]


@pytest.mark.parametrize("relu", [L.ReLU(6.0), L.Activation("relu"), L.Activation("relu6"), L.ReLU()])
def test_clamping_activations_join_a_sum(relu):
    model = functional(lambda x: L.Flatten(name="end")(relu(L.Add(name="sum")([x, L.Conv2D(6, 1, name="conv")(x)]))))
    assert names(model) == ["conv", "sum", "end"]


def test_a_bound_that_no_kernel_knows_stays_a_layer():
    assert names(sequential(L.Conv2D(4, 3, name="a"), L.ReLU(3.0, name="b"))) == ["a", "b"]


def test_normalization_behind_an_activation_stays_a_layer():
    assert names(sequential(L.Conv2D(4, 3, activation="relu", name="a"), L.BatchNormalization(name="b"))) == ["a", "b"]


def test_nothing_joins_a_layer_that_two_read():
    def build(x):
        y = L.Conv2D(6, 1, name="conv")(x)
        return L.Add(name="sum")([L.BatchNormalization(name="bn")(y), y])

    assert names(functional(build)) == ["conv", "bn", "sum"]


def test_nothing_joins_a_layer_that_is_an_output():
    x = keras.Input((12, 12, 6))
    y = L.Conv2D(6, 1, name="conv")(x)
    assert names(keras.Model(x, [y, L.ReLU(name="relu")(y)])) == ["conv", "relu"]


def test_nothing_joins_a_layer_that_is_called_twice():
    conv = L.Conv2D(6, 1, name="conv")
    model = functional(lambda x: L.BatchNormalization(name="bn")(conv(conv(x))))
    assert names(model) == ["conv", "bn"]
