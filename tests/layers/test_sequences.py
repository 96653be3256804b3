"""Layers of sequences: they train, save, load, and say what they refuse."""

import keras
import numpy as np
import pytest

import keras_quant as kq
from tests.helpers import images, sequential, shake, ship

L = keras.layers


def network():
    return sequential(
        L.Conv1D(8, 3, padding="causal", dilation_rate=2, use_bias=False, name="causal"),
        L.BatchNormalization(),
        L.ReLU(),
        L.MaxPooling1D(2),
        L.SeparableConv1D(8, 3, padding="same"),
        L.BatchNormalization(),
        L.UpSampling1D(2),
        L.Conv1DTranspose(6, 3, strides=2),
        L.ZeroPadding1D(1),
        L.DepthwiseConv1D(3),
        L.Cropping1D(2),
        L.AveragePooling1D(2),
        L.GlobalAveragePooling1D(),
        L.Dense(3),
        shape=(24, 6),
    )


@pytest.mark.slow
def test_sequences_train_save_load_and_ship(tmp_path):
    x, y = images(shape=(24, 6)), np.arange(32) % 3
    qmodel = kq.quantize(shake(network()), "int8", x)
    qmodel.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = [np.array(v) for v in qmodel.trainable_variables]
    qmodel.fit(x, y, epochs=1, verbose=0)
    assert all(np.any(v != old) for v, old in zip(qmodel.trainable_variables, before))
    qmodel.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), qmodel.predict(x, verbose=0))
    ship(again, tmp_path, x)


def test_weights_keep_their_names_and_shapes():
    model = network()
    qmodel = kq.quantize(model, "int8", images(shape=(24, 6)))
    kernel, own = model.get_layer("causal").kernel, qmodel.get_layer("causal").kernel
    assert own.name == kernel.name
    np.testing.assert_array_equal(own, kernel)


def test_batch_norm_joins_the_convolution_before_it():
    qmodel = kq.quantize(network(), "int8", images(shape=(24, 6)))
    assert qmodel.get_layer("causal").batch_norm is not None
    assert not any(isinstance(layer, kq.layers.QuantBatchNormalization) for layer in qmodel.layers)


def test_batch_stays_open(tmp_path):
    model = sequential(L.Conv1D(4, 3, padding="causal"), L.MaxPooling1D(2), shape=(24, 6))
    x = images(7, shape=(24, 6))
    ship(kq.quantize(model, "int8", x), tmp_path, x, batch_size=None)


@pytest.mark.parametrize("layer", [L.Conv1D, L.MaxPooling1D, L.ZeroPadding1D])
def test_channels_first_is_refused(layer):
    arguments = (4, 3) if layer is L.Conv1D else ()
    model = sequential(layer(*arguments, data_format="channels_first", name="odd"), shape=(6, 24))
    with pytest.raises(kq.UnsupportedLayerError, match="'odd' has `data_format='channels_first'`"):
        kq.quantize(model, "int8")
