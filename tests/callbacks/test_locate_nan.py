"""A NaN is named where it began, and the model is as it was before."""

import keras
import numpy as np
import pytest

import keras_quant as kq
from tests.callbacks.models import Each, L, Q, X, Y, by_hand, compiled, exact, fit, float_model, network, quantized
from tests.helpers import functional, slow

LocateNaN = kq.callbacks.LocateNaN
BAD = np.arange(64) == 40


@keras.saving.register_keras_serializable(package="tests")
class Inverse(keras.layers.Layer):
    """1 / (sum of the input): in float infinite for an input of zeros."""

    def call(self, x):
        return 1.0 / keras.ops.sum(x, axis=-1, keepdims=True)


def fails(model, match, x=X, y=Y, **options):
    """The error of training, which leaves the weights as they were before the step that it names."""
    states = []
    keep = keras.callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: states.append(model.get_weights()))
    with pytest.raises(kq.QuantizationError, match=match) as error:
        model.fit(x, y, batch_size=16, epochs=2, verbose=0, shuffle=False, callbacks=[LocateNaN(), keep], **options)
    assert all(np.array_equal(a, b) for a, b in zip(states[-1], model.get_weights()))
    return str(error.value)


@pytest.mark.lowest
def test_the_first_layer_whose_output_is_infinite_is_named():
    def build(x):
        x = L.Dense(4, use_bias=False, name="before")(L.Flatten()(x))
        return L.Dense(3, name="after")(Inverse(name="inverse")(x))

    model = functional(build, (8, 8, 4))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    qmodel = kq.quantize(model, "int8", X)
    qmodel.compile("sgd", loss)
    x = np.where(BAD[:, None, None, None], 0, X)
    # The third batch has the image of zeros.
    assert "while its input is finite" in fails(model, "output of layer 'inverse/.*in step 2 of epoch 0", x)
    # On a grid nothing is.
    assert np.isfinite(qmodel.fit(x, Y, verbose=0).history["loss"]).all()


def test_weights_too_large_overflow_in_their_layer():
    qmodel = quantized(model=float_model(network))
    layer = qmodel.get_layer("depthwise")
    layer.kernel.assign(np.full(layer.kernel.shape, 3e38, "float32"))
    assert "input, weights and range are finite" in fails(qmodel, "layer 'depthwise'")


@pytest.mark.lowest
def test_weights_that_are_nan_before_training_are_named():
    qmodel = quantized()
    for name in ("classes", "conv"):
        kernel = qmodel.get_layer(name).kernel
        kernel.assign(np.full(kernel.shape, np.nan, "float32"))
    with pytest.raises(kq.QuantizationError, match="conv/kernel.*before the first step"):
        fit(qmodel, [LocateNaN()])


def test_weights_spoiled_by_another_callback_are_named():
    qmodel = quantized()
    kernel = qmodel.get_layer("classes").kernel
    spoil = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: batch == 2 and kernel.assign(kernel * np.float32(np.inf))
    )
    with pytest.raises(kq.QuantizationError, match="classes/kernel.*before step 2 of epoch 0"):
        fit(qmodel, [LocateNaN(), spoil])


def test_batches_that_are_not_finite_are_named():
    assert "input" in fails(quantized(), "NaN or infinite values", np.where(BAD[:, None, None, None], np.nan, X))
    model = keras.Sequential([keras.Input((8, 8, 4)), L.Flatten(), L.Dense(1)])
    qmodel = kq.quantize(model, "int8", X)
    qmodel.compile("sgd", "mse")
    fails(qmodel, "labels of step 2", y=np.where(BAD, np.inf, 0.0).astype("float32"))
    fails(qmodel, "sample weights of step 2", y=np.zeros(64, "float32"), sample_weight=np.where(BAD, np.nan, 1.0))


def test_a_loss_of_finite_outputs_is_named():
    qmodel = quantized()
    qmodel.compile("sgd", lambda y, p: keras.ops.log(keras.ops.min(p, axis=-1) - 2.0))
    fails(qmodel, "loss of step 0 of epoch 0.*outputs of all layers are finite")


def test_a_gradient_of_a_finite_loss_is_named():
    qmodel = quantized()
    # The square root of 0 is finite and its slope is not.
    qmodel.compile("sgd", lambda y, p: keras.ops.sqrt(keras.ops.sum(p - keras.ops.stop_gradient(p), axis=-1)))
    fails(qmodel, "gradient of 'classes/bias' is NaN.*the loss and all outputs are finite")


def test_a_learning_rate_that_breaks_the_weights_is_named():
    qmodel = quantized()
    large = lambda y, p: 1e6 * keras.losses.sparse_categorical_crossentropy(y, p)
    qmodel.compile(keras.optimizers.SGD(3e38), large)
    fails(qmodel, "optimizer made weights NaN or infinite")


