"""Weights that oscillate are found as the paper says, and once frozen keep their integers."""

import keras
import numpy as np
import pytest

import keras_quant as kq
from keras_quant.callbacks.freeze_oscillating import _Kernel
from tests.callbacks.models import FEW_BITS, Each, Q, by_hand, compiled, exact, fit, float_model, quantized
from tests.helpers import few, ship

FreezeOscillating = kq.callbacks.FreezeOscillating


KERNELS = {
    "abs_max": "abs_max",
    "lsq": "lsq",
    "learned_clipping": "learned_clipping",
    "mse": "mse",
    "tensor": kq.quantizers.AbsMax(granularity="tensor"),
    "power of two": kq.quantizers.KernelLSQ(power_of_two=True),
}


def dense(integers, scale=0.1):
    """A layer whose weights have these integers, with a scale that is theirs alone to say."""
    layer = Q.QuantDense(integers.shape[1], kernel_quantizer=kq.quantizers.KernelLSQ(4))
    layer(np.zeros((1, len(integers)), "float32"))
    layer.kernel_quantizer.reach.assign(np.full(integers.shape[1], 7 * scale))
    layer.kernel.assign(integers * scale)
    return layer


@pytest.mark.lowest
def test_counting_is_the_papers():
    random, momentum, threshold = np.random.default_rng(0), 0.1, 0.35
    # Some weights change often, some hardly ever.
    rates = np.linspace(0, 0.6, 30).reshape(6, 5)
    steps = random.integers(-2, 3, (6, 5)) + (random.random((60, 6, 5)) < rates) * random.integers(-1, 3, (60, 6, 5))
    layer = dense(steps[0])
    kernel = _Kernel(layer, momentum)
    kernel.begin()
    integers, direction = steps[0].astype(float), np.zeros((6, 5))
    frequency, mean, frozen = np.zeros((6, 5)), steps[0].astype(float), {}
    for step in steps[1:]:
        layer.kernel.assign(step * 0.1)
        kernel.update(threshold)
        for place in np.ndindex(6, 5):
            now = frozen.get(place, step[place])
            change = np.sign(now - integers[place])
            oscillates = change * direction[place] < 0
            frequency[place] += momentum * (oscillates - frequency[place])
            mean[place] += momentum * (now - mean[place])
            direction[place] = change or direction[place]
            if frequency[place] > threshold:
                frozen.setdefault(place, float(np.rint(np.float32(mean[place]))))
            integers[place] = frozen.get(place, now)
        np.testing.assert_array_equal(layer.kernel_quantizer.integers(layer.kernel, (0,)), integers)
        np.testing.assert_allclose(kernel.frequency, frequency, atol=1e-5)
    assert 5 < len(frozen) == kernel.count() < 30


@pytest.mark.parametrize("name", few(KERNELS, "lsq"))
def test_frozen_integers_survive_a_large_learning_rate(name, tmp_path):
    qmodel = quantized(kq.Policy("int4", "int8", kernel_quantizer=KERNELS[name]), optimizer=keras.optimizers.SGD(0.3))
    freeze = FreezeOscillating(0.1, momentum=0.3)
    fit(qmodel, [freeze], epochs=6)
    layers = [qmodel.get_layer(name) for name in ("conv", "classes")]
    integers = lambda: [np.array(x.kernel_quantizer.integers(x.kernel, x.kernel_axes)) for x in layers]
    masks, before = [np.array(x.kernel_quantizer.held.held) for x in layers], integers()
    assert sum(mask.sum() for mask in masks) == sum(freeze.frozen.values()) > 5
    freeze.threshold = freeze.final_threshold = 1.0
    qmodel.optimizer.learning_rate = 1.0
    each = Each(integers, steps=True)
    fit(qmodel, [freeze, each], epochs=13)
    assert len(each.seen) == 52
    for seen in each.seen:
        for mask, now, then in zip(masks, seen, before):
            np.testing.assert_array_equal(now[mask], then[mask])
    assert any(np.any(now[~mask] != then[~mask]) for mask, now, then in zip(masks, each.seen[-1], before))
    assert all(np.array_equal(mask, x.kernel_quantizer.held.held) for mask, x in zip(masks, layers))
    ship(qmodel, tmp_path, np.array(kq.data.BATCH_SIZE * [np.ones((8, 8, 4), "float32")]))


