"""Models as people write them: quantized, calibrated, exported, and equal to the runtime in every tensor."""

import keras
import numpy as np
import pytest

import keras_quant as kq
from keras_quant.graph import trace
from tests import models_of_data  # noqa: F401
from tests.helpers import shake, ship
from tests.models import MODELS

L = keras.layers
SAMPLES = 24


def data_for(model, seed=1):
    """Inputs in the structure that the model takes."""
    graph, rng = trace(model), np.random.default_rng(seed)

    def values(spec):
        shape = (SAMPLES, *spec.shape[1:])
        return (
            rng.integers(0, 256, shape).astype(spec.dtype)
            if "int" in spec.dtype
            else rng.normal(0, 1, shape).astype("float32")
        )

    return keras.tree.pack_sequence_as(graph.input_structure, [values(spec) for spec in graph.inputs])


@pytest.mark.slow
@pytest.mark.parametrize("build", MODELS)
def test_model_ships(build, tmp_path):
    model = shake(build())
    x = data_for(model)
    qmodel = kq.quantize(model, "int8", x)
    report, parity = ship(qmodel, tmp_path, x)
    assert parity.intermediates and report.operators
    for ours, theirs in zip(*(keras.tree.flatten(m(x, training=False)) for m in (qmodel, model))):
        assert ours.shape == theirs.shape
        assert np.corrcoef(np.ravel(ours), np.ravel(theirs))[0, 1] > 0.8
    qmodel.save(tmp_path / "q.keras")
    kq.export(keras.models.load_model(tmp_path / "q.keras"), tmp_path / "loaded.tflite")
    assert (tmp_path / "loaded.tflite").read_bytes() == (tmp_path / "model.tflite").read_bytes()


def test_a_base_called_for_inference_keeps_its_statistics_and_drops_nothing():
    """As Keras's guide to transfer learning has it, fine-tuning included."""
    x = keras.Input((8, 8, 3))
    base = keras.Model(
        x, L.Dropout(0.5, name="drop")(L.BatchNormalization(name="norm")(L.Conv2D(4, 3, name="conv")(x))), name="base"
    )
    x = keras.Input((8, 8, 3))
    model = keras.Model(x, L.Dense(2)(L.Flatten()(base(x, training=False))))
    qmodel = kq.quantize(shake(model), "int8", np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype("float32"))
    conv = qmodel.get_layer("base.conv")
    assert isinstance(qmodel.get_layer("base.drop"), kq.layers.QuantIdentity)
    before = [np.array(v) for v in (conv.batch_norm.moving_mean, conv.kernel)]
    qmodel.compile("adam", "mse")
    qmodel.fit(np.ones((32, 8, 8, 3)), np.zeros((32, 2)), verbose=0)
    np.testing.assert_array_equal(before[0], conv.batch_norm.moving_mean)
    assert np.any(before[1] != conv.kernel)


def test_augmentation_acts_in_training_only():
    qmodel = kq.quantize(keras.Sequential([keras.Input((8, 8, 3)), L.RandomFlip("horizontal"), L.RandomContrast(0.5)]))
    x = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype("float32")
    kq.calibrate(qmodel, x, verbose=0)
    quantized = qmodel(x, training=False)
    assert np.abs(quantized - x).max() < 0.5
    assert np.abs(qmodel(x, training=True) - quantized).max() > 0.5


def test_an_integer_input_takes_what_predict_takes(tmp_path):
    model = keras.Sequential([keras.Input((4, 4, 1), dtype="uint8"), L.Conv2D(2, 3)])
    x = np.random.default_rng(0).uniform(0, 255, (32, 4, 4, 1)).astype("float32")
    qmodel = kq.quantize(model, "int8", x)
    ship(qmodel, tmp_path, x)
