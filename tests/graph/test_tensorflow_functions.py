"""Layers whose `call` uses TensorFlow's functions."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.ops.nn import ConvTranspose

import keras_quant as kq
from keras_quant.graph import trace
from keras_quant.graph.graph import in_inference
from tests import tensorflow_functions as own
from tests.helpers import few, functional, images, quantize_and_ship, sequential, shake, ship

L = keras.layers


def in_lambdas(functions):
    """A model with an output for each function of a convolution's result."""

    def build(x):
        x = L.Conv2D(6, 3, padding="same")(x)
        return [L.Lambda(function, name=name)(x) for name, function in functions.items()]

    return functional(build)


def compute(node, args, kwargs):
    operation = node.operation
    if isinstance(operation, ConvTranspose):  # Keras's own `call` mistakes one argument for another
        return keras.ops.conv_transpose(*args, operation.strides, operation.padding, operation.output_padding)
    return in_inference(node, args, kwargs)


def transformer(encode):
    inputs = keras.Input((12, 12, 3))
    x = encode(inputs)
    y = L.LayerNormalization()(x)
    x = L.Add()([x, own.SelfAttention(16, 2, name="attention")(y)])
    y = L.Dense(16)(L.Dense(32, activation="gelu")(L.LayerNormalization()(x)))
    return keras.Model(inputs, L.Dense(4)(L.GlobalAveragePooling1D()(L.Add()([x, y]))))


def patches(x):
    return own.PatchEncoder(9, 16)(own.Patches(4)(x))


def tokens(x):
    return own.ClassToken()(L.Reshape((9, 16))(L.Dense(16)(own.Patches(4)(x))))


def classifier():
    model = own.Classifier()
    model(images(2))
    return model


def super_resolution():
    x = keras.Input((8, 8, 3))
    large = L.Lambda(lambda t: tf.image.resize(t, (16, 16)))(x)
    return keras.Model(x, own.SubPixel(3)(L.Conv2D(8, 3, padding="same", activation="relu")(x)) + large)


MODELS = {
    "vision transformer": lambda: transformer(patches),
    "class token": lambda: transformer(tokens),
    "subclassed": classifier,
    "instance normalization": lambda: sequential(L.Conv2D(8, 3), own.InstanceNormalization(), L.ReLU(), L.Conv2D(3, 1)),
    "super resolution": super_resolution,
    "random fourier features": lambda: sequential(L.Dense(8), own.RandomFourier(), L.Dense(3), shape=(12,)),
    "weights": lambda: sequential(own.Project(8), own.Project(5, "across"), L.Dense(3), shape=(9, 16)),
    "no Keras variables": lambda: sequential(own.OfNoKerasVariables(), L.Dense(3), shape=(9, 16)),
    "channel attention": lambda: sequential(L.Conv2D(8, 3), own.ChannelAttention(), L.GlobalAveragePooling2D()),
    "a Keras layer's subclass": lambda: sequential(own.RectifiedDense(8), L.Dense(3), shape=(9, 16)),
    "a tf.function": lambda: sequential(own.Compiled(), L.Conv2D(3, 3)),
}


@pytest.mark.parametrize("group", [*own.FUNCTIONS, None])
def test_a_function_is_read_as_one_of_the_same_meaning(group):
    functions = own.READ_ONLY if group is None else own.FUNCTIONS[group]
    # One sample: a constant that is repeated for each is not repeated here.
    model, x = in_lambdas(functions), images(1)
    graph = trace(model)
    values = graph.run([x], compute)
    for name, wanted, value in zip(functions, model(x), graph.outputs):
        got = values[value]
        assert got.shape == wanted.shape and got.dtype == wanted.dtype, name
        np.testing.assert_allclose(got, wanted, 1e-4, 1e-4, err_msg=name)
        assert value.shape[1:] == wanted.shape[1:], name


@pytest.mark.parametrize("group", few(own.FUNCTIONS))
def test_functions_ship(group, tmp_path):
    model, x = in_lambdas(own.FUNCTIONS[group]), images()
    qmodel, _ = quantize_and_ship(model, tmp_path, x)
    assert len(qmodel.outputs) == len(own.FUNCTIONS[group])


