"""A trained model in files of other sizes: one, several under a signature each, or any that the runtime chooses."""

import keras
import numpy as np
import pytest

import keras_quant as kq
from keras_quant.graph.resized import Sizes
from keras_quant.tflite import Runtime
from keras_quant.tflite.runtime import quantize_array
from tests.graph.test_sizes import open_image, open_length, open_signal, open_tokens, own_build
from tests.helpers import assert_near_float, few, functional, images, shake

L, ops = keras.layers, keras.ops


def segmenter():
    x = inputs = keras.Input((None, None, 3), name="image")
    x = first = L.Conv2D(8, 3, strides=2, padding="same", activation="relu")(x)
    x = L.BatchNormalization()(L.DepthwiseConv2D(3, 2, padding="same")(x))
    x = L.Conv2DTranspose(8, 3, strides=2, padding="same", activation="relu")(x)
    x = L.SeparableConv2D(8, 3, padding="same")(L.Concatenate()([first, x]))
    return keras.Model(inputs, L.Activation("sigmoid")(L.Conv2DTranspose(4, 2, strides=2)(x)))


def cropped():
    x = inputs = keras.Input((None, None, 3))
    x = L.Cropping2D(((1, 2), (0, 1)))(L.Conv2D(4, 3)(L.ZeroPadding2D((1, 2))(x)))
    return keras.Model(inputs, L.GlobalMaxPooling2D()(L.Activation("swish")(L.AveragePooling2D(2)(x))))


def squeezed():
    x = inputs = keras.Input((None, None, 3))
    x = L.LayerNormalization()(L.PReLU("ones", shared_axes=[1, 2])(L.Conv2D(4, 3, padding="same")(x)))
    gates = L.Dense(4, activation="sigmoid")(L.GlobalAveragePooling2D(keepdims=True)(x))
    return keras.Model(inputs, L.Softmax()(L.Conv2D(5, 1)(L.Multiply()([x, gates]))))


def largest():
    x = inputs = keras.Input((None, None, 3))
    branches = [L.Conv2D(4, size, padding="same")(x) for size in (1, 3, 5)]
    return keras.Model(inputs, L.Minimum()([L.Maximum()(branches), branches[0]]))


def attended():
    x = inputs = keras.Input((None, 4))
    x = L.Conv1D(6, 3, padding="causal", activation="relu")(x)
    return keras.Model(inputs, L.Dense(3)(ops.matmul(L.Softmax()(L.Permute((2, 1))(L.Dense(2)(x))), x)))


class Mean(L.Layer):
    """Divides by a number that it computes of the size."""

    def call(self, x):
        _, height, width, _ = ops.shape(x)
        return ops.sum(x, axis=(1, 2)) / ops.cast(height * width, "float32")


def own_mean():
    x = inputs = keras.Input((None, None, 3))
    return keras.Model(inputs, L.Dense(3)(Mean()(L.Conv2D(6, 3, activation="relu")(x))))


class Positions(L.Layer):
    """Adds a constant that it computes of the length."""

    def call(self, x):
        length, channels = ops.shape(x)[1:]
        angles = np.arange(length)[:, None] / 10.0 ** (np.arange(channels) / channels)
        return x + ops.convert_to_tensor(np.sin(angles).astype("float32"))

    def compute_output_shape(self, input_shape):
        return input_shape


def positions():
    x = inputs = keras.Input((None, 8))
    x = Positions()(L.Dense(8)(x))
    return keras.Model(inputs, L.Dense(3)(x + L.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True)))


def reshaped():
    convolution = L.Conv2D(8, 4, 4, activation="relu")
    return keras.Sequential(
        [keras.Input((None, None, 3)), convolution, L.Reshape((-1, 8)), L.Dense(4), L.GlobalMaxPooling1D()]
    )


def adaptive():
    return keras.Sequential([keras.Input((None, None, 3)), L.Conv2D(4, 3), L.AdaptiveAveragePooling2D(2), L.Conv2D(3, 2)])


