"""Models whose inputs are open in size: quantized at one, written for another."""

import keras
import numpy as np
import pytest

import keras_quant as kq
from tests.helpers import few, images, ship

L, ops = keras.layers, keras.ops


def open_image():
    x = inputs = keras.Input((None, None, 3), name="image")
    x = L.Conv2D(4, 3, padding="same", activation="relu")(x)
    y = L.UpSampling2D()(L.BatchNormalization()(L.Conv2D(6, 3, padding="same")(L.MaxPooling2D()(x))))
    y = L.Concatenate()([x, y])
    return keras.Model(inputs, [L.Conv2D(2, 1)(y), L.Dense(3)(L.GlobalAveragePooling2D()(y))])


def open_length():
    convolution = L.Conv1D(6, 3, padding="causal", activation="relu")
    return keras.Sequential([keras.Input((None, 4)), convolution, L.MaxPooling1D(), L.GlobalAveragePooling1D(), L.Dense(3)])


def half_open():
    return keras.Sequential([keras.Input((32, None, 1)), L.Conv2D(4, 3), L.GlobalMaxPooling2D(), L.Dense(3)])


def open_signal():
    x = keras.Input((None,))
    return keras.Model(x, L.GlobalAveragePooling1D()(L.Conv1D(4, 5, strides=3)(ops.expand_dims(x, -1))))


class Tokens(L.Layer):
    def call(self, x):
        batch, height, width, channels = ops.shape(x)
        return ops.reshape(x, (batch, height * width, channels))


def open_tokens():
    x = inputs = keras.Input((None, None, 3))
    x = Tokens()(L.Conv2D(8, 4, 4)(x))
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling1D()(x + L.MultiHeadAttention(2, 4)(x, x))))


class OwnBuild(keras.Model):
    """One whose `build` takes no shapes that Keras could note."""

    def __init__(self):
        super().__init__()
        self.first, self.last = L.Conv2D(4, 3, activation="relu"), L.Dense(2)

    def build(self, input_shape=None):
        self.first.build((None, None, None, 3))
        self.last.build((None, 4))
        self.built = True

    def call(self, x):
        return self.last(ops.mean(self.first(x), axis=(1, 2)))


def own_build():
    model = OwnBuild()
    model.build()
    return model


OPEN = {
    "image": (open_image, (16, 24, 3)),
    "length": (open_length, (20, 4)),
    "half": (half_open, (32, 20, 1)),
    "signal": (open_signal, (64,)),
    "tokens": (open_tokens, (16, 24, 3)),
    "own build": (own_build, (12, 12, 3)),
}


@pytest.mark.parametrize("name", few(OPEN, "own build"))
def test_the_size_is_that_of_the_calibration_data(name, tmp_path):
    build, shape = OPEN[name]
    model, x = build(), images(8, shape)
    qmodel = kq.quantize(model, "int8", x)
    assert qmodel.inputs[0].shape == (None, *shape)
    ship(qmodel, tmp_path, x)
    report = kq.report(qmodel, x, float_model=model)
    assert min(report.output_sqnr.values()) > 25


@pytest.mark.parametrize("wanted", [(20, 4), [(20, 4)], {"signal": (20, 4)}])
def test_the_size_can_be_asked_for(wanted):
    model = keras.Sequential([keras.Input((None, 4), name="signal"), L.Dense(3)])
    assert kq.quantize(model, input_shape=wanted).inputs[0].shape == (None, 20, 4)


def test_half_a_size_leaves_the_rest_to_the_data():
    model = keras.Sequential([keras.Input((None, None, 3)), L.Dense(3)])
    assert kq.quantize(model, "int8", images(2, (8, 6, 3)), input_shape=(8, None, 3)).inputs[0].shape == (None, 8, 6, 3)
    with pytest.raises(kq.QuantizationError, match="dynamic dimension"):
        kq.quantize(model, input_shape=(8, None, 3))


