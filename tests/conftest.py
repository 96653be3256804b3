import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import pytest
from hypothesis import settings

import keras_quant  # noqa: F401

# `quantize` and `calibrate` collect garbage, each time among all that TensorFlow's import and former tests have left, unless
# that is set aside.
gc.freeze()
gc.set_threshold(20_000, 20, 20)

# The same examples each time: a failure here is a failure everywhere.
settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=False)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def shipped_networks(tmp_path_factory):
    """Of every network in `layers/test_shipping`: the quantized model, its file, its inputs."""
    from tests.runtimes.shipped import ship_all

    return ship_all(tmp_path_factory.mktemp("networks"))


@pytest.fixture(autouse=True, scope="module")
def _former_modules_set_aside():
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeds():
    keras.utils.set_random_seed(0)