# Builder; size when quantized; what is open; other sizes.
RESIZABLE = {
    "image": (open_image, (16, 24, 3), (None, None, 3), [(26, 18, 3), (40, 64, 3)]),
    "length": (open_length, (20, 4), (None, 4), [(8, 4), (61, 4)]),
    # Rows whose exponentials float32 adds up as they are, and longer ones.
    "attended": (attended, (40, 4), (None, 4), [(200, 4), (300, 4)]),
    "segmenter": (segmenter, (16, 24, 3), (None, None, 3), [(28, 20, 3), (64, 48, 3)]),
    "cropped": (cropped, (16, 24, 3), (None, None, 3), [(13, 21, 3), (64, 49, 3)]),
    "squeezed": (squeezed, (16, 24, 3), (None, None, 3), [(13, 21, 3), (32, 49, 3)]),
    "reshaped": (reshaped, (16, 24, 3), (None, None, 3), [(13, 21, 3), (40, 48, 3)]),
    "own build": (own_build, (12, 12, 3), (None, None, 3), [(20, 14, 3), (9, 33, 3)]),
    "largest": (largest, (16, 24, 3), (None, None, 3), [(13, 21, 3), (40, 48, 3)]),
    "one side": (open_image, (16, 24, 3), (None, 24, 3), [(26, 24, 3), (40, 24, 3)]),
    "signal": (open_signal, (64,), (None,), [(100,), (33,)]),
    "tokens": (open_tokens, (16, 24, 3), (None, None, 3), [(32, 20, 3), (8, 12, 3)]),
}
# Builder; size when quantized; another.
SIZED_BY_FLOAT = {
    "signal": (open_signal, (64,), (100,)),
    "tokens": (open_tokens, (16, 24, 3), (32, 20, 3)),
    "positions": (positions, (16, 8), (24, 8)),
    "mean": (own_mean, (16, 24, 3), (20, 22, 3)),
    "adaptive": (adaptive, (16, 24, 3), (24, 32, 3)),
}
if not hasattr(L, "AdaptiveAveragePooling2D"):  # Keras 3.5
    del SIZED_BY_FLOAT["adaptive"]


@pytest.mark.parametrize("name", few(RESIZABLE, "attended"))
def test_the_runtime_may_resize_the_inputs(name, tmp_path):
    build, shape, wanted, others = RESIZABLE[name]
    model = shake(build())
    qmodel = kq.quantize(model, "int8", images(8, shape))
    float_model = model if name in SIZED_BY_FLOAT else None
    report = kq.export(qmodel, tmp_path / "open.tflite", input_shape=wanted, float_model=float_model)
    partitions = kq.export(qmodel, tmp_path / "one.tflite").partitions
    assert report.partitions == partitions
    # One interpreter for all sizes, as an app has it.
    runtime = Runtime((tmp_path / "open.tflite").read_bytes())
    assert [-1 if size is None else size for size in wanted] == runtime.inputs[0]["shape_signature"][1:].tolist()
    for size in (*others, shape):
        x = images(3, size, seed=5)
        kq.export(qmodel, tmp_path / "one.tflite", input_shape=size, float_model=float_model)
        fixed = Runtime((tmp_path / "one.tflite").read_bytes())
        fed = [quantize_array(x, runtime.inputs[0])]
        for ours, theirs in zip(runtime.run(fed), fixed.run(fed)):
            np.testing.assert_array_equal(ours, theirs)
        assert len(runtime.partitions()) == report.partitions
    assert kq.verify(qmodel, tmp_path / "open.tflite", x, float_model=float_model, intermediates=True, verbose=0).equal
    x = images(3, others[0], seed=5)
    assert kq.verify(qmodel, tmp_path / "open.tflite", iter([x]), float_model=float_model, verbose=0).equal
    if float_model is None:
        assert_near_float(model, Sizes(qmodel).at(others[0]), x, decibels=12)


@pytest.mark.slow
def test_counts_at_the_edges_are_those_of_the_size(tmp_path):
    model = functional(lambda x: L.AveragePooling2D(3, 2, padding="same")(L.Conv2D(4, 3)(x)), (None, None, 3))
    qmodel = kq.quantize(shake(model), "int8", images(8, (16, 24, 3)))
    for size in ((15, 23, 3), (18, 25, 3)):
        kq.export(qmodel, tmp_path / "a.tflite", input_shape=size)
        kq.export(qmodel, tmp_path / "b.tflite", input_shape=size, float_model=model)
        assert (tmp_path / "a.tflite").read_bytes() == (tmp_path / "b.tflite").read_bytes()
        assert_near_float(model, Sizes(qmodel).at(size), images(4, size))


