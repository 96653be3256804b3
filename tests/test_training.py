import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

import keras_quant as kq
from tests.helpers import ship

L, Q = keras.layers, kq.layers
DIGITS = load_digits()
X = (DIGITS.images[..., None] / 16).astype("float32")
Y = DIGITS.target
TRAIN, TEST = slice(0, 1400), slice(1400, None)


def float_model():
    x = inputs = keras.Input((8, 8, 1))
    x = L.ReLU()(L.BatchNormalization(momentum=0.9)(L.Conv2D(8, 3, padding="same", name="conv")(x)))
    y = L.ReLU()(L.BatchNormalization(momentum=0.9)(L.DepthwiseConv2D(3, padding="same", name="depthwise")(x)))
    x = L.Flatten()(L.AveragePooling2D(2)(L.Add()([x, y])))
    return keras.Model(inputs, L.Dense(10, activation="softmax", name="probabilities")(x))


def compiled(model, **options):
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"], **options)
    return model


@pytest.fixture
def qmodel():
    return kq.quantize(float_model(), "int8", X[:200])


def fit(model, epochs=2, **options):
    return model.fit(X[TRAIN], Y[TRAIN], epochs=epochs, batch_size=64, verbose=0, **options)


def test_fit_with_callbacks_learns_and_ships(qmodel, tmp_path):
    stop = keras.callbacks.EarlyStopping("val_accuracy", patience=10, restore_best_weights=True)
    history = fit(compiled(qmodel), 8, validation_data=(X[TEST], Y[TEST]), callbacks=[stop]).history
    assert history["loss"][-1] < 0.8 * history["loss"][0]
    assert max(history["val_accuracy"]) > 0.8
    ship(qmodel, tmp_path, X[TEST])


def test_a_step_is_traced_once(qmodel, monkeypatch):
    traces, step = [], keras.Model.train_step
    monkeypatch.setattr(keras.Model, "train_step", lambda *args: traces.append(1) or step(*args))
    fit(compiled(qmodel), 2)
    assert len(traces) == 1


@pytest.mark.slow
def test_a_model_built_by_hand_trains_from_scratch_without_calibration(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            Q.QuantConv2D(8, 3, use_bias=False, batch_norm=L.BatchNormalization(), activation="relu"),
            Q.QuantMaxPooling2D(),
            Q.QuantDropout(0.1),
            Q.QuantFlatten(),
            Q.QuantDense(10, activation="softmax"),
        ]
    )
    history = fit(compiled(model), 6).history
    assert history["accuracy"][-1] > 0.7
    report, _ = ship(model, tmp_path, X[TEST])
    operators = ["CONV_2D", "MAX_POOL_2D", "RESHAPE", "FULLY_CONNECTED", "SOFTMAX", "QUANTIZE"]
    assert [op.name for op in report.operators] == operators


def test_a_gradient_tape_loop_trains(qmodel):
    optimizer, losses = keras.optimizers.Adam(3e-3), []
    loss_function = keras.losses.SparseCategoricalCrossentropy()

    @tf.function(autograph=False)
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = loss_function(y, qmodel(x, training=True))
        optimizer.apply_gradients(zip(tape.gradient(loss, qmodel.trainable_variables), qmodel.trainable_variables))
        return loss

    for _ in range(30):
        losses.append(float(step(X[:256], Y[:256])))
    assert losses[-1] < 0.8 * losses[0]


def test_every_trainable_weight_gets_a_gradient(qmodel):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(Y[:64], qmodel(X[:64], training=True)))
    for variable, gradient in zip(qmodel.trainable_variables, tape.gradient(loss, qmodel.trainable_variables)):
        assert gradient is not None, variable.path
        assert np.all(np.isfinite(gradient)), variable.path
        # A bias before batch normalization has none by nature.
        if not variable.path.endswith(("conv/bias", "depthwise/bias")):
            assert np.any(np.abs(gradient) > 1e-8), variable.path


def test_frozen_layers_keep_weights_statistics_and_ranges(qmodel):
    frozen = qmodel.get_layer("depthwise")
    frozen.trainable = False
    before = [v.numpy() for v in frozen.variables]
    others = qmodel.get_layer("conv").kernel.numpy()
    fit(compiled(qmodel), 1)
    for variable, value in zip(frozen.variables, before):
        np.testing.assert_array_equal(variable.numpy(), value, err_msg=variable.path)
    assert np.any(qmodel.get_layer("conv").kernel.numpy() != others)


