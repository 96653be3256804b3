"""What cannot be quantized is one error: layer, file and line, and what to do."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_quant as kq
from tests.helpers import functional, sequential

L, ops = keras.layers, keras.ops
# Messages offer all of these where they work.
WAYS_OUT = r"register_quantized_layer.*fallback=\"float\".*fallback=\"converter\""
HERE = r"test_bad_models\.py:\d+"


class Branching(L.Layer):
    def call(self, x):
        if ops.sum(x) > 0:
            return x
        return -x

    def compute_output_shape(self, shape):
        return shape


class Counting(L.Layer):
    def build(self, shape):
        self.count = self.add_weight(name="count", shape=(), initializer="zeros", trainable=False)

    def call(self, x):
        self.count.assign_add(1.0)
        return ops.relu(x)


class Noisy(L.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(1)

    def call(self, x):
        return x + keras.random.normal((8, 8, 3), seed=self.seed_generator)


class OtherLibrary(tf.Module):
    def __call__(self, x):
        return tf.math.lgamma(x)


class Wrapper(L.Layer):
    def __init__(self, module, **kwargs):
        super().__init__(**kwargs)
        self.module = module

    def call(self, x):
        return self.module(x)


class NumberOut(L.Layer):
    def call(self, x):
        return 1.0

    def compute_output_shape(self, shape):
        return ()


class ManyOperations(L.Layer):
    def call(self, x):
        return ops.relu(ops.sort(x, axis=1))


BAD = {
    "control flow on values": (Branching(name="odd"), rf"'odd' \(Branching\) cannot be traced at .*{HERE}"),
    "a variable that counts": (Counting(name="odd"), rf"'odd' \(Counting\).*{HERE}: it changes the variable '.*odd/count'"),
    "random numbers": (Noisy(name="odd"), rf"'odd' \(Noisy\).*{HERE}: it changes the variable '.*seed"),
    "a TensorFlow lambda": (
        L.Lambda(lambda x: tf.math.lgamma(x), name="odd"),
        rf"'odd' \(Lambda\) cannot be traced at .*{HERE}: TensorFlow's operator Lgamma has no function of the same meaning",
    ),
    "another library": (Wrapper(OtherLibrary(), name="odd"), rf"'odd' \(Wrapper\) cannot be traced at .*{HERE}: .*Lgamma"),
    "an operation": (
        ManyOperations(name="odd"),
        rf"Operation 'odd/sort\w*' \(Sort\) at .*{HERE} has no quantized form",
    ),
}


IN_FLOAT = ("a TensorFlow lambda", "another library", "an operation")


@pytest.mark.parametrize("name", BAD)
def test_a_bad_layer_is_named(name):
    layer, message = BAD[name]
    with pytest.raises(kq.UnsupportedLayerError, match=message) as caught:
        kq.quantize(sequential(layer, shape=(8, 8, 3)))
    if name in IN_FLOAT:
        caught.match(WAYS_OUT)
    else:
        caught.match("register_quantized_layer")
        assert "fallback" not in str(caught.value)


def test_a_constant_that_does_not_fit_is_named_with_its_operation():
    message = r"Operation 'multiply\w*' \(Multiply\).*batch, 8, 8, 3\] and \[5, 8, 8, 3\]"
    with pytest.raises(kq.UnsupportedLayerError, match=message):
        kq.quantize(functional(lambda x: x * np.ones((5, 8, 8, 3), "float32"), shape=(8, 8, 3)))


def test_the_path_leads_to_the_layer_inside():
    inner = sequential(L.Conv2D(3, 1), Branching(name="odd"), shape=(8, 8, 3))
    inner.name = "inner"
    with pytest.raises(kq.UnsupportedLayerError, match=r"Layer 'inner/odd' \(Branching\)"):
        kq.quantize(functional(lambda x: inner(x), shape=(8, 8, 3)))


def test_tracing_leaves_a_counter_as_it_is():
    layer = Counting(name="odd")
    model = sequential(layer, shape=(8, 8, 3))
    with pytest.raises(kq.UnsupportedLayerError):
        kq.quantize(model)
    assert float(layer.count) == 0


def test_an_output_that_does_not_depend_on_the_input():
    with pytest.raises(
        kq.UnsupportedLayerError, match=r"'odd' \(NumberOut\).*does not depend on its input. Received: float"
    ):
        kq.quantize(functional(lambda x: NumberOut(name="odd")(x), shape=(8, 8, 3)))


def test_a_constant_as_output_of_the_model():
    class Constant(L.Layer):
        def call(self, x):
            return ops.ones((1, 4))

    with pytest.raises(kq.QuantizationError, match="an output that does not depend on its input"):
        kq.quantize(functional(lambda x: [x * 2, Constant()(x)], shape=(4,)))


@pytest.mark.parametrize("cls", [L.Dropout, L.GaussianNoise])
def test_a_layer_forced_to_act_in_inference(cls):
    with pytest.raises(kq.UnsupportedLayerError, match="'odd'.*`training=True`"):
        kq.quantize(functional(lambda x: cls(0.5, name="odd")(x, training=True), shape=(8, 8, 3)))


def test_text_is_refused():
    words = keras.Input((1,), dtype="string", name="words")
    with pytest.raises(kq.QuantizationError, match="Input 'words' holds string values.*data pipeline"):
        kq.quantize(keras.Model(words, L.Identity()(words)))


@pytest.mark.parametrize("kind", ["sparse", "ragged"])
def test_sparse_and_ragged_inputs_are_refused(kind):
    try:
        x = keras.Input((4,), name="odd", **{kind: True})
    except TypeError:
        pytest.skip(f"this Keras has no {kind} inputs")
    with pytest.raises(kq.QuantizationError, match=f"Input 'odd' holds {kind} values"):
        kq.quantize(keras.Model(x, L.Identity()(x)))


def test_a_layer_that_cannot_be_copied_is_not_kept():
    model = sequential(Wrapper(OtherLibrary(), name="odd"), shape=(8, 8, 3))
    with pytest.raises(kq.UnsupportedLayerError, match=r"'odd' \(Wrapper\).*cannot be copied.*get_config"):
        kq.quantize(model, fallback="float")


def test_the_command_line_says_it_in_one_line(tmp_path, capfd, monkeypatch):
    from keras_quant_cli import main

    monkeypatch.setattr("importlib.metadata.version", lambda name: "0")
    odd = L.Resizing(6, 9, pad_to_aspect_ratio=True, fill_value=1.0, name="odd")
    sequential(odd, shape=(12, 12, 3)).save(tmp_path / "m.keras")
    status = main(["quantize", str(tmp_path / "m.keras"), "-o", str(tmp_path / "q.keras")])
    lines = capfd.readouterr().err.splitlines()
    assert status == 2 and len(lines) == 1 and "Layer 'odd'" in lines[0]
    assert not (tmp_path / "q.keras").exists()
