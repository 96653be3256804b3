"""Convolutions of few channels, several columns at a time."""

import keras
import pytest

import keras_quant as kq
from keras_quant.integer.axis import axis
from keras_quant.tflite import columns
from keras_quant.tflite.columns import outputs_of_block
from tests.helpers import images, sequential, shake, ship

L = keras.layers


def kernels_of(report):
    return [t.shape for t in report.tensors if t.name.endswith("/kernel")]


@pytest.mark.parametrize(
    "shape, layer, kernel",
    [
        ((8, 12, 3), lambda: L.Conv2D(5, 3, padding="same", activation="relu"), (10, 3, 2, 6)),
        ((9, 12, 3), lambda: L.Conv2D(8, 3, 2, padding="same"), (16, 3, 2, 12)),
        ((9, 14, 1), lambda: L.Conv2D(8, (2, 3)), (16, 2, 2, 2)),
        ((9, 13, 1), lambda: L.Conv2D(8, (1, 7), (2, 3), padding="same"), (8, 1, 3, 3)),
        ((8, 11, 3), lambda: L.Conv2D(16, 3, padding="same"), (16, 3, 3, 3)),  # 11 outputs are no pairs
        ((8, 12, 3), lambda: L.Conv2D(16, 3, padding="same", dilation_rate=2), (16, 3, 3, 3)),
        ((8, 12, 16), lambda: L.Conv2D(16, 3, padding="same"), (16, 3, 3, 16)),
        ((32, 1), lambda: L.Conv1D(4, 9, padding="same"), (32, 1, 2, 8)),
        ((32, 2), lambda: L.Conv1D(4, 4, padding="causal"), (16, 1, 2, 8)),
        ((6, 8, 10, 1), lambda: L.Conv3D(4, 3, padding="same"), (8, 3, 2, 6)),
        ((7, 9, 8, 1), lambda: L.Conv3D(4, (2, 3, 3), (2, 1, 2), padding="valid"), (4, 3, 2, 4)),
    ],
)
def test_blocks_give_the_integers_of_the_layer(shape, layer, kernel, tmp_path, monkeypatch):
    monkeypatch.setattr(columns, "FEWEST_OUTPUTS", 0)
    x = images(shape=shape)
    qmodel = kq.quantize(shake(sequential(layer(), L.Conv2D(3, 1) if len(shape) == 3 else L.ReLU(), shape=shape)), "int8", x)
    report, _ = ship(qmodel, tmp_path, x)
    assert kernels_of(report)[0] == kernel


def test_blocks_are_chosen_where_they_spare_work():
    width = lambda **geometry: axis(*{"size": 32, "outputs": 32, "taps": 3, "stride": 1, "same": True, **geometry}.values())
    chosen = lambda channels, filters=32, **geometry: outputs_of_block(channels, filters, width(), width(**geometry))
    assert [chosen(channels) for channels in (1, 3, 8, 64)] == [2, 2, 0, 0]
    assert chosen(3, outputs=16, stride=2) == 1
    assert chosen(1, taps=1) == 0
    assert chosen(3, filters=7) == 0  # so few outputs that the operators around cost more
