import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_quant as kq
from keras_quant.calibrate import SAMPLES, _summarize
from tests.helpers import few, functional, images, sequential, slow

L = keras.layers
X = images(64)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return X[index * 16 : index * 16 + 16], np.zeros(16)


FORMS = {
    "array": lambda: X,
    "tensor": lambda: tf.constant(X),
    "pair": lambda: (X, np.zeros(64)),
    "list": lambda: [X],
    "dataset": lambda: tf.data.Dataset.from_tensor_slices((X, np.zeros(64))).batch(16),
    "py_dataset": Batches,
    "generator": lambda: ((X[i : i + 16], None) for i in range(0, 64, 16)),
    "list of batches": lambda: [X[:32], X[32:]],
}


def model():
    return sequential(L.Conv2D(4, 3, activation="relu", name="conv"), L.Flatten(), L.Dense(3, name="logits"))


def ranges(qmodel):
    return [float(v) for layer in qmodel.layers for v in _range(layer)]


def _range(layer):
    quantizer = getattr(layer, "output_quantizer", None)
    return quantizer.range() if quantizer is not None else ()


@pytest.mark.parametrize("form", few(FORMS, "pair", "dataset", "generator", "list of batches"))
def test_takes_what_fit_takes(form):
    qmodel = kq.quantize(model())
    kq.calibrate(qmodel, FORMS[form](), verbose=0)
    again = kq.quantize(model())
    again.set_weights(qmodel.get_weights())
    kq.calibrate(again, X, verbose=0)
    np.testing.assert_allclose(ranges(qmodel), ranges(again), rtol=0.1)


def test_the_sample_meets_every_channel():
    """A power of two of values a channel: picked at even steps, they would all come from the first one."""
    x = np.random.default_rng(0).standard_normal((32, 32, 32, 32)).astype("float32")
    x[..., 0] = np.where(np.abs(x[..., 0]) > 3, 20, 0.01)
    least, most, sample = _summarize(tf.constant(x))
    assert len(sample) == SAMPLES and (float(least), float(most)) == (x.min(), x.max())
    assert np.std(sample) == pytest.approx(np.std(x), rel=0.1)


def test_several_inputs_by_name():
    a, b = keras.Input((4,), name="a"), keras.Input((5,), name="b")
    two = keras.Model([a, b], L.Add()([L.Dense(2)(a), L.Dense(2)(b)]))
    rng = np.random.default_rng(0)
    data = {"a": rng.uniform(-1, 1, (32, 4)), "b": rng.uniform(-1, 1, (32, 5)) * 10}
    for form in (data, [data["a"], data["b"]], tf.data.Dataset.from_tensor_slices(data).batch(8)):
        qmodel = kq.quantize(two, "int8", form)
        scales = [float(qmodel.get_layer(f"{name}_quantize").output_quantizer.params().scale) for name in "ab"]
        np.testing.assert_allclose(scales, [2 / 255, 20 / 255], rtol=0.1)


@pytest.mark.parametrize("steps", [0, -1, 2.0, "three"])
def test_wrong_steps_are_said(steps):
    with pytest.raises(kq.CalibrationError, match="`steps` is a positive number of batches. Received: steps="):
        kq.calibrate(kq.quantize(model()), X, steps=steps, verbose=0)


def test_steps_limit_an_endless_generator():
    def endless():
        while True:
            yield X[:16]

    kq.calibrate(kq.quantize(model()), endless(), steps=3, verbose=0)
    dataset = tf.data.Dataset.from_tensors(X[:16]).repeat()
    kq.calibrate(kq.quantize(model()), dataset, steps=3, verbose=0)
    with pytest.raises(kq.CalibrationError, match="infinite.*`steps`"):
        kq.calibrate(kq.quantize(model()), dataset, verbose=0)


def test_shows_progress(capsys):
    kq.calibrate(kq.quantize(model()), X)
    assert "2/2" in capsys.readouterr().out


def test_alone_gives_a_good_model():
    float_model = model()
    qmodel = kq.quantize(float_model, "int8", X)
    ours, theirs = qmodel.predict(X, verbose=0), float_model.predict(X, verbose=0)
    assert 10 * np.log10((theirs**2).sum() / ((ours - theirs) ** 2).sum()) > 30


