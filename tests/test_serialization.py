"""Every registered class but the layers (`tests/layers`): quantizers, range methods, post-training methods, constraints."""

import json

import keras
import numpy as np
import pytest

import keras_quant as kq
from keras_quant import quantizers

WEIGHTS = {"bits": 4, "granularity": "group", "group_size": 64, "power_of_two": True, "rounding": "stochastic", "seed": 3}
OUTPUTS = {"bits": 5, "symmetric": True, "narrow": True, "power_of_two": True, "rounding": "stochastic", "seed": 3}
LEARNED = {**OUTPUTS, "scale_gradient": False, "regularizer": keras.regularizers.L2(0.5)}
CODEBOOK = {"bits": 3, "seed": 3}
# Of each class every argument, at another value than its default.
ARGUMENTS = {
    "AbsMax": WEIGHTS,
    "AdaRound": {
        "iterations": 7,
        "batch_size": 9,
        "learning_rate": 0.5,
        "regularization": 2.0,
        "places": 100,
        "seed": 3,
    },
    "AtMostZero": {},
    "BatchNormReestimation": {},
    "BiasCorrection": {},
    "ClippedAbsMax": {**WEIGHTS, "method": quantizers.Percentile(99.0)},
    "CrossLayerEqualization": {"strengths": (0.5,), "places": 100, "seed": 3},
    "Entropy": {},
    "FixedGrid": {"scale": 0.5, "zero_point": 3},
    "FixedRange": {**OUTPUTS, "low": -1.0, "high": 1.0},
    "GPTQ": {"damping": 0.5, "places": 100, "seed": 3},
    "KMeans": CODEBOOK,
    "KernelLSQ": WEIGHTS,
    "LSQ": LEARNED,
    "LSQPlus": {**LEARNED, "symmetric": False},
    "LearnedClipping": WEIGHTS,
    "LearnedCodebook": CODEBOOK,
    "LeastSquares": {},
    "LookUp": {"levels": [-0.5, 0.0, 0.25, 1.0]},
    "MeanStd": {"k": 3.0},
    "MinMax": {},
    "MovingAverage": {**OUTPUTS, "momentum": 0.5},
    "MovingMinMax": {"momentum": 0.5},
    "PACT": {key: value for key, value in LEARNED.items() if key != "scale_gradient"},
    "Percentile": {"percentile": 99.0},
    "PositiveScale": {},
    "PowersOfTwo": CODEBOOK,
    "ProductCodebook": {**CODEBOOK, "length": 4},
    "Quantile": CODEBOOK,
    "StateRange": {"momentum": 0.5},
    "Symmetric": {**OUTPUTS, "momentum": 0.5},
    "Symmetric16": {"momentum": 0.5},
    "TableQuantizer": {**{k: v for k, v in OUTPUTS.items() if k != "narrow"}, "momentum": 0.5, "granularity": "row"},
    "Truncation": {"high": 2.0, "low": -1.0},
}
# Of every Keras layer, and what a class fixes.
OF_KERAS = {"name", "trainable", "dtype"}
FIXED = {
    "LookUp": {"bits", "seed"},
    "LSQPlus": {"symmetric"},
    "Symmetric": {"symmetric"},
    "TableQuantizer": {"symmetric", "narrow"},
    "Symmetric16": set(OUTPUTS),
}
# Tested with the models they are made of (`test_distill.py`).
ELSEWHERE = {"Distiller", "QuantizedModel"}


def registered():
    """The classes that Keras can load, by name."""
    known = keras.saving.get_custom_objects().items()
    own = {key.split(">")[1]: cls for key, cls in known if key.startswith("keras_quant>")}
    return {name: cls for name, cls in own.items() if not cls.__module__.startswith("keras_quant.layers")}


def test_every_registered_class_is_here():
    assert set(ARGUMENTS) | ELSEWHERE == set(registered())


@pytest.mark.lowest
@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_object_goes_to_json_and_back(name):
    cls, arguments = registered()[name], ARGUMENTS[name]
    made = cls(**arguments)
    config = keras.saving.serialize_keras_object(made)
    again = keras.saving.deserialize_keras_object(json.loads(json.dumps(config)))
    assert type(again) is cls
    assert plain(again.get_config()) == plain(made.get_config())
    assert plain({key: made.get_config()[key] for key in arguments}) == plain(arguments)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_no_argument_is_lost_and_none_is_left_out_here(name):
    cls, arguments = registered()[name], ARGUMENTS[name]
    config, default = cls(**arguments).get_config(), cls().get_config()
    assert set(config) - OF_KERAS - FIXED.get(name, set()) <= set(arguments)
    for key in set(arguments) - FIXED.get(name, set()):
        assert plain(config[key]) != plain(default[key]), key


@pytest.mark.parametrize("get", [quantizers.get, quantizers.ranges.get, kq.posttraining.get])
def test_what_is_got_by_name_config_or_object_is_the_same(get):
    names = {quantizers.get: "lsq", quantizers.ranges.get: "percentile", kq.posttraining.get: "gptq"}
    made = get(names[get])
    again = get(json.loads(json.dumps(keras.saving.serialize_keras_object(made))))
    assert get(made) is made and type(again) is type(made) and plain(again.get_config()) == plain(made.get_config())


def plain(value):
    """A config that can be compared: objects as their configs, sequences as lists."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(entry) for entry in value]
    return plain(keras.saving.serialize_keras_object(value)) if hasattr(value, "get_config") else value
