"""Layers of one's own in the spellings that people use: all of them are the same integers on the device."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import keras_quant as kq
from tests.helpers import assert_near_float, few, functional, images, quantize_and_ship, shake, ship

L = keras.layers
WORDS = (12, 8)
ARRAY = np.linspace(0.5, 2.0, 8)
MIXING = np.random.default_rng(3).uniform(-0.5, 0.5, (12, 12)).astype("float32")


class Own(L.Layer):
    """`form(w, x)` on a variable of the shape `size`."""

    def __init__(self, form, size=None, **kwargs):
        super().__init__(**kwargs)
        self.form, self.size = form, size

    def build(self, input_shape):
        size = input_shape[-1:] if self.size is None else self.size
        self.w = self.add_weight(shape=size, initializer=keras.initializers.RandomUniform(0.5, 1.5, 1), name="w")

    def call(self, x):
        return self.form(self.w, x)


# Name: the form, and the variable's shape where it is not that of the channels.
FORMS = {
    "w * x": (lambda w, x: w * x,),
    "w - x": (lambda w, x: w - x,),
    "w / x": (lambda w, x: w / (ops.abs(x) + 1.0),),
    "w ** x": (lambda w, x: w**x,),
    "(1 + w) * x": (lambda w, x: (1 + w) * x,),
    "exp(w) * x": (lambda w, x: ops.exp(w) * x,),
    "w.value * x": (lambda w, x: w.value * x,),
    "convert_to_tensor(w) * x": (lambda w, x: ops.convert_to_tensor(w) * x,),
    "multiply(w, x)": (lambda w, x: ops.multiply(w, x),),
    "a gate of weights": (lambda w, x: ops.sigmoid(w) * x + (1 - ops.sigmoid(w)) * ops.relu(x),),
    "array * x": (lambda w, x: ARRAY * x,),
    "integers * x": (lambda w, x: np.arange(1, 9) * x,),
    "NumPy's scalars": (lambda w, x: np.float32(2.5) * x + np.float64(1.5) - np.int32(2),),
    "x - list": (lambda w, x: (x - [1.0] * 8) / [2.0] * 8,),
    "x + ones_like(x) * w": (lambda w, x: x + ops.ones_like(x) * w,),
    "widened": (lambda w, x: w * ops.mean(x, 1, keepdims=True), (1, 7, 8)),
    "widened channels": (lambda w, x: w - ops.mean(x, -1, keepdims=True),),
    "maximum(x, w)": (lambda w, x: ops.maximum(x, w), WORDS),
    "minimum(w, x)": (lambda w, x: ops.minimum(w, x), (12, 1)),
    "stack": (lambda w, x: ops.stack([x, ops.broadcast_to(w, ops.shape(x))], 1),),
    "matmul(w, x)": (lambda w, x: ops.matmul(w, x), (5, 12)),
    "x - w": (lambda w, x: (x - w) / w,),
    "rows of w": (lambda w, x: x + w[: x.shape[1]], (20, 8)),
    "w repeated": (
        lambda w, x: x + ops.repeat(w[None], ops.shape(x)[0], 0) + ops.tile(w[None], (ops.shape(x)[0], 1, 1)),
        WORDS,
    ),
    "a class token": (
        lambda w, x: ops.concatenate([ops.broadcast_to(w, (ops.shape(x)[0], 1, 8)), x], 1),
        (1, 1, 8),
    ),
    "one w, two places": (lambda w, x: ops.matmul(ops.relu(ops.matmul(x, w)), ops.transpose(w)), (8, 5)),
    "TensorFlow's functions": (lambda w, x: tf.nn.relu(x) * tf.sigmoid(w) + tf.broadcast_to(tf.tanh(w), tf.shape(x)),),
    "array @ x": (lambda w, x: MIXING @ x,),
    "matmul(x, w), three axes": (lambda w, x: ops.matmul(x, w), (1, 8, 8)),
    "dot(x, v)": (lambda w, x: ops.expand_dims(ops.dot(x, w), -1),),
    "tensordot": (lambda w, x: ops.tensordot(x, w, [[1], [0]]), (12, 5)),
    "einsum, weights first": (lambda w, x: ops.einsum("tk,bkc->btc", w, x), (12, 12)),
    "einsum of the middle axis": (lambda w, x: ops.einsum("bkc,tk->btc", x, w), (5, 12)),
    "einsum with an ellipsis": (lambda w, x: ops.einsum("...c,cd->...d", x, w), (8, 5)),
    "einsum that multiplies": (lambda w, x: ops.einsum("c,btc->bct", w, x),),
    "einsum that sums": (lambda w, x: ops.expand_dims(ops.einsum("btc,c->bt", x, w), -1),),
    "einsum, weights a position": (lambda w, x: ops.einsum("btc,tcd->btd", x, w), (12, 8, 5)),
    "einsum of one": (lambda w, x: ops.einsum("btc->bct", x),),
    "moments": (lambda w, x: (x - ops.moments(x, -1, keepdims=True)[0]) * w,),
    "weight normalization": (lambda w, x: ops.matmul(x, w * ops.rsqrt(ops.sum(ops.square(w), 0))), (8, 5)),
}
FIXED = ("array * x", "integers * x", "NumPy's scalars", "x - list", "array @ x", "einsum of one")


@pytest.mark.parametrize(
    "name",
    few(FORMS, "w / x", "w.value * x", "a gate of weights", "array @ x"),
)
def test_forms_ship(name, tmp_path):
    form, *size = FORMS[name]
    model = functional(lambda x: L.Dense(3)(Own(form, *size, name="own")(L.Dense(8)(x))), WORDS)
    x = images(24, WORDS)
    qmodel = kq.quantize(shake(model), "int8", x)
    assert_near_float(model, qmodel, x)
    own = [v for v in qmodel.trainable_variables if v.path.startswith("own")]
    assert bool(own) == (name not in FIXED)
    if own:
        before = [np.array(v) for v in own]
        qmodel.compile("sgd", "mse")
        qmodel.fit(x, np.zeros((24, *qmodel.output_shape[1:])), verbose=0)
        assert not any(np.array_equal(old, v) for old, v in zip(before, own))
    report, _ = ship(qmodel, tmp_path, x)
    assert not any("FLOAT32" in str(operator) for operator in report.operators)


@pytest.mark.parametrize(
    "form, size, message",
    [
        (lambda w, x: ops.mean(x, 1) + w, (1, 1, 8), "before, or in, the batch"),
        (lambda w, x: ops.tensordot(w, x, [[1], [1]]), (5, 12), "leaves the batch first"),
        (lambda w, x: ops.einsum("btc,cd", x, w), (8, 5), "labels written out behind '->'"),
        (lambda w, x: (ops.abs(x) + 0.5) ** w, (8,), "a tensor and one number"),
    ],
)
def test_a_form_without_integers_says_why(form, size, message):
    model = keras.Sequential([keras.Input(WORDS), Own(form, size, name="own")])
    with pytest.raises(kq.UnsupportedLayerError, match=f"(?s)'own/.*test_spelling.py.*{message}"):
        kq.quantize(model)


class Reader(L.Layer):
    """Learned queries: a layer of weights alone, then attention with the input."""

    def build(self, input_shape):
        self.queries = self.add_weight(shape=(4, 8), initializer="random_normal", name="queries")
        self.dense, self.attention = L.Dense(8), L.MultiHeadAttention(2, 4)

    def call(self, x):
        queries = ops.broadcast_to(self.queries[None], (ops.shape(x)[0], 4, 8))
        return self.attention(self.dense(queries), x)


@pytest.mark.parametrize("batch_size", few([1, 3, None], 3))
def test_learned_queries_ship(batch_size, tmp_path):
    x = images(24, WORDS)
    quantize_and_ship(functional(lambda x: L.Dense(3)(Reader()(x)), WORDS), tmp_path, x, batch_size=batch_size)


def test_a_constant_among_the_tensors_of_a_layer_trains(tmp_path):
    class Table(L.Layer):
        def build(self, input_shape):
            self.table = self.add_weight(shape=(1, *WORDS), initializer="random_normal", name="table")
            self.join = L.Maximum()

        def call(self, x):
            return self.join([self.table, x])

    x = images(24, WORDS)
    qmodel, _ = quantize_and_ship(functional(lambda x: L.Dense(3)(Table(name="own")(L.Dense(8)(x))), WORDS), tmp_path, x)
    (constant,) = [layer for layer in qmodel.layers if isinstance(layer, kq.layers.QuantConstant)]
    before = np.array(constant.constant)
    qmodel.compile("sgd", "mse")
    qmodel.fit(x, np.zeros((24, 12, 3)), verbose=0)
    assert not np.array_equal(before, constant.constant)
    path = tmp_path / "q.keras"
    qmodel.save(path)
    ship(keras.models.load_model(path), tmp_path, x)


class Beside(L.Layer):
    """What is no tensor beside one, a loss and a metric in `call`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense, self.mean = L.Dense(8), keras.metrics.Mean()

    def call(self, x, scale=None, keep=False):
        y = self.dense(x)
        self.mean.update_state(ops.mean(y))
        self.add_loss(1e-3 * ops.mean(ops.abs(y)))
        return (y if scale is None else y * scale), None, {"input": x, "rate": 0.5} if keep else None