@pytest.mark.slow
def test_a_generator_loses_no_batch_and_a_dataset_says_the_size():
    batches = [images(4, (16, 16, 3), seed) for seed in range(3)]
    whole = kq.quantize(model := open_image(), "int8", iter(batches))
    again = kq.quantize(model, "int8", [(batch, None) for batch in batches], input_shape=(16, 16, 3))
    for a, b in zip(whole.get_weights(), again.get_weights()):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_file_for_another_size_has_the_same_weights_and_ranges(tmp_path):
    model = open_image()
    qmodel = kq.quantize(model, "int8", images(8, (16, 16, 3)))
    kq.export(qmodel, tmp_path / "other.tflite", input_shape=(24, 32, 3))
    assert kq.verify(qmodel, tmp_path / "other.tflite", images(4, (24, 32, 3)), intermediates=True).equal
    other = kq.quantize(model, input_shape=(24, 32, 3))
    other.set_weights(qmodel.get_weights())
    kq.export(other, tmp_path / "again.tflite")
    assert (tmp_path / "again.tflite").read_bytes() == (tmp_path / "other.tflite").read_bytes()
    with pytest.raises(kq.CalibrationError, match="Input 'image' takes batches of shape"):
        kq.verify(qmodel, tmp_path / "other.tflite", images(4, (16, 16, 3)))


@pytest.mark.slow
def test_a_search_takes_the_size_of_its_data():
    policies = kq.search.assign(open_length(), images(8, (20, 4)), kq.search.Budget(loss=9.0), ["int4", "int8"], verbose=0)
    assert isinstance(policies, kq.PolicyMap)


def wrong_rank():
    kq.quantize(open_image(), input_shape=(16, 16))


def closed_dimension():
    kq.quantize(open_image(), input_shape=(16, 16, 4))


def unknown_input():
    kq.quantize(open_image(), input_shape={"picture": (16, 16, 3)})


def too_small():
    kq.quantize(half_open(), input_shape=(32, 2, 1))


def several_sizes():
    kq.quantize(open_image(), "int8", [images(2, (16, 16, 3)), images(2, (24, 24, 3))])


def data_of_another_size():
    kq.quantize(open_image(), "int8", images(2, (24, 24, 3)), input_shape=(16, 16, 3))


def nothing_said():
    kq.quantize(own_build())


def a_layer_that_holds_sizes():
    kq.export(kq.quantize(open_signal(), input_shape=(64,)), "never.tflite", input_shape=(32,))


def weights_for_one_size():
    qmodel = kq.quantize(keras.Sequential([keras.Input((8, 8, 3)), L.Flatten(), L.Dense(2)]))
    kq.export(qmodel, "never.tflite", input_shape=(9, 9, 3))


MISTAKES = {
    wrong_rank: r"Input 'image' is of shape \(None, None, 3\).*Received: input_shape=\(16, 16\)",
    closed_dimension: r"Input 'image' is of shape.*`None` there.*\(16, 16, 4\)",
    unknown_input: r"no input 'picture'; its inputs are \['image'\]",
    too_small: r"cannot take inputs of this size.* in layer 'conv2d\w*'.*Received: .*\(None, 32, 2, 1\)",
    several_sizes: r"All data.*one size; resize.*'image' takes batches of shape \(None, 16, 16, 3\).*\(2, 24, 24, 3\)",
    data_of_another_size: r"`input_shape`. Input 'image' takes batches of shape \(None, 16, 16, 3\).*\(2, 24, 24, 3\)",
    nothing_said: r"Keras noted no input shape of model 'own_build\w*'.*`calibration_data`.*`input_shape`",
    a_layer_that_holds_sizes: r"Layer 'expand_dims\w*' \(QuantReshape\) holds sizes.*`float_model=model`",
    weights_for_one_size: r"Layer 'dense\w*' \(QuantDense\) has weights for one size.*Resize or pad",
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda f: f.__name__)
def test_a_wrong_size_is_an_error_that_says_so(mistake):
    with pytest.raises(kq.QuantizationError, match=MISTAKES[mistake]):
        mistake()
