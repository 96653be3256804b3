"""The average is an exponential moving average of all that moves, and what is validated, kept and shipped."""

import keras
import numpy as np
import pytest

import keras_quant as kq
from keras_quant.callbacks.weight_average import averaged_variables
from tests.callbacks.models import FEW_BITS, X, Y, by_hand, compiled, exact, fit, float_model, quantized
from tests.helpers import ship

WeightAverage = kq.callbacks.WeightAverage


class Steps(keras.callbacks.Callback):
    """The values of variables after each step."""

    def __init__(self, variables):
        super().__init__()
        self.variables, self.values = variables, []

    def on_train_batch_end(self, batch, logs=None):
        self.values.append([np.array(v, "float64") for v in self.variables])


def numpy_average(steps, decay):
    average = steps[0]
    for t, values in enumerate(steps[1:], 1):
        kept = min(decay, (1 + t) / (10 + t))
        average = [kept * a + (1 - kept) * v for a, v in zip(average, values)]
    return average


@pytest.mark.lowest
@pytest.mark.parametrize("policy", ["int8", FEW_BITS], ids=["moving_average", "lsq"])
def test_it_is_an_exponential_moving_average(policy, tmp_path):
    qmodel = quantized(policy)
    names = {variable.path for variable in averaged_variables(qmodel)}
    layer = qmodel.get_layer("conv")
    ranges = (
        [layer.output_quantizer.low, layer.output_quantizer.high] if policy == "int8" else [layer.kernel_quantizer.reach]
    )
    expected = [
        layer.kernel,
        layer.batch_norm.gamma,
        layer.batch_norm.moving_mean,
        layer.batch_norm.moving_variance,
        *ranges,
    ]
    assert {variable.path for variable in expected} <= names
    steps = Steps(averaged_variables(qmodel))
    fit(qmodel, [steps, WeightAverage(0.6)], epochs=4)
    for variable, value in zip(steps.variables, numpy_average(steps.values, 0.6)):
        np.testing.assert_allclose(variable, value, rtol=2e-5, atol=1e-6, err_msg=variable.path)
    assert any(np.any(np.array(v) != last) for v, last in zip(steps.variables, steps.values[-1]))
    exact(qmodel, tmp_path)


@pytest.mark.slow
def test_training_is_the_same_with_and_without():
    paths = []
    for callbacks in ([], [WeightAverage(0.9)], [WeightAverage(0.9, swap_on_epoch=True)]):
        keras.utils.set_random_seed(1)
        qmodel = quantized(FEW_BITS)
        steps = Steps(averaged_variables(qmodel))
        fit(qmodel, [*callbacks, steps], epochs=3, validation_data=(X, Y))
        paths.append(steps.values)
    for other in paths[1:]:
        for a, b in zip(paths[0], other):
            assert all(np.array_equal(x, y) for x, y in zip(a, b))


@pytest.mark.slow
def test_validation_sees_the_average_and_so_do_callbacks_behind(tmp_path):
    qmodel = quantized(FEW_BITS)
    path = str(tmp_path / "at_{epoch}.weights.h5")
    keep = keras.callbacks.ModelCheckpoint(path, save_weights_only=True)
    history = fit(qmodel, [WeightAverage(0.8, swap_on_epoch=True), keep], epochs=3, validation_data=(X, Y))
    for epoch, loss in enumerate(history["val_loss"], 1):
        qmodel.load_weights(path.format(epoch=epoch))
        assert qmodel.evaluate(X, Y, verbose=0, batch_size=16)[0] == pytest.approx(loss, rel=1e-4)
    plain = fit(quantized(FEW_BITS), [WeightAverage(0.8, validate=False)], epochs=3, validation_data=(X, Y))
    assert plain["val_loss"] != history["val_loss"]


def test_evaluation_outside_of_fit_changes_nothing():
    qmodel, average = quantized(), WeightAverage(0.5)
    fit(qmodel, [average])
    before = qmodel.get_weights()
    qmodel.evaluate(X, Y, verbose=0, callbacks=[average])
    assert all(np.array_equal(a, b) for a, b in zip(before, qmodel.get_weights()))


@pytest.mark.parametrize("policy", ["int4", FEW_BITS], ids=["abs_max", "lsq"])
@pytest.mark.slow
def test_frozen_weights_keep_their_integers(policy, tmp_path):
    qmodel = quantized(policy, optimizer=keras.optimizers.SGD(0.3))
    freeze = kq.callbacks.FreezeOscillating(0.1, momentum=0.3)
    # Behind and before: both orders of the end of training.
    for callbacks in ([freeze, WeightAverage(0.9)], [WeightAverage(0.9), freeze]):
        fit(qmodel, callbacks, epochs=6)
        held = qmodel.get_layer("classes").kernel_quantizer.held
        mask, layer = np.array(held.held), qmodel.get_layer("classes")
        integers = np.array(layer.kernel_quantizer.integers(layer.kernel, layer.kernel_axes))
        assert mask.sum() > 5
        np.testing.assert_array_equal(integers[mask], np.array(held.integers)[mask])
    exact(qmodel, tmp_path)
    # Without the callback nothing is held any more.
    fit(qmodel, [WeightAverage(0.0)], epochs=3)
    assert np.any(np.array(layer.kernel_quantizer.integers(layer.kernel, layer.kernel_axes))[mask] != integers[mask])


@pytest.mark.slow
def test_a_new_width_begins_anew(tmp_path):
    qmodel = quantized("int4")
    steps = Steps(averaged_variables(qmodel))
    fit(qmodel, [kq.callbacks.Schedule(weight_bits={0: 8, 1: None}), steps, WeightAverage(0.9)], epochs=3)
    for variable, value in zip(steps.variables, numpy_average(steps.values[4:], 0.9)):
        np.testing.assert_allclose(variable, value, rtol=2e-5, atol=1e-6)
    exact(qmodel, tmp_path)


@pytest.mark.slow
def test_start_at_and_models_built_by_hand(tmp_path):
    model = by_hand()
    steps = Steps(averaged_variables(model))
    fit(model, [steps, WeightAverage(0.9, start_at=1.5)], epochs=3)
    for variable, value in zip(steps.variables, numpy_average(steps.values[6:], 0.9)):
        np.testing.assert_allclose(variable, value, rtol=2e-5, atol=1e-6)
    ship(model, tmp_path, X[:16])


def test_nonsense_is_refused():
    with pytest.raises(kq.QuantizationError, match="decay"):
        WeightAverage(1.0)
    with pytest.raises(kq.QuantizationError, match="use_ema"):
        fit(quantized(optimizer=keras.optimizers.Adam(use_ema=True)), [WeightAverage()])
    with pytest.raises(kq.QuantizationError, match="keras_quant.quantize"):
        fit(compiled(float_model()), [WeightAverage()])