@pytest.mark.parametrize("name", few(MODELS))
def test_models_ship_train_and_load(name, tmp_path):
    model = MODELS[name]()
    x = images(shape=(12, 12, 6) if name == "subclassed" else model.input_shape[1:])
    qmodel, _ = quantize_and_ship(model, tmp_path, x)
    qmodel.compile("adam", "mse")
    qmodel.fit(x, np.asarray(model(x)), verbose=0)
    ship(qmodel, tmp_path, x)
    qmodel.save(tmp_path / "m.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "m.keras")(x), qmodel(x))


def test_a_small_layer_ships(tmp_path):
    quantize_and_ship(sequential(L.Conv2D(4, 3), own.SubPixel(1), L.Lambda(lambda x: x[..., 0])), tmp_path)


def test_layers_inside_stay_layers():
    paths = [node.path for node in trace(classifier()).nodes]
    assert paths[0] == "block/conv" and {"block/excite/down", "block/excite/up", "features/conv", "head"} <= set(paths)


def test_weights_of_the_layers_own_train_on():
    qmodel = kq.quantize(shake(MODELS["weights"]()), "int8", images(shape=(9, 16)))
    assert len(qmodel.trainable_variables) == 6


def test_functions_spelled_out_are_one_operation():
    kinds = {
        "tanh_gelu": "Gelu",
        "erf_gelu": "Gelu",
        "swish": "Silu",
        "mish": "Activation",
        "hard_swish": "HardSilu",
    }
    graph = trace(in_lambdas({name: own.FUNCTIONS["spelled_out"][name] for name in kinds}))
    assert [type(node.operation).__name__ for node in graph.nodes[1:]] == list(kinds.values())


def test_a_dilated_convolution_is_one_operation():
    graph = trace(in_lambdas({"odd": own.FUNCTIONS["weighted"]["depthwise_dilated"]}))
    assert [type(node.operation).__name__ for node in graph.nodes] == ["Conv2D", "DepthwiseConv"]


def test_the_graph_of_a_layer_is_left_as_it_is():
    model, x = classifier(), images(2)
    before = [(len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in model._flatten_layers()]
    call, outputs = L.Layer.__call__, model.predict(x, verbose=0)
    trace(model)
    assert L.Layer.__call__ is call and not tf.config.functions_run_eagerly()
    assert [(len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in model._flatten_layers()] == before
    np.testing.assert_array_equal(model.predict(x, verbose=0), outputs)


class Odd(L.Layer):
    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function
        self.seen = tf.Variable(0.0, trainable=False)

    def call(self, x):
        return self.function(self, x)

    def compute_output_shape(self, shape):
        return shape


UNREADABLE = {
    "Fourier transform": (lambda layer, x: tf.abs(tf.signal.fft(tf.cast(x, "complex64"))), "has no function"),
    "a loop": (lambda layer, x: tf.map_fn(lambda image: image * 2.0, x), r"has no function .* as it is a loop, such as"),
    "a condition": (
        lambda layer, x: tf.cond(tf.reduce_sum(x) > 0, lambda: x, lambda: -x),
        "has no function .* as it is control flow on values",
    ),
    "Python": (
        lambda layer, x: tf.ensure_shape(tf.numpy_function(np.sin, [x], "float32"), x.shape),
        "PyFunc has no function .* as it runs Python code",
    ),
    "random numbers": (lambda layer, x: tf.nn.dropout(x, 0.5), "draws random numbers in inference"),
    "the number of samples": (
        lambda layer, x: x / tf.cast(tf.shape(x)[0], "float32"),
        "computes with the size of the batch",
    ),
    "a variable that counts": (
        lambda layer, x: tf.nn.relu(x) + layer.seen.assign_add(1.0),
        "AssignAddVariableOp changes a variable",
    ),
    "control flow on values": (
        lambda layer, x: tf.nn.relu(x) if tf.reduce_sum(x) > 0 else x,
        "decides by the values of a tensor",
    ),
    "an index that is computed": (lambda layer, x: x[:, tf.argmax(x[0, :, 0, 0])][:, None] + x, "that is computed from the"),
    "other pixels": (
        lambda layer, x: tf.compat.v1.image.resize_nearest_neighbor(x, (12, 12), align_corners=True),
        r"takes other pixels than .*Use `tf.image.resize`",
    ),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_named_with_its_line_and_cause(name):
    function, message = UNREADABLE[name]
    with pytest.raises(kq.UnsupportedLayerError, match=rf"'odd' \(Odd\).*test_tensorflow_functions\.py:\d+: .*{message}"):
        kq.quantize(sequential(L.Conv2D(6, 3, padding="same"), Odd(function, name="odd")))