BAD = {
    "no samples": (np.zeros((0, 12, 12, 6)), "no batch|empty"),
    "empty generator": (iter(()), "holds no batch"),
    "NaN": (np.full((4, 12, 12, 6), np.nan), "'.*' holds NaN"),
    "infinite": (np.full((4, 12, 12, 6), np.inf), "holds NaN or infinite"),
    "wrong shape": (np.zeros((4, 10, 12, 6)), r"takes batches of shape \(None, 12, 12, 6\). Received"),
    "no batch dimension": (np.zeros((12, 12, 6)), "takes batches of numbers"),
    "too many inputs": ({"x": X, "y": X}, "lacks the input"),
    "a number": (7, "Received: int"),
    "a scalar": (np.array(3.0), "takes batches of numbers"),
    "text": (np.full((4, 12, 12, 6), "a"), "Received: a batch of <U1"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_data_is_one_clear_error(kind):
    data, message = BAD[kind]
    with pytest.raises(kq.CalibrationError, match=message):
        kq.calibrate(kq.quantize(model()), data, verbose=0)


def test_inputs_of_unequal_length_are_refused():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    qmodel = kq.quantize(keras.Model([a, b], L.Add()([a, b])))
    with pytest.raises(kq.CalibrationError, match="'a': 40, 'b': 7"):
        kq.calibrate(qmodel, [np.ones((40, 4)), np.ones((7, 4))], verbose=0)
    with pytest.raises(kq.CalibrationError, match=r"for each input of the model, \['a', 'b'\].*Received: arrays of shapes"):
        kq.calibrate(qmodel, [np.ones((40, 4))], verbose=0)


def test_a_layer_that_overflows_is_named():
    bad = model()
    bad.get_layer("conv").kernel.assign(np.full((3, 3, 6, 4), 1e38, "float32"))
    with pytest.raises(kq.CalibrationError, match="output of layer 'conv' is NaN or infinite"):
        kq.quantize(bad, "int8", X)


@pytest.mark.parametrize(
    "method",
    [
        *map(slow, ("min_max", "moving_average", "percentile", "mean_std")),
        "entropy",
        "mse",
        slow(kq.quantizers.Truncation(2.0)),
    ],
)
def test_every_method_gives_a_working_model(method):
    float_model = model()
    qmodel = kq.calibrate(kq.quantize(float_model), X, verbose=0, method=method)
    ours, theirs = qmodel.predict(X, verbose=0), float_model.predict(X, verbose=0)
    assert 10 * np.log10((theirs**2).sum() / ((ours - theirs) ** 2).sum()) > (
        25 if method in ("min_max", "moving_average", "percentile", "mean_std", "mse") else 10
    )
    assert ranges(kq.quantize(float_model, "int8", X, calibration_method=method)) == ranges(qmodel)


def test_a_method_that_leaves_no_range_is_refused_with_the_layer():
    rare = model()
    rare.get_layer("conv").bias.assign(np.full(4, -2.0))
    method = kq.quantizers.Percentile(60.0)
    with pytest.raises(kq.CalibrationError, match="Percentile leaves no range for the output of layer 'conv'.*from 0 to"):
        kq.quantize(rare, "int8", X, calibration_method=method)


def test_an_unknown_method_is_refused_with_the_known_ones():
    with pytest.raises(kq.QuantizationError, match="'entropy', .*'percentile'.*Received: 'kl'"):
        kq.quantize(model(), "int8", X, calibration_method="kl")


def test_a_float_model_is_refused():
    with pytest.raises(kq.CalibrationError, match="no quantized layer"):
        kq.calibrate(model(), X, verbose=0)


@pytest.mark.parametrize("build", [lambda x: L.ReLU()(x), lambda x: L.ReLU()(L.Conv2D(6, 1, activation="tanh")(x))])
def test_a_relu_alone_rounds_nothing(build):
    x = images()
    qmodel = kq.quantize(functional(build), "int8", x)
    there = keras.Model(qmodel.inputs, qmodel.layers[-2].output).predict(x, verbose=0)
    np.testing.assert_allclose(qmodel.predict(x, verbose=0), np.maximum(there, 0), rtol=1e-6)


def test_a_layer_in_a_loop_that_leaves_float16_is_named():
    x = 100 * np.ones((8, 18, 4), "float32")
    model = keras.Sequential([keras.Input((18, 4)), keras.layers.SimpleRNN(4, activation="relu", name="rnn")])
    model.layers[0].cell.recurrent_kernel.assign(np.full((4, 4), 1.0))
    model.layers[0].cell.kernel.assign(np.full((4, 4), 1.0))
    with pytest.raises(kq.CalibrationError, match="Layer 'rnn/state.*' computes in float16"):
        kq.quantize(model, "float16", x)


def test_arrays_are_cut_into_the_batches_that_a_model_fixes(tmp_path):
    x = keras.Input(batch_shape=(4, 8, 8, 3))
    model = keras.Model(x, keras.layers.Conv2D(4, 3)(x))
    data = images(12, (8, 8, 3))
    qmodel = kq.quantize(model, "int8", data)
    kq.export(qmodel, tmp_path / "m.tflite")
    assert kq.verify(qmodel, tmp_path / "m.tflite", data, verbose=0).equal
    with pytest.raises(
        kq.CalibrationError, match="takes batches of 4 samples. Pass a multiple of 4. Received: a batch of 2"
    ):
        kq.calibrate(qmodel, data[:6], verbose=0)
