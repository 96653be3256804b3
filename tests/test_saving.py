import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_quant as kq
from tests.helpers import functional, images, shake

L = keras.layers
X, Y = images(64), np.random.default_rng(0).integers(0, 3, 64)


def network(x):
    """Everything whose state or structure a file could lose: fused normalization, ties, composites, partial sums."""
    a = L.ReLU(6.0)(L.BatchNormalization()(L.Conv2D(6, 3, padding="same")(x)))
    b = L.SeparableConv2D(6, 3, padding="same", activation="silu")(x)
    joined = L.Concatenate()([L.Add()([a, b, x]), L.Activation("sigmoid")(a), L.MaxPooling2D(3, 1, padding="same")(b)])
    y = L.BatchNormalization()(L.Dropout(0.2)(joined))
    return L.Dense(3, activation="softmax")(L.GlobalAveragePooling2D()(y))


@pytest.fixture
def qmodel():
    return kq.quantize(shake(functional(network)), "int8", X)


def predictions(model):
    return model.predict(X, verbose=0)


@pytest.mark.lowest
def test_a_saved_model_loads_in_safe_mode_with_the_same_outputs(qmodel, tmp_path):
    qmodel.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras", safe_mode=True)
    np.testing.assert_array_equal(predictions(loaded), predictions(qmodel))
    kq.export(qmodel, tmp_path / "a.tflite")
    kq.export(loaded, tmp_path / "b.tflite")
    assert (tmp_path / "a.tflite").read_bytes() == (tmp_path / "b.tflite").read_bytes()


def test_a_fresh_process_loads_with_no_more_than_an_import(qmodel, tmp_path):
    qmodel.save(tmp_path / "m.keras")
    np.save(tmp_path / "x.npy", X)
    code = (
        "import keras, keras_quant, numpy as np\n"
        f"m = keras.models.load_model(r'{tmp_path}/m.keras')\n"
        f"np.save(r'{tmp_path}/y.npy', m.predict(np.load(r'{tmp_path}/x.npy'), verbose=0))\n"
    )
    root = pathlib.Path(kq.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=root)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), predictions(qmodel))


def test_clone_and_config_round_trips_keep_the_outputs(qmodel):
    clone = keras.models.clone_model(qmodel)
    again = keras.Model.from_config(qmodel.get_config())
    for copy in (clone, again):
        copy.set_weights(qmodel.get_weights())
        np.testing.assert_array_equal(predictions(copy), predictions(qmodel))


def test_a_checkpoint_mid_fit_resumes(qmodel, tmp_path):
    def compiled(model):
        model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
        return model

    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    compiled(qmodel).fit(X, Y, epochs=2, verbose=0, shuffle=False, callbacks=[checkpoint])
    resumed = keras.models.load_model(tmp_path / "1.keras")
    assert resumed.optimizer.iterations == 2
    resumed.fit(X, Y, initial_epoch=1, epochs=2, verbose=0, shuffle=False)
    for ours, theirs in zip(resumed.get_weights(), qmodel.get_weights()):
        assert ours.shape == theirs.shape
    last = keras.models.load_model(tmp_path / "2.keras")
    np.testing.assert_array_equal(predictions(last), predictions(qmodel))


def test_weights_alone_can_be_saved_and_loaded(qmodel, tmp_path):
    qmodel.save_weights(tmp_path / "m.weights.h5")
    fresh = kq.quantize(functional(network))
    fresh.load_weights(tmp_path / "m.weights.h5")
    np.testing.assert_array_equal(predictions(fresh), predictions(qmodel))
