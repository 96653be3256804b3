import warnings

import keras
import numpy as np
import pytest

import keras_quant as kq
from keras_quant.graph import trace
from tests.helpers import functional, images, quantize_and_ship, sequential, shake, ship
from tests.recurrent_guides import ResidualCell

L = keras.layers


class Residual(L.Layer):
    """A layer made of layers, with an operator between tensors."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.first = L.Conv2D(filters, 3, padding="same", name="first")
        self.norm = L.BatchNormalization(name="norm")
        self.second = L.Conv2D(filters, 1, name="second")

    def build(self, shape):
        self.first.build(shape)
        inner = self.first.compute_output_shape(shape)
        self.norm.build(inner)
        self.second.build(inner)

    def call(self, x):
        y = self.second(keras.ops.relu(self.norm(self.first(x))))
        return keras.ops.relu(x + y)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.blocks = [Residual(6, name=f"block{i}") for i in range(2)]
        self.head = keras.Sequential([L.GlobalAveragePooling2D(name="pool"), L.Dense(3, name="logits")], name="head")

    def call(self, x, training=False):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def subclassed():
    model = Subclassed()
    model(images(2))
    return model


def nested():
    inner = sequential(L.Conv2D(4, 3, name="conv"), L.BatchNormalization(name="bn"), L.ReLU(name="relu"))
    inner.name = "inner"
    x = keras.Input((12, 12, 6))
    middle = keras.Model(x, L.Conv2D(4, 1, name="point")(inner(x)), name="middle")
    x = keras.Input((12, 12, 6), name="image")
    return keras.Model(x, L.Dense(2, name="out")(L.Flatten(name="flat")(middle(x))))


def shared():
    conv = L.Conv2D(6, 3, padding="same", name="shared")
    return functional(lambda x: L.Add(name="sum")([conv(conv(x)), x]))


def paths(model):
    return [node.path for node in trace(model).nodes]


def test_nested_models_become_one_graph_with_readable_paths():
    expected = ["middle/inner/conv", "middle/inner/bn", "middle/inner/relu", "middle/point", "flat", "out"]
    assert paths(nested()) == expected
    qmodel = kq.quantize(nested())
    names = ["image", "image_quantize", "middle.inner.conv", "middle.point", "flat", "out"]
    assert [layer.name for layer in qmodel.layers] == names


def test_subclassed_models_are_traced_through_their_calls():
    found = paths(subclassed())
    assert found[:2] == ["block0/first", "block0/norm"]
    assert found[-2:] == ["head/pool", "head/logits"]


def test_a_shared_layer_stays_one_layer():
    qmodel = kq.quantize(shared())
    assert [layer.name for layer in qmodel.layers].count("shared") == 1
    assert [node.path for node in trace(qmodel).nodes].count("shared") == 2


@pytest.mark.lowest
@pytest.mark.parametrize("build", [nested, subclassed, shared], ids=lambda f: f.__name__)
def test_traced_models_keep_their_function_and_ship(build, tmp_path):
    model = shake(build())
    x = images()
    qmodel, _ = quantize_and_ship(model, tmp_path, x)
    ours, theirs = qmodel.predict(x, verbose=0), model.predict(x, verbose=0)
    assert np.abs(ours - theirs).max() < 0.15 * np.abs(theirs).max()


@pytest.mark.parametrize("build", [nested, subclassed, shared], ids=lambda f: f.__name__)
def test_the_given_model_is_left_as_it_is(build):
    model = build()
    layers = list(model._flatten_layers())
    before = [(len(layer._inbound_nodes), len(layer._outbound_nodes), layer.trainable) for layer in layers]
    weights, x = model.get_weights(), images(4)
    outputs = model.predict(x, verbose=0)
    kq.quantize(model, "int8", images())
    assert [(len(layer._inbound_nodes), len(layer._outbound_nodes), layer.trainable) for layer in layers] == before
    for old, new in zip(weights, model.get_weights()):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(outputs, model.predict(x, verbose=0))


def test_non_trainable_weights_and_flags_are_kept():
    model = shake(sequential(L.Conv2D(4, 3, name="conv"), L.BatchNormalization(name="bn"), L.BatchNormalization(name="own")))
    model.get_layer("conv").trainable = False
    qmodel = kq.quantize(model)
    conv = qmodel.get_layer("conv")
    np.testing.assert_array_equal(conv.batch_norm.moving_variance, model.get_layer("bn").moving_variance)
    np.testing.assert_array_equal(qmodel.get_layer("own").moving_mean, model.get_layer("own").moving_mean)
    assert not conv.trainable and conv.batch_norm.trainable and not conv.kernel.trainable


def test_several_inputs_and_outputs_keep_names_and_structure(tmp_path):
    a, b = keras.Input((8, 8, 3), name="left"), keras.Input((8, 8, 3), name="right")
    x = L.Concatenate()([a, b])
    outputs = {"mask": L.Conv2D(1, 1, activation="sigmoid")(x), "class": L.Dense(3)(L.Flatten()(x))}
    model = keras.Model({"left": a, "right": b}, outputs)
    data = {"left": images(shape=(8, 8, 3)), "right": images(shape=(8, 8, 3), seed=5)}
    qmodel, _ = quantize_and_ship(model, tmp_path, data)
    assert set(qmodel.predict(data, verbose=0)) == {"mask", "class"}


def test_outputs_keep_their_names_when_their_layer_was_fused():
    model = sequential(L.Conv2D(4, 3, name="conv"), L.BatchNormalization(name="bn"), L.ReLU(name="final"))
    assert kq.quantize(model).output_names == ["final"]


def test_untraceable_layers_are_named_with_file_and_line():
    class Branching(L.Layer):
        def call(self, x):
            if keras.ops.sum(x) > 0:
                return x
            return -x

        def compute_output_shape(self, shape):
            return shape

    with pytest.raises(kq.UnsupportedLayerError, match=r"Layer 'odd' \(Branching\).*test_trace\.py:\d+"):
        kq.quantize(sequential(Branching(name="odd")))


def test_an_activation_that_is_no_layer_is_looked_into(tmp_path):
    model = sequential(L.Conv2D(4, 3), L.Activation("glu", name="gate"))
    qmodel, _ = quantize_and_ship(model, tmp_path)
    assert qmodel.output_shape == (None, 10, 10, 2)


def test_an_activation_without_quantized_form_names_its_layer():
    with pytest.raises(kq.UnsupportedLayerError, match=r"'odd_activation/sort' \(Sort\).*no quantized form"):
        kq.quantize(sequential(L.Conv2D(4, 3, activation=keras.ops.sort, name="odd")))


def test_operations_in_a_layer_have_the_same_path_whenever_it_is_traced():
    class Twice(L.Layer):
        def call(self, x):
            return keras.ops.relu(x + 1) * keras.ops.relu(x + 2)

    model = sequential(Twice(name="twice"))
    paths = [node.path for node in trace(model).nodes]
    assert paths == ["twice/add", "twice/relu", "twice/add_1", "twice/relu_1", "twice/multiply"]
    keras.ops.relu(keras.Input((3,)))
    assert [node.path for node in trace(model).nodes] == paths


def test_a_quantized_model_is_not_quantized_again():
    with pytest.raises(kq.QuantizationError, match="holds quantized layers already"):
        kq.quantize(kq.quantize(nested()))


def test_input_names_survive_saving(tmp_path):
    model = sequential(L.Conv2D(3, 3))
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert [v.name for v in trace(model).inputs] == [v.name for v in trace(loaded).inputs]


def test_a_dynamic_dimension_is_named():
    with pytest.raises(kq.QuantizationError, match=r"Input 'image' has a dynamic dimension.*Received: shape"):
        x = keras.Input((None, None, 3), name="image")
        kq.quantize(keras.Model(x, L.Conv2D(3, 3)(x)))


def test_a_model_without_built_input_is_refused():
    with pytest.raises(kq.QuantizationError, match=r"no built input.*Call it once"):
        kq.quantize(Subclassed())
    with pytest.raises(kq.QuantizationError, match="no built input"):
        kq.quantize(keras.Sequential([L.Dense(3)]))


def test_cells_of_recurrent_layers_are_opened():
    """Called without a recurrent layer around them, as decoders and message passing have them."""

    def build(x):
        y, _ = L.GRUCell(6, name="gru")(x, [x])
        y, _ = L.StackedRNNCells([L.LSTMCell(6, name="lstm")], name="cells")(y, [[x, y]])
        return y

    names = paths(functional(build, (6,)))
    assert "gru/matmul" in names and "cells/lstm/matmul" in names and "gru" not in names


class Feedback(L.Layer):
    """Steps behind a sequence, by a recurrent layer's cell or by the layer itself."""

    def __init__(self, by_hand, **kwargs):
        super().__init__(**kwargs)
        self.by_hand, self.rnn, self.dense = by_hand, L.RNN(L.LSTMCell(6), return_state=True), L.Dense(5)

    def call(self, x):
        y, *states = self.rnn(x)
        for _ in range(2):
            x = self.dense(y)
            if self.by_hand:
                y, states = self.rnn.cell(x, states)
            else:
                y, *states = self.rnn(keras.ops.expand_dims(x, 1), initial_state=states)
        return self.dense(y)


def test_a_cell_called_by_hand_and_in_a_layer_warns():
    with pytest.warns(UserWarning, match="'feedback.*/rnn.*' is recurrent, and its cell is called elsewhere"):
        kq.quantize(functional(Feedback(by_hand=True), (20, 5)))


def test_what_a_loop_computes_for_all_steps_is_no_call_by_hand():
    model = functional(L.RNN(ResidualCell(L.GRUCell(6))), (20, 6))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        kq.quantize(model)


def test_a_recurrent_layer_called_for_one_step_keeps_its_weights(tmp_path):
    model = functional(Feedback(by_hand=False), (20, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        qmodel = kq.quantize(shake(model), "int8", x := images(16, (20, 5)))
    assert sum(w.shape.num_elements() for w in qmodel.trainable_weights) == model.count_params()
    ship(qmodel, tmp_path, x)