def test_batch_norm_can_stay_in_inference_mode_while_weights_train(qmodel, tmp_path):
    layer = qmodel.get_layer("depthwise")
    layer.batch_norm.trainable = False
    statistics, kernel = layer.batch_norm.moving_variance.numpy(), layer.kernel.numpy()
    fit(compiled(qmodel), 1)
    np.testing.assert_array_equal(layer.batch_norm.moving_variance.numpy(), statistics)
    assert np.any(layer.kernel.numpy() != kernel)
    ship(qmodel, tmp_path, X[:64])


def test_moving_statistics_follow_keras():
    """The fused operation updates the same averages as Keras's own layer."""
    model = float_model()
    qmodel = kq.quantize(model, "int8", X[:200])
    for m in (model, qmodel):
        m(X[:128], training=True)
    ours = qmodel.get_layer("conv").batch_norm
    theirs = model.layers[2]
    # The quantized model's convolution sees inputs and weights on the grid: equal up to its steps.
    np.testing.assert_allclose(ours.moving_mean, theirs.moving_mean, atol=2e-4)
    np.testing.assert_allclose(ours.moving_variance, theirs.moving_variance, rtol=2e-3)


@pytest.mark.slow
def test_class_and_sample_weights_count(qmodel):
    fit(compiled(qmodel), 1, class_weight={i: float(i == 3) for i in range(10)})
    predicted = qmodel.predict(X[TEST], verbose=0).argmax(-1)
    assert (predicted == 3).mean() > 0.3
    compiled(qmodel).fit(X[:64], Y[:64], sample_weight=np.ones(64), verbose=0)


def test_layers_can_learn_at_different_rates(qmodel):
    """Two optimizers, one for the head, as in discriminative fine-tuning."""
    head = qmodel.get_layer("probabilities").trainable_variables
    rest = [v for v in qmodel.trainable_variables if all(v is not h for h in head)]
    fast, still = keras.optimizers.SGD(1.0), keras.optimizers.SGD(0.0)
    before = [v.numpy() for v in rest], [v.numpy() for v in head]
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(Y[:64], qmodel(X[:64], training=True)))
    gradients = tape.gradient(loss, [*rest, *head])
    still.apply_gradients(zip(gradients[: len(rest)], rest))
    fast.apply_gradients(zip(gradients[len(rest) :], head))
    assert all(np.array_equal(v.numpy(), b) for v, b in zip(rest, before[0]))
    assert all(np.any(v.numpy() != b) for v, b in zip(head, before[1]))


@pytest.mark.slow
def test_xla_trains_and_predicts_the_same_integers(qmodel, tmp_path):
    fit(compiled(qmodel, jit_compile=True), 1)
    with_xla = qmodel.predict(X[TEST], verbose=0)
    without = compiled(qmodel, jit_compile=False).predict(X[TEST], verbose=0)
    np.testing.assert_array_equal(with_xla, without)
    ship(qmodel, tmp_path, X[:64])


def test_evaluate_is_the_devices_accuracy(qmodel, tmp_path):
    fit(compiled(qmodel), 3)
    report = kq.export(qmodel, tmp_path / "m.tflite")
    runtime = kq.tflite.Runtime((tmp_path / "m.tflite").read_bytes())
    from keras_quant.tflite.runtime import quantize_array

    device = runtime.run([quantize_array(X[TEST], runtime.inputs[0])])[0].argmax(-1)
    _, accuracy = qmodel.evaluate(X[TEST], Y[TEST], verbose=0)
    assert report.partitions == 1
    assert accuracy == pytest.approx((device == Y[TEST]).mean(), abs=1e-6)


MIRRORED = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras, numpy as np, keras_quant as kq
from tests.test_training import X, Y, compiled, float_model
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert strategy.num_replicas_in_sync == 2
keras.utils.set_random_seed(0)
with strategy.scope():
    qmodel = compiled(kq.quantize(float_model(), "int8", X[:100]))
before = float(qmodel.get_layer("conv").output_quantizer.high.numpy())
losses = qmodel.fit(X[:512], Y[:512], batch_size=64, epochs=8, verbose=0).history["loss"]
assert losses[-1] < losses[0], losses
assert float(qmodel.get_layer("conv").output_quantizer.high.numpy()) != before
qmodel.save(r"{path}/m.keras")
loaded = keras.models.load_model(r"{path}/m.keras")
kq.export(loaded, r"{path}/m.tflite")
assert kq.verify(loaded, r"{path}/m.tflite", X[:64], verbose=0).equal
"""


@pytest.mark.slow
def test_mirrored_strategy_trains(tmp_path):
    root = pathlib.Path(kq.__file__).parents[1]
    code = MIRRORED.replace("{path}", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
