"""Recurrent models as keras.io's examples and people write them are exact, before training and after it."""

import keras
import numpy as np
import pytest

import keras_quant as kq
from tests import recurrent_guides  # noqa: F401
from tests.helpers import few, shake, ship
from tests.recurrent_models import MODELS

FAST = "cell_written_by_hand", "traffic_in_tensorflow", "translation_decoder", "weather"


@pytest.mark.parametrize("name", few(MODELS, *FAST))
def test_model_ships(name, tmp_path):
    keras.utils.set_random_seed(0)
    model, data = MODELS[name]()
    shake(model)
    qmodel = kq.quantize(model, "int8", data)
    ship(qmodel, tmp_path, data)
    # Not by `predict`, which `ship` compares and would trace once more.
    floats, ours = (keras.tree.flatten(m(data, training=False)) for m in (model, qmodel))
    for wanted, got in zip(floats, ours):
        assert wanted.shape == got.shape
        assert np.corrcoef(np.ravel(wanted), np.ravel(got))[0, 1] > 0.9
    qmodel.compile("adam", "mse")
    targets = [np.zeros_like(values) for values in ours]
    qmodel.fit(data, targets if len(targets) > 1 else targets[0], verbose=0)
    ship(qmodel, tmp_path, data)
