"""Keras's global settings: what they are must not change what a quantized model computes."""

import contextlib

import keras
import numpy as np
import pytest

import keras_quant as kq
from tests.helpers import few, images, shake, ship, slow

L = keras.layers
SHAPE = (8, 8, 3)
POLICIES = ("mixed_float16", "mixed_bfloat16", "float16", "bfloat16")


@contextlib.contextmanager
def settings(policy="float32", floatx="float32", data_format="channels_last"):
    before = keras.config.dtype_policy(), keras.config.floatx(), keras.config.image_data_format()
    try:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)
        keras.config.set_image_data_format(data_format)
        yield
    finally:
        keras.config.set_dtype_policy(before[0])
        keras.config.set_floatx(before[1])
        keras.config.set_image_data_format(before[2])


def _model():
    """Layers that become several, an operation, a batch normalization that joins, an end that is softmax."""
    inputs = keras.Input(SHAPE, name="image")
    x = L.Conv2D(4, 3, use_bias=False, name="conv")(inputs)
    x = L.Activation("silu", name="silu")(L.BatchNormalization(name="norm")(x))
    x = L.GlobalAveragePooling2D(name="pool")(x) * 2.0
    return keras.Model(inputs, L.Dense(3, activation="softmax", name="dense")(x), name="model")


def _twins(**options):
    """The same model in float32 and under other settings, with weights that both types hold."""
    twin = shake(_model())
    with settings(**options):
        model = _model()
        model.set_weights(twin.get_weights())
        for variable, own in zip(twin.variables, model.variables):
            variable.assign(keras.ops.cast(own.value, "float32"))
    return model, twin


@pytest.mark.parametrize("policy", few(POLICIES, "mixed_float16"))
def test_a_dtype_policy_changes_no_integer(policy, tmp_path):
    model, twin = _twins(policy=policy)
    x, y = images(16, SHAPE), np.arange(16) % 3
    wanted = kq.quantize(twin, "int8", x).predict(x, verbose=0)
    with settings(policy=policy):
        qmodel = kq.quantize(model, "int8", x)
        np.testing.assert_array_equal(qmodel.predict(x, verbose=0), wanted)
        qmodel.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)), "sparse_categorical_crossentropy")
        assert np.isfinite(qmodel.fit(x, y, epochs=1, verbose=0).history["loss"]).all()
        ship(qmodel, tmp_path, x)
        trained = qmodel.predict(x, verbose=0)
        assert not np.array_equal(trained, wanted)
        qmodel.save(tmp_path / "q.keras")
        np.testing.assert_array_equal(keras.models.load_model(tmp_path / "q.keras").predict(x, verbose=0), trained)
    loaded = keras.models.load_model(tmp_path / "q.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), trained)
    kq.export(loaded, tmp_path / "again.tflite")
    assert (tmp_path / "again.tflite").read_bytes() == (tmp_path / "model.tflite").read_bytes()


@pytest.mark.parametrize("policy", ["mixed_float16", slow("bfloat16")])
def test_layers_built_by_hand_compute_in_float32(policy, tmp_path):
    x = images(16, SHAPE)
    with settings(policy=policy):
        inputs = keras.Input(SHAPE)
        y = kq.layers.QuantConv2D(4, 3, batch_norm=L.BatchNormalization(), activation="silu", output_quantizer="lsq")(inputs)
        qmodel = keras.Model(inputs, kq.layers.QuantDense(3)(kq.layers.QuantGlobalAveragePooling2D()(y)))
        qmodel.compile("adam", "mse")
        qmodel.fit(x, np.ones((16, 3)), verbose=0)
        assert {str(w.dtype) for w in qmodel.weights} == {"float32"}
        ship(qmodel, tmp_path, x)
        with pytest.raises(kq.QuantizationError, match="'own' .* computes in float32 .*Received: dtype='float16'"):
            kq.layers.QuantDense(3, dtype="float16", name="own")


@pytest.mark.parametrize("floatx", ["float16", slow("bfloat16"), slow("float64")])
def test_floatx_changes_no_integer_and_rounded_data_is_told(floatx, tmp_path):
    model, twin = _twins(policy=floatx, floatx=floatx)
    x = images(16, SHAPE).astype("float16").astype("bfloat16" if floatx == "bfloat16" else "float32").astype("float32")
    wanted = kq.quantize(twin, "int8", x).predict(x, verbose=0)
    with settings(policy=floatx, floatx=floatx):
        qmodel = kq.quantize(model, "int8", x)
        assert qmodel.inputs[0].dtype == "float32"
        told = contextlib.nullcontext() if floatx == "float64" else pytest.warns(UserWarning, match="Keras rounds arrays")
        with told:
            np.testing.assert_array_equal(qmodel.predict(x, verbose=0), wanted)
        qmodel.compile("adam", "sparse_categorical_crossentropy")
        assert np.isfinite(float(qmodel.fit(x, np.arange(16) % 3, verbose=0).history["loss"][0]))
        ship(qmodel, tmp_path, x)


def test_channels_first_leaves_a_channels_last_model_alone_and_refuses_its_own(tmp_path):
    twin, x = shake(_model()), images(16, SHAPE)
    wanted = kq.quantize(twin, "int8", x).predict(x, verbose=0)
    with settings(data_format="channels_first"):
        qmodel = kq.quantize(twin, "int8", x)
        np.testing.assert_array_equal(qmodel.predict(x, verbose=0), wanted)
        ship(qmodel, tmp_path, x)
        with pytest.raises(kq.UnsupportedLayerError, match="'first' has `data_format='channels_first'`"):
            kq.layers.QuantConv2D(3, 1, name="first")(keras.Input((3, 8, 8)))
