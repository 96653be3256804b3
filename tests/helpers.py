"""Small models and the whole road in one line."""

import keras
import numpy as np
import pytest

import keras_quant as kq

SHAPE = (12, 12, 6)


def slow(*values):
    """A case of a parametrized test for the slow suite."""
    return pytest.param(*values, marks=pytest.mark.slow)


def few(cases, *fast):
    """The cases of a parametrized test, all but those in `fast` for the slow suite."""
    assert set(fast) <= set(cases)
    return [case if case in fast else slow(case) for case in cases]


def images(count=32, shape=SHAPE, seed=1):
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype("float32")


def sequential(*layers, shape=SHAPE):
    return keras.Sequential([keras.Input(shape), *layers])


def functional(build, shape=SHAPE):
    x = keras.Input(shape)
    return keras.Model(x, build(x))


def shake(model, seed=2):
    """Weights and batch statistics as training leaves them: none at their initial zero or one, some gains negative."""
    rng = np.random.default_rng(seed)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            count = layer.moving_mean.shape
            layer.moving_mean.assign(rng.normal(0, 0.5, count))
            layer.moving_variance.assign(rng.uniform(0.5, 2, count))
            if layer.scale:
                layer.gamma.assign(rng.uniform(0.5, 1.5, count) * rng.choice([1, 1, -1], count))
            if layer.center:
                layer.beta.assign(rng.normal(0, 0.3, count))
        elif getattr(layer, "bias", None) is not None:
            layer.bias.assign(rng.normal(0, 0.2, layer.bias.shape))
    return model


def ship(qmodel, folder, x, **options):
    """Export and compare with the runtime, tensors inside included.

    Returns the export's and the comparison's reports.
    """
    path = folder / "model.tflite"
    report = kq.export(qmodel, path, **options)
    parity = kq.verify(qmodel, path, x, intermediates=True, verbose=0)
    assert parity.elements > 0
    assert parity.equal, [t for t in (*parity.outputs, *parity.intermediates) if t.mismatches]
    return report, parity


def quantize_and_ship(model, folder, x=None, near_float=True, **options):
    """Quantize a float model, calibrate, export, compare; returns the quantized model and the export's report."""
    x = images(shape=model.input_shape[1:]) if x is None else x
    qmodel = kq.quantize(shake(model), "int8", x)
    report, _ = ship(qmodel, folder, x, **options)
    if near_float:
        assert_near_float(model, qmodel, x)
    return qmodel, report


def assert_near_float(model, qmodel, x, decibels=15):
    """Exact or not, it has to be the same function: the signal is well above the quantization noise."""
    for wanted, got in zip(keras.tree.flatten(model(x, training=False)), keras.tree.flatten(qmodel(x, training=False))):
        assert signal_to_noise(wanted, got) >= decibels, f"{signal_to_noise(wanted, got):.1f} dB"


def signal_to_noise(wanted, got):
    """In dB."""
    wanted, got = np.asarray(wanted, "float64"), np.asarray(got, "float64")
    noise = np.sum((wanted - got) ** 2)
    return 10 * np.log10(np.sum(wanted**2) / noise) if noise else np.inf
