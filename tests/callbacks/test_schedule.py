"""Phases of training: each does what it says, costs what it needs, and leaves an exact model."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_quant as kq
from keras_quant.callbacks.parts import quantizers_of
from keras_quant.quantizers import learned
from tests.callbacks.models import FEW_BITS, Each, L, Q, X, Y, by_hand, compiled, exact, fit, float_model, network, quantized
from tests.helpers import ship

Schedule = kq.callbacks.Schedule
DYNAMIC = kq.PolicyMap({"classes": "dynamic_int8"}, default="int8")


def in_phase(qmodel, **times):
    """The model, left in the phase of the first step, as an interrupted `fit` leaves it."""
    schedule = Schedule(**times)
    schedule.set_model(qmodel)
    schedule.set_params({"steps": 4, "epochs": 1})
    schedule.on_train_begin()
    schedule.on_epoch_begin(0)
    return schedule


@pytest.mark.lowest
@pytest.mark.parametrize("policy", ["int8", FEW_BITS, DYNAMIC], ids=["int8", "lsq", "dynamic"])
def test_before_quantize_at_training_is_that_of_the_float_model(policy):
    model = float_model(network)
    qmodel = quantized(policy, model=model)
    schedule = in_phase(qmodel, quantize_at=1)
    np.testing.assert_allclose(qmodel(X, training=True), model(X, training=True), rtol=1e-4, atol=1e-6)
    schedule.finish()
    assert np.abs(qmodel(X, training=True) - model(X, training=True)).max() > 1e-4


def test_a_float_warm_up_fits_as_the_float_model_does():
    model = compiled(float_model(), keras.optimizers.SGD(0.05))
    qmodel = quantized("int4", model=model, optimizer=keras.optimizers.SGD(0.05))
    theirs = fit(model, epochs=2, shuffle=False)["loss"]
    ours = fit(qmodel, [Schedule(quantize_at=2)], epochs=2, shuffle=False)["loss"]
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    np.testing.assert_allclose(qmodel.get_layer("conv").kernel, model.get_layer("conv").kernel, atol=1e-4)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: quantized(FEW_BITS), id="calibrated"),
        pytest.param(lambda: quantized(FEW_BITS, calibrate=False), id="not calibrated", marks=pytest.mark.slow),
        pytest.param(by_hand, id="by hand", marks=pytest.mark.slow),
    ],
)
def test_every_phase_is_exact_and_the_end_is_plain(make, tmp_path):
    qmodel = make()
    config = [quantizer.get_config() for quantizer in quantizers_of(qmodel)]
    trained = [variable.path for variable in qmodel.trainable_variables]
    subclassed = type(qmodel).__name__ == "ByHand"
    check = lambda: ship(qmodel, tmp_path, X[:16]) if subclassed else exact(qmodel, tmp_path)
    kernel = next(layer for layer in qmodel._flatten_layers() if layer.name == "conv").kernel_quantizer
    each = Each(lambda: (kernel.bits < 8 and check(), kernel.bits, len(qmodel.trainable_variables))[1:])
    schedule = Schedule(1, 2, 4, 4, weight_bits={1: 8, 2: 6, 3: None}, activation_bits={0: 8, 3: None})
    fit(qmodel, [schedule, each], epochs=5)
    widths, counts = zip(*each.seen)
    assert widths == (4, 8, 6, 4, 4)
    assert counts[0] == counts[1] == counts[4] < counts[2] == counts[3] == len(trained)
    assert [quantizer.get_config() for quantizer in quantizers_of(qmodel)] == config
    assert [variable.path for variable in qmodel.trainable_variables] == trained
    check()


@pytest.mark.slow
def test_a_model_saved_between_widths_is_the_model_it_was(tmp_path):
    qmodel = quantized(FEW_BITS)
    schedule = Schedule(weight_bits={0: 8, 1: None}, activation_bits={0: 6, 1: None})
    loaded = []
    keep = Each(lambda: loaded.append(exact(qmodel, tmp_path)))
    fit(qmodel, [schedule, keep], epochs=2)
    between, after = (model.get_layer("conv") for model in loaded)
    assert (between.kernel_quantizer.bits, between.output_quantizer.bits) == (8, 6)
    assert (between.kernel_quantizer.final_bits, between.output_quantizer.final_bits) == (4, 4)
    assert (after.kernel_quantizer.bits, after.output_quantizer.bits) == (4, 4)
    # Training goes on from the file.
    fit(compiled(loaded[0]), [schedule], epochs=3, initial_epoch=1)
    assert between.kernel_quantizer.bits == 4
    ship(loaded[0], tmp_path, X[:16])


def test_no_layer_becomes_narrower_than_its_policy():
    qmodel = quantized(kq.PolicyMap({"conv": "int4", "classes": "w6a8"}, default="int8"))
    each = Each(lambda: [qmodel.get_layer(name).kernel_quantizer.bits for name in ("conv", "classes")])
    fit(qmodel, [Schedule(weight_bits={0: 8, 1: 5, 2: None}), each], epochs=3)
    assert each.seen == [[8, 8], [5, 6], [4, 6]]


@pytest.mark.slow
def test_an_end_before_the_last_width_is_a_warning(tmp_path):
    qmodel = quantized("int4")
    with pytest.warns(UserWarning, match="from 8 to 4 bits untrained"):
        fit(qmodel, [Schedule(weight_bits={0: 8, 5: None})])
    assert qmodel.get_layer("conv").kernel_quantizer.bits == 4
    exact(qmodel, tmp_path)


@pytest.mark.lowest
def test_ranges_are_observed_then_learned_then_frozen():
    qmodel = quantized(FEW_BITS)
    quantizer, kernel = (getattr(qmodel.get_layer("conv"), f"{part}_quantizer") for part in ("output", "kernel"))
    values = Each(lambda: [quantizer.value.numpy(), kernel.reach.numpy().copy(), qmodel.get_layer("conv").kernel.numpy()])
    fit(qmodel, [Schedule(learn_ranges_at=1, freeze_ranges_at=2), values], epochs=3)
    (observed, first, weights), (learned_, second, _), (frozen, third, _) = values.seen
    assert observed != learned_ and learned_ == frozen
    assert np.any(first != second) and np.array_equal(second, third)
    # What is observed of a kernel are the weights before the last step, which moved them little.
    wide = np.abs(weights)
    expected = np.minimum(2 * wide.mean((0, 1, 2)) * np.sqrt(7), wide.max((0, 1, 2)))
    np.testing.assert_allclose(first, expected, rtol=0.1)


def test_an_observed_range_is_the_moving_average_of_first_values():
    quantizer = kq.quantizers.LSQ(bits=4)
    quantizer.set_phase(range_phase="observed")
    batches = [np.float32(X[i : i + 16] * (1 + i)) for i in (0, 16, 32)]
    expected = 0.0
    for batch in batches:
        quantizer.observe(tf.constant(batch))
        first = 2 * np.abs(batch).mean() * np.sqrt(7)
        expected = first if expected == 0 else 0.9 * expected + 0.1 * first
    assert float(quantizer.value) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("policy", ["int8", FEW_BITS], ids=["moving_average", "lsq"])
def test_frozen_ranges_do_not_move(policy):
    qmodel = quantized(policy)
    read = lambda: [v.numpy().copy() for q in quantizers_of(qmodel) for v in q.variables]
    values = Each(read)
    fit(qmodel, [Schedule(freeze_ranges_at=1), values], epochs=3)
    before, middle, after = values.seen
    assert all(np.array_equal(a, b) for a, b in zip(middle, after)) and len(before)
    assert all(np.array_equal(a, b) for a, b in zip(before, middle))


@pytest.mark.slow
def test_ranges_that_the_user_froze_stay_so():
    qmodel = quantized(FEW_BITS)
    layer = qmodel.get_layer("conv")
    fit(qmodel)
    layer.output_quantizer.trainable = layer.kernel_quantizer.trainable = False
    read = lambda: [float(layer.output_quantizer.value), layer.kernel_quantizer.reach.numpy().copy()]
    before, each = read(), Each(read)
    fit(compiled(qmodel), [Schedule(quantize_at=1, learn_ranges_at=2), each], epochs=3)
    for value, reach in each.seen:
        assert value == before[0] and np.array_equal(reach, before[1])
    assert all(not variable.trainable for variable in layer.output_quantizer.variables)


def test_batch_statistics_freeze_and_gains_train_on(tmp_path):
    qmodel = quantized()
    norm = qmodel.get_layer("conv").batch_norm
    values = Each(lambda: [v.numpy().copy() for v in (norm.moving_mean, norm.moving_variance, norm.gamma)])
    fit(qmodel, [Schedule(freeze_statistics_at=1), values], epochs=3)
    (_, _, _), (mean, variance, gain), (mean_after, variance_after, gain_after) = values.seen
    assert np.array_equal(mean, mean_after) and np.array_equal(variance, variance_after)
    assert np.any(gain != gain_after)
    exact(qmodel, tmp_path)
    fit(qmodel)
    assert np.any(norm.moving_mean.numpy() != mean)


def test_held_statistics_are_those_training_computes_with():
    model = float_model(network)
    qmodel = quantized(model=model)
    in_phase(qmodel, quantize_at=1, freeze_statistics_at=0)
    np.testing.assert_allclose(qmodel(X, training=True), model(X, training=False), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_statistics_of_layers_in_float_freeze_too():
    qmodel = quantized(kq.PolicyMap({"depthwise": "float32"}, default="int8"), model=float_model(network))
    norms = [layer for layer in qmodel._flatten_layers() if type(layer) is keras.layers.BatchNormalization]
    loose = [norm for norm in norms if all(getattr(x, "batch_norm", None) is not norm for x in qmodel.layers)]
    assert loose
    values = Each(lambda: [norm.moving_mean.numpy().copy() for norm in loose])
    fit(qmodel, [Schedule(freeze_statistics_at=1), values], epochs=3)
    assert np.any(values.seen[0][0] != 0) and np.array_equal(values.seen[0], values.seen[2])
    assert all(norm.trainable for norm in norms)


def test_a_step_is_traced_once_a_phase():
    def traces(*callbacks):
        qmodel, seen = quantized(FEW_BITS), []
        layer = qmodel.get_layer("conv")
        arithmetic = layer.train_product
        layer.train_product = lambda inputs: (seen.append(layer.kernel_quantizer.bits), arithmetic(inputs))[1]
        fit(qmodel, callbacks, epochs=4)
        return seen

    plain = len(traces())
    assert traces(Schedule(quantize_at=1.5, weight_bits={0: 8, 2: None})) == [8] * plain + [8, 4]
    assert traces(Schedule()) == [4] * plain


def test_fractions_of_an_epoch_are_steps():
    qmodel = quantized()
    each = Each(lambda: qmodel.get_layer("conv").kernel_quantizer.fake_quant_enabled, steps=True)
    fit(qmodel, [Schedule(quantize_at=1.6), each], epochs=2)
    assert each.seen == [False] * 4 + [False] * 3 + [True]


def test_fractions_need_to_know_the_steps():
    data = tf.data.Dataset.from_generator(
        lambda: iter([(X, Y)]), output_signature=(tf.TensorSpec((None, 8, 8, 4)), tf.TensorSpec((None,), tf.int64))
    )
    qmodel = quantized()
    with pytest.raises(kq.QuantizationError, match="steps_per_epoch"):
        qmodel.fit(data, verbose=0, callbacks=[Schedule(quantize_at=0.5)])
    each = Each(lambda: qmodel.get_layer("conv").kernel_quantizer.fake_quant_enabled)
    qmodel.fit(data, verbose=0, epochs=2, callbacks=[Schedule(quantize_at=1), each])
    assert each.seen == [False, True]


@pytest.mark.slow
def test_resumed_training_goes_on_in_its_phase():
    def phases(*ranges):
        qmodel = quantized("int4")
        each = Each(
            lambda: [qmodel.get_layer("conv").kernel_quantizer.bits, qmodel.get_layer("conv").batch_norm.holds_statistics]
        )
        for first, last in ranges:
            schedule = Schedule(freeze_statistics_at=3, weight_bits={0: 8, 1: 6, 2: None})
            fit(qmodel, [schedule, each], epochs=last, initial_epoch=first)
        return each.seen

    assert phases((0, 2), (2, 4)) == phases((0, 4)) == [[8, False], [6, False], [4, False], [4, True]]


def test_sharpness_follows_its_line():
    soft = kq.Policy("int4", "int8", kernel_quantizer=kq.quantizers.KernelLSQ(rounding="soft"))
    qmodel = quantized(soft)
    variable = qmodel.get_layer("conv").kernel_quantizer.sharpness
    each = Each(lambda: float(variable), steps=True)
    fit(qmodel, [Schedule(sharpness={0: 1.0, 2: 9.0}), each], epochs=3)
    np.testing.assert_allclose(each.seen, [1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 9])
    with pytest.raises(kq.QuantizationError, match="rounded softly"):
        fit(quantized(), [Schedule(sharpness={0: 1.0})])


@pytest.mark.slow
def test_an_interrupted_schedule_is_undone_by_the_next(tmp_path):
    qmodel = quantized(FEW_BITS)
    in_phase(qmodel, quantize_at=1, freeze_ranges_at=0, weight_bits={0: 8})
    fit(compiled(qmodel), [Schedule(learn_ranges_at=1)], epochs=2)
    assert all(q.fake_quant_enabled and q.range_phase is None and q.bits == q.final_bits for q in quantizers_of(qmodel))
    exact(qmodel, tmp_path)


def test_best_reach_is_the_least_squared_error_of_normal_values():
    x = np.linspace(-8, 8, 200_001)
    density = np.exp(-0.5 * x * x)
    for bits, reach in learned.BEST_REACH.items():
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        candidates = np.linspace(1.0, 5.0, 201)
        steps = 2 * candidates / (2**bits - 1)
        errors = [np.sum(density * (np.clip(np.rint(x / step), low, high) * step - x) ** 2) for step in steps]
        assert candidates[np.argmin(errors)] == pytest.approx(reach, abs=0.15)


def test_unbuilt_models_are_told_to_build():
    model = keras.Sequential([Q.QuantFlatten(), Q.QuantDense(3, activation="softmax")])
    schedule = Schedule()
    schedule.set_model(model)
    schedule.set_params({"steps": 1})
    with pytest.raises(kq.QuantizationError, match="Call the model on a batch"):
        schedule.on_train_begin()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"quantize_at": -1}, "from 0 on"),
        ({"quantize_at": "1"}, "from 0 on"),
        ({"freeze_ranges_at": float("nan")}, "from 0 on"),
        ({"quantize_at": 2, "learn_ranges_at": 1}, "not before"),
        ({"weight_bits": [8, 4]}, "dict from epochs"),
        ({"weight_bits": {0: 9}}, "from 2 to 8"),
        ({"activation_bits": {"0": 8}}, "from 0 on"),
        ({"sharpness": {0: -1.0}}, "from 0 on"),
    ],
)
def test_nonsense_is_refused(arguments, message):
    with pytest.raises(kq.QuantizationError, match=message):
        Schedule(**arguments)


@pytest.mark.parametrize("make", [lambda: compiled(float_model()), lambda: quantized("float32")])
def test_a_float_model_is_refused(make):
    with pytest.raises(kq.QuantizationError, match="keras_quant.quantize"):
        fit(make(), [Schedule()])


def test_normalizations_alone_hold_their_statistics():
    model = keras.Sequential([keras.Input((8, 8, 4)), L.BatchNormalization(name="norm"), L.Flatten(), L.Dense(3, "softmax")])
    qmodel = quantized(model=model)
    norm = qmodel.get_layer("norm")
    values = Each(lambda: [v.numpy().copy() for v in (norm.moving_mean, norm.gamma)])
    fit(qmodel, [Schedule(freeze_statistics_at=1), values], epochs=2)
    assert np.array_equal(values.seen[0][0], values.seen[1][0]) and np.any(values.seen[0][1] != values.seen[1][1])