def test_the_largest_weight_stays_free_where_it_is_the_measure():
    qmodel = quantized("int4", optimizer=keras.optimizers.SGD(0.3))
    fit(qmodel, [FreezeOscillating(0.01, momentum=0.5)], epochs=10)
    layer = qmodel.get_layer("classes")
    free = np.array(layer.kernel) * ~np.array(layer.kernel_quantizer.held.held)
    np.testing.assert_allclose(np.abs(free).max(0), np.abs(layer.kernel).max(0), rtol=1e-6)


def test_the_logs_say_how_many(tmp_path):
    model = by_hand()
    model.optimizer = keras.optimizers.Adam(0.03)
    freeze = FreezeOscillating(0.1, momentum=0.2)
    history = fit(compiled(model, keras.optimizers.Adam(0.03)), [freeze], epochs=6, validation_split=0.25)
    counts = history["frozen_weights"]
    assert counts == sorted(counts) and counts[-1] == sum(freeze.frozen.values()) > 0
    assert set(freeze.frozen) == {layer.path for layer in (model.conv, model.dense)}
    ship(model, tmp_path, np.ones((4, 8, 8, 4), "float32"))


def test_the_threshold_falls_along_half_a_cosine():
    freeze = FreezeOscillating(0.04, 0.02)
    seen = Each(freeze._threshold_now, steps=True)
    fit(quantized(), [freeze, seen], epochs=2)
    np.testing.assert_allclose(seen.seen, 0.03 + 0.01 * np.cos(np.pi * np.arange(8) / 8), rtol=1e-6)


@pytest.mark.slow
def test_weights_stay_frozen_in_the_next_fit_and_a_new_width_frees_them(tmp_path):
    qmodel = quantized(FEW_BITS, optimizer=keras.optimizers.SGD(0.3))
    freeze = FreezeOscillating(0.1, momentum=0.3)
    first = fit(qmodel, [freeze], epochs=5)["frozen_weights"][-1]
    freeze.threshold = freeze.final_threshold = 1.0
    assert fit(qmodel, [freeze])["frozen_weights"] == [first] and first > 0
    assert fit(qmodel, [kq.callbacks.Schedule(weight_bits={0: 8, 1: None}), freeze], epochs=2)["frozen_weights"] == [0, 0]
    exact(qmodel, tmp_path)


def test_nothing_is_counted_before_start_at_or_rounding():
    for callbacks in ([FreezeOscillating(0.001, momentum=1.0, start_at=9)],
                      [kq.callbacks.Schedule(quantize_at=9), FreezeOscillating(0.001, momentum=1.0)]):  # fmt: skip
        qmodel = quantized("int4", optimizer=keras.optimizers.SGD(0.5))
        assert fit(qmodel, callbacks, epochs=3)["frozen_weights"] == [0, 0, 0]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"threshold": 0}, "between 0 and 1"),
        ({"momentum": 1.5}, "between 0 and 1"),
        ({"threshold": 0.01, "final_threshold": 0.02}, "does not rise"),
    ],
)
def test_nonsense_is_refused(arguments, message):
    with pytest.raises(kq.QuantizationError, match=message):
        FreezeOscillating(**arguments)


def test_steps_that_cannot_be_told_apart_are_refused():
    with pytest.raises(kq.QuantizationError, match="steps_per_execution=1"):
        fit(quantized(steps_per_execution=2), [FreezeOscillating()])
    with pytest.raises(kq.QuantizationError, match="keras_quant.quantize"):
        fit(compiled(float_model()), [FreezeOscillating()])