def small():
    model = keras.Sequential([keras.Input((None, None, 3)), L.Conv2D(64, 3, strides=2, activation="relu")])
    for layer in (L.Conv2D(128, 3), L.GlobalAveragePooling2D()):
        model.add(layer)
    return shake(model)


def test_signatures_share_their_weights_and_each_equals_predict(tmp_path):
    qmodel = kq.quantize(small(), "int8", images(4, (16, 16, 3)))
    one, path = kq.export(qmodel, tmp_path / "one.tflite"), tmp_path / "both.tflite"
    report = kq.export(qmodel, path, signatures={"small": (16, 16, 3), "large": (24, 32, 3)})
    assert report.bytes < 1.05 * one.bytes
    assert [r.partitions for r in report.signatures.values()] == [1, 1]
    large = len(report.signatures["large"].operators)
    assert f"large: {large} of {large} operators on XNNPACK" in str(report)
    data = {"small": images(3, (16, 16, 3)), "large": images(3, (24, 32, 3))}
    parity = kq.verify(qmodel, path, data, verbose=0)
    assert parity.equal and parity.samples == 6
    assert [output.name.split("/")[0] for output in parity.outputs] == ["small", "large"]
    assert "signatures small, large" in "".join(kq.report(path).notes)


@pytest.mark.slow
def test_each_signature_is_compared(tmp_path):
    qmodel, path = kq.quantize(small(), "int8", images(4, (16, 16, 3))), tmp_path / "both.tflite"
    shapes = {"small": (16, 16, 3), "any": (None, 24, 3)}
    kq.export(qmodel, path, signatures=shapes, batch_size=2)
    data = {"small": images(3, (16, 16, 3)), "any": images(3, (31, 24, 3))}
    parity = kq.verify(qmodel, path, data, intermediates=True, verbose=0)
    assert parity.equal and len(parity.intermediates) == 6
    qmodel.layers[-2].kernel.assign(-qmodel.layers[-2].kernel)
    assert all(output.mismatches for output in kq.verify(qmodel, path, data, verbose=0).outputs)
    with pytest.raises(kq.CalibrationError, match=r"signatures \['small', 'any'\].*Received: \['small'\]"):
        kq.verify(qmodel, path, {"small": data["small"]})


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZED_BY_FLOAT)
def test_the_float_model_says_sizes_that_layers_hold(name, tmp_path):
    build, shape, other = SIZED_BY_FLOAT[name]
    model = shake(build())
    qmodel = kq.quantize(model, "int8", images(8, shape))
    qmodel.compile("sgd", "mse")
    qmodel.fit(images(8, shape), qmodel.predict(images(8, shape), verbose=0), verbose=0)
    qmodel.save(tmp_path / "q.keras")
    qmodel = keras.saving.load_model(tmp_path / "q.keras")
    x, path = images(4, other, seed=5), tmp_path / "other.tflite"
    kq.export(qmodel, path, signatures={"own": shape, "other": other}, float_model=model)
    data = {"own": images(4, shape), "other": x}
    assert kq.verify(qmodel, path, data, intermediates=True, verbose=0, float_model=model).equal
    with pytest.raises(kq.QuantizationError, match="holds sizes.*`float_model=model`"):
        kq.export(qmodel, path, input_shape=other)
    kq.export(qmodel, path, input_shape=other, output_type="float32", float_model=model)
    (y,) = Runtime(path.read_bytes()).run([quantize_array(x, Runtime(path.read_bytes()).inputs[0])])
    wanted = np.asarray(model(x))
    assert np.sum((wanted - y) ** 2) < 0.05 * np.sum(wanted**2)  # it is the float model's function at this size


def bilinear():
    model = keras.Sequential([keras.Input((None, None, 3)), L.Conv2D(3, 3), L.UpSampling2D(interpolation="bilinear")])
    kq.export(kq.quantize(model, "int8", images(2, (8, 8, 3))), "never.tflite", input_shape=(None, None, 3))


