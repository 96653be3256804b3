"""Models as people write them: quantized, calibrated, exported, and equal to the runtime in every tensor."""

import keras
import numpy as np
import pytest

import keras_quant as kq
from keras_quant.graph import trace
from tests.helpers import shake, ship
from tests.models import MODELS

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


@pytest.mark.parametrize("build", MODELS)
def test_model_ships(build, tmp_path):
    model = shake(build())
    x = data_for(model)
    qmodel = kq.quantize(model, "int8", x)
    report, parity = ship(qmodel, tmp_path, x)
    assert parity.intermediates and report.operators
    predicted = qmodel.predict(x, verbose=0)
    for ours, theirs in zip(*map(keras.tree.flatten, (predicted, model.predict(x, verbose=0)))):
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= 0.25 * np.abs(theirs).max()
    qmodel.save(tmp_path / "q.keras")
    loaded = keras.models.load_model(tmp_path / "q.keras")
    keras.tree.map_structure(np.testing.assert_array_equal, loaded.predict(x, verbose=0), predicted)
