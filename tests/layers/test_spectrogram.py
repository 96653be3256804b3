"""Spectrograms compute in float by themselves, and all behind them in integers again."""

import keras
import numpy as np
import pytest

import keras_quant as kq
from tests.helpers import few, ship

L = keras.layers
pytestmark = pytest.mark.skipif(not hasattr(L, "STFTSpectrogram"), reason="this Keras has no spectrograms")
LENGTH = 1003
OPTIONS = {"sampling_rate": 4000, "num_mel_bins": 16}


def sounds(count, shape):
    """A tone each, with a little noise."""
    rng = np.random.default_rng(0)
    tones = np.sin(np.outer(rng.uniform(0.02, 1.2, count), np.arange(shape[0])))
    return (tones.reshape(count, shape[0], *[1] * (len(shape) - 1)) + rng.normal(0, 0.02, (count, *shape))).astype("float32")


def quantized(layers, shape):
    model = keras.Sequential([keras.Input(shape), *layers])
    return model, kq.quantize(model, "int8", sounds(8, shape))


STFT = {
    mode: {"mode": mode, "frame_length": 64, "frame_step": 24, "fft_length": 128, "padding": "same", "window": "hamming"}
    for mode in ("log", "magnitude", "psd", "real", "imag", "angle", "stft")
}


@pytest.mark.parametrize("mode", few(STFT, "log"))
def test_stft_spectrogram(mode, tmp_path):
    layers = L.STFTSpectrogram(**STFT[mode], expand_dims=True), L.Conv2D(4, 3, 2, activation="relu", name="conv")
    _, qmodel = quantized(layers, (400, 2))
    report, _ = ship(qmodel, tmp_path, sounds(6, (400, 2)))
    assert not [op.name for op in report.float_operators if op.layer.startswith("conv")]
    assert report.operators[-1].name == "CONV_2D"


MEL = {
    "decibels": {"fft_length": 128, "sequence_stride": 64, "top_db": 30.0},
    "power": {"fft_length": 128, "sequence_stride": 50, "sequence_length": 100, "power_to_db": False, "window": "hamming"},
    "magnitude": {"fft_length": 128, "sequence_stride": 50, "mag_exp": 1.0, "ref_power": 3.0},
    "exponent": {"fft_length": 128, "sequence_stride": 50, "mag_exp": 1.5},
}


@pytest.mark.parametrize("name", few(MEL, "decibels"))
def test_mel_spectrogram(name, tmp_path):
    _, qmodel = quantized([L.MelSpectrogram(**MEL[name], **OPTIONS), L.Dense(4)], (LENGTH,))
    ship(qmodel, tmp_path, sounds(6, (LENGTH,)))


def test_a_mel_spectrogram_is_that_of_keras_for_each_sample():
    options = {**MEL["decibels"], **OPTIONS}
    x = sounds(4, (LENGTH,)) * np.array([[1.0], [0.1], [0.01], [1e-3]], "float32")
    _, qmodel = quantized([L.MelSpectrogram(**options)], (LENGTH,))
    alone = [L.MelSpectrogram(**options)(sample[None])[0] for sample in x]
    np.testing.assert_allclose(qmodel.predict(x, verbose=0), np.stack(alone), atol=1e-2)


@pytest.mark.slow
def test_a_mel_spectrogram_is_saved_and_exported_as_onnx(tmp_path):
    _, qmodel = quantized([L.MelSpectrogram(**MEL["decibels"], **OPTIONS), L.Dense(4)], (LENGTH,))
    x = sounds(6, (LENGTH,))
    qmodel.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), qmodel.predict(x, verbose=0))
    kq.export(loaded, tmp_path / "m.onnx")
    assert kq.verify(loaded, tmp_path / "m.onnx", x, verbose=0).equal


def test_a_map_may_name_another_policy():
    model = keras.Sequential([keras.Input((400, 1)), L.STFTSpectrogram("log", 64, 32, name="sound"), L.Dense(3)])
    with pytest.raises(kq.UnsupportedLayerError, match="'sound'.*no quantized form"):
        kq.quantize(model, kq.PolicyMap({"sound": "int8"}))