def a_number_of_the_size():
    model = own_mean()
    qmodel = kq.quantize(model, "int8", images(2, (8, 8, 3)))
    kq.export(qmodel, "never.tflite", input_shape=(None, None, 3), float_model=model)


def another_float_model():
    qmodel = kq.quantize(own_mean(), "int8", images(2, (8, 8, 3)))
    kq.export(qmodel, "never.tflite", input_shape=(9, 9, 3), float_model=reshaped())


def both():
    kq.export(
        kq.quantize(small(), input_shape=(9, 9, 3)), "never.tflite", input_shape=(9, 9, 3), signatures={"a": (9, 9, 3)}
    )


def no_names():
    kq.export(kq.quantize(small(), input_shape=(9, 9, 3)), "never.tflite", signatures=[(9, 9, 3)])


def rows_of_two_kernels(**options):
    x = inputs = keras.Input((None,))
    qmodel = kq.quantize(keras.Model(inputs, x * ops.softmax(x)), "int8", images(2, (70_000,)), **options)
    kq.export(qmodel, "never.tflite", input_shape=(None,))


def open_onnx():
    kq.export(kq.quantize(small(), input_shape=(9, 9, 3)), "never.onnx", input_shape=(None, None, 3))


MISTAKES = {
    bilinear: r"'up_sampling2d\w*' holds a size: its RESIZE_BILINEAR to \[1, 12, 12, 3\].*`signatures=",
    a_number_of_the_size: r"'dense\w*' holds a size: its FULLY_CONNECTED",
    rows_of_two_kernels: r"softmax of 70000 terms.*`integer_only=True`",
    another_float_model: r"was not made of the float model.*Pass the one",
    both: "`input_shape`, or several, `signatures`",
    no_names: r"dict from names to shapes.*Received: signatures=\[\(9, 9, 3\)\]",
    open_onnx: r"`.onnx` has one size.*Received: input_shape=\(None, None, 3\)",
}


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda f: f.__name__)
def test_what_cannot_follow_is_an_error_that_says_so(mistake):
    with pytest.raises(kq.QuantizationError, match=MISTAKES[mistake]):
        mistake()


RECURRENT = {
    "lstm": lambda x: L.LSTM(4, return_sequences=True)(x),
    "both_ways": lambda x: L.Bidirectional(L.GRU(4))(x),
    "decoder": lambda x: L.GRU(4)(x, initial_state=L.GRU(4, return_state=True)(x)[1]),
}


@pytest.mark.parametrize("name", few(RECURRENT, "both_ways"))
def test_recurrent_layers_at_another_length(name, tmp_path):
    x = np.random.default_rng(0).standard_normal((16, 20, 5)).astype("float32")
    qmodel = kq.quantize(shake(functional(RECURRENT[name], (20, 5))), "int8", x)
    for length in (7, 18):
        kq.export(qmodel, tmp_path / "m.tflite", input_shape=(length, 5))
        report = kq.verify(qmodel, tmp_path / "m.tflite", x[:, :length], intermediates=True, verbose=0)
        assert report.equal and report.elements


def test_recurrent_layers_of_open_length(tmp_path):
    x = np.random.default_rng(0).standard_normal((16, 20, 5)).astype("float32")
    qmodel = kq.quantize(shake(functional(lambda x: L.LSTM(4)(x), (None, 5))), "int8", x)
    kq.export(qmodel, tmp_path / "m.tflite", signatures={"short": (9, 5), "long": (20, 5)})
    data = {"short": x[:, :9], "long": x}
    assert kq.verify(qmodel, tmp_path / "m.tflite", data, intermediates=True, verbose=0).equal
    with pytest.raises(kq.ExportError, match="'lstm.*' holds a size.*signature for each size"):
        kq.export(qmodel, tmp_path / "m.tflite", input_shape=(None, 5))


def test_steps_of_another_size_are_refused():
    x = np.random.default_rng(0).standard_normal((4, 18, 6, 6, 2)).astype("float32")
    qmodel = kq.quantize(functional(lambda x: L.ConvLSTM2D(2, 3)(x), x.shape[1:]), "int8", x)
    with pytest.raises(kq.QuantizationError, match="Pass"):
        Sizes(qmodel).at((18, 8, 8, 2))