def test_random_layers_draw_the_noise_that_the_step_had():
    def build(x):
        x = L.Dropout(0.5, seed=3, name="drop")(L.Dense(1, use_bias=False, name="before")(L.Flatten()(x)))
        return L.Dense(3, name="after")(Inverse(name="inverse")(x))

    x = X * 0
    x[:, 0, 0, 0] = 1.0
    model = functional(build, (8, 8, 4))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    # One value in all, dropped or not: a batch of 1 is infinite by chance, and has to be so again when looked at.
    with pytest.raises(kq.QuantizationError, match="layer 'inverse/"):
        model.fit(x, Y, batch_size=1, verbose=0, callbacks=[LocateNaN()])


@pytest.mark.parametrize("make", [quantized, slow(by_hand), slow(lambda: quantized(steps_per_execution=3))])
def test_training_is_what_it_would_be_without(make, tmp_path):
    results = []
    for callbacks in ([], [LocateNaN(), kq.callbacks.Schedule(freeze_ranges_at=9)]):
        keras.utils.set_random_seed(2)
        qmodel = make()
        history = fit(qmodel, callbacks, epochs=2, validation_data=(X, Y))
        results.append((history, qmodel.get_weights()))
    (plain, weights), (watched, others) = results
    assert all(np.allclose(plain[key], watched[key], rtol=1e-5) for key in plain)
    assert all(np.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(weights, others))
    assert "make_train_function" not in qmodel.__dict__
    fit(qmodel)


@pytest.mark.slow
def test_phases_of_a_schedule_are_watched_too():
    qmodel = quantized()
    for first, second in ((LocateNaN(), kq.callbacks.Schedule(1)), (kq.callbacks.Schedule(1), LocateNaN())):
        qmodel = quantized()
        kernel = qmodel.get_layer("conv").kernel
        spoil = lambda epoch, logs, kernel=kernel: epoch == 1 and kernel.assign(np.full(kernel.shape, 3e38, "float32"))
        with pytest.raises(kq.QuantizationError, match="layer 'conv'.*step 0 of epoch 1"):
            fit(qmodel, [first, second, keras.callbacks.LambdaCallback(on_epoch_begin=spoil)], epochs=2)


def test_float_models_are_watched_as_well(tmp_path):
    model = compiled(float_model())
    fit(model, [LocateNaN()])
    model.get_layer("conv").kernel.assign(model.get_layer("conv").kernel * np.float32(3e38))
    assert "conv" in fails(model, "NaN or infinite")
    unbuilt = compiled(keras.Sequential([Q.QuantFlatten(), Q.QuantDense(3, activation="softmax")]))
    watch = LocateNaN()
    watch.set_model(unbuilt)
    with pytest.raises(kq.QuantizationError, match="Call the model"):
        watch.on_train_begin()


def test_models_that_cannot_be_traced_are_told_apart():
    build = lambda x: L.Dense(3, name="y")(L.GlobalAveragePooling2D()(L.Conv2D(4, 3, name="conv")(x)))
    model = functional(build, (None, None, 4))
    model.compile("sgd", "mse")
    labels = np.zeros((64, 3), "float32")
    fit_ = lambda y: model.fit(X, y, verbose=0, callbacks=[LocateNaN()])
    assert np.isfinite(fit_(labels).history["loss"]).all()
    fails(model, "labels of step 2", y=np.where(BAD[:, None], np.inf, labels))
    model.get_layer("conv").kernel.assign(np.full((3, 3, 4, 4), 3e38, "float32"))
    with pytest.raises(kq.QuantizationError, match="output of model.*cannot be traced.*dynamic dimension"):
        fit_(labels)


@pytest.mark.slow
def test_the_model_ships_after_a_watched_training(tmp_path):
    qmodel = quantized("int4")
    fit(qmodel, [LocateNaN(), Each(lambda: None)])
    exact(qmodel, tmp_path)


def test_the_layer_inside_of_a_loop_is_named():
    x = np.random.default_rng(0).standard_normal((64, 18, 4)).astype("float32")
    x[BAD] = 3e38
    model = functional(lambda x: L.Dense(1)(L.SimpleRNN(4, activation="relu", name="rnn")(x)), (18, 4))
    model.layers[1].cell.kernel.assign(np.full((4, 4), 0.2))
    model.layers[1].cell.recurrent_kernel.assign(np.full((4, 4), 0.2))
    qmodel = kq.quantize(model, "float32", x[:32])
    qmodel.compile("sgd", "mse")
    fails(qmodel, "output of layer 'rnn/state.*' is NaN or infinite in step 2 of epoch 0", x, np.zeros((64, 1)))