class Calls(L.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = Beside(name="first"), Beside(name="second")

    def call(self, x):
        y, nothing, more = self.first(x, keep=True)
        assert nothing is None and more["rate"] == 0.5
        return self.second(y, scale=more["input"])[0]


def test_outputs_that_are_no_tensors_pass_and_losses_are_told(tmp_path):
    with pytest.warns(UserWarning, match="'first' calls `add_loss`"):
        quantize_and_ship(functional(lambda x: L.Dense(3)(Calls()(x)), WORDS), tmp_path)


class Bare(keras.regularizers.Regularizer):
    """No `get_config`, not registered."""

    def __call__(self, x):
        return 1e-3 * ops.sum(ops.square(x))


class Start(keras.initializers.Initializer):
    def __call__(self, shape, dtype=None):
        return keras.random.normal(shape, stddev=0.3, seed=1)


class Within(keras.constraints.Constraint):
    def __call__(self, w):
        return ops.clip(w, -0.5, 0.5)


def test_objects_without_config_are_passed_on(tmp_path):
    options = {"kernel_regularizer": Bare(), "kernel_initializer": Start(), "bias_constraint": Within()}
    model = functional(lambda x: L.Dense(3, activity_regularizer=Bare())(L.Conv1D(8, 3, **options)(x)), WORDS)
    qmodel, _ = quantize_and_ship(model, tmp_path)
    assert qmodel.layers[2].kernel_regularizer is options["kernel_regularizer"]
    qmodel.compile("adam", "mse")
    qmodel.fit(images(8, WORDS), np.zeros((8, 10, 3)), verbose=0)
    assert len(qmodel.losses) == 2


def test_functions_as_activations_are_looked_into(tmp_path):
    squared = lambda x: ops.square(ops.relu(x))
    layers = [L.Conv1D(8, 3, activation=squared), L.Activation(squared), L.Dense(8, activation=L.LeakyReLU(0.1)), L.Dense(3)]
    quantize_and_ship(keras.Sequential([keras.Input(WORDS), *layers]), tmp_path)


def test_a_dropout_shared_by_float_and_integers(tmp_path):
    drop, x = L.Dropout(0.1), images(24, WORDS)
    build = lambda i: L.Dense(3)(drop(ops.sort(L.Dense(8)(i))) + drop(L.Dense(8)(i)))
    qmodel = kq.quantize(functional(build, WORDS), "int8", x, fallback="float")
    kq.export(qmodel, tmp_path / "m.tflite", fallback="converter")
    assert kq.verify(qmodel, tmp_path / "m.tflite", x, verbose=0).elements == 24 * 12 * 3


@pytest.mark.slow
def test_identity_of_a_structure(tmp_path):
    def build(x):
        pair = L.Identity()({"left": L.Dense(8)(x), "right": x})
        return L.Dense(3)(pair["left"] * pair["right"])

    quantize_and_ship(functional(build, WORDS), tmp_path)


def test_random_crop_leaves_the_image_whole_in_inference_and_cuts_in_training(tmp_path):
    build = lambda x: L.GlobalAveragePooling2D()(L.Conv2D(4, 3)(L.RandomCrop(8, 8, seed=1)(x)))
    qmodel, _ = quantize_and_ship(functional(build), tmp_path)
    crop = next(layer for layer in qmodel.layers if isinstance(layer, keras.layers.RandomCrop))
    inside = keras.Model(qmodel.input, crop.output)
    assert inside(images(2), training=True).shape == (2, 8, 8, 6)
    assert inside(images(2), training=False).shape == (2, 12, 12, 6)


@pytest.mark.slow
def test_a_functional_model_with_a_call_of_its_own(tmp_path):
    class Halved(keras.Model):
        def __init__(self):
            x = keras.Input(WORDS)
            super().__init__(x, L.Dense(3)(L.Dense(8, "relu")(x)))

        def call(self, x, training=None, mask=None):
            return super().call(x, training=training) * 0.5

    quantize_and_ship(Halved(), tmp_path)


@pytest.mark.slow
def test_layers_of_keras_that_are_subclassed(tmp_path):
    class Standardized(L.Conv2D):
        def call(self, x):
            mean = ops.mean(self.kernel, (0, 1, 2), keepdims=True)
            kernel = (self.kernel - mean) / ops.sqrt(ops.var(self.kernel, (0, 1, 2), keepdims=True) + 1e-5)
            return ops.conv(x, kernel, padding=self.padding) + self.bias

    class Halved(L.Dense):
        def call(self, x):
            return super().call(x) * 0.5

    layers = [Standardized(4, 3), L.BatchNormalization(), L.ReLU(), L.Flatten(), Halved(8, activation="relu"), L.Dense(3)]
    quantize_and_ship(keras.Sequential([keras.Input((12, 12, 6)), *layers]), tmp_path)


class TwoOutputs(L.Layer):
    """Its `compute_output_shape` is of one of them, as that of keras_hub's rotary embedding is."""

    def call(self, a, b, scale=1.0):
        return a * scale, b

    def compute_output_shape(self, shape):
        return shape


class CallsOthers(L.Layer):
    def __init__(self):
        super().__init__()
        self.two, self.dense = TwoOutputs(), L.Dense(4)

    def call(self, x, training=None):
        a, b = self.two(x, self.dense(x, training=training), scale=0.5)
        return a + b


def test_layers_inside_return_what_their_call_makes(tmp_path):
    quantize_and_ship(functional(lambda x: CallsOthers()(x), (4,)), tmp_path)
