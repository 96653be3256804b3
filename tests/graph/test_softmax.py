import keras
import numpy as np
import pytest
from keras import ops

import keras_quant as kq
from tests.helpers import assert_near_float, few, functional, images, quantize_and_ship, ship, slow

L = keras.layers
WORDS = (40, 8)


def softmaxes(qmodel):
    return [layer for layer in qmodel._flatten_layers() if isinstance(layer, kq.layers.QuantSoftmax)]


INSIDE = {
    "attention": lambda x: L.MultiHeadAttention(2, 4)(x, x),
    "operations": lambda x: ops.matmul(ops.softmax(ops.matmul(x, L.Permute((2, 1))(x)) * 0.1), x),
    "pooling_by_weights": lambda x: ops.sum(x * L.Softmax(axis=1)(L.Dense(1)(x)), axis=1),
    "both_heads": lambda x: L.Activation("softmax")(L.Dropout(0.1)(L.Activation("softmax")(x)) * x),
}


@pytest.mark.parametrize("name", INSIDE)
def test_steps_inside_a_model_are_as_small_as_its_probabilities(name, tmp_path):
    qmodel, _ = quantize_and_ship(functional(INSIDE[name], WORDS), tmp_path)
    first = softmaxes(qmodel)[0]
    assert isinstance(first, kq.layers.QuantInnerSoftmax)
    assert first.output_quantizer.params().scale < 1 / 256


def test_attention_that_is_spread_keeps_its_signal():
    """With 144 tokens the fixed grid leaves two steps to each; the report says what that costs."""
    x = images(8, (144, 32)) / 4
    qmodel = kq.quantize(functional(lambda x: L.MultiHeadAttention(2, 8)(x, x), (144, 32)), "int8", x)
    sqnr = lambda: {row.kind: row.local_sqnr for row in kq.report(qmodel, x).layers}["QuantInnerSoftmax"]
    assert sqnr() > 35
    (layer,) = softmaxes(qmodel)
    layer.output_quantizer.set_range(0.0, 255 / 256)
    assert sqnr() < 20


def test_a_graph_rounds_each_product_by_itself():
    """TensorFlow's optimizer takes chains of products in the order that broadcasts least, and rounds otherwise."""
    layer = kq.layers.QuantInnerSoftmax()
    model = keras.Sequential([keras.Input((64, 64)), layer])
    for seed in range(6):
        x = 2 * images(8, (64, 64), seed=seed)
        layer.input_layers["0"].output_quantizer.set_range(float(x.min()), float(x.max()))
        layer.output_quantizer.set_range(0.0, 0.317 + seed / 7)
        np.testing.assert_array_equal(model.predict(x, verbose=0), model(x))


ENDS = {
    "softmax": lambda x: L.Softmax()(x),
    "moved": lambda x: L.Reshape((8, 40))(L.Identity()(ops.softmax(x))),
    "of_two_outputs": lambda x: [y := L.Activation("softmax")(x), L.Dense(3)(y)],
}


@pytest.mark.parametrize("name", ENDS)
def test_probabilities_that_leave_the_model_keep_the_format_s_grid(name):
    (layer,) = softmaxes(kq.quantize(functional(ENDS[name], WORDS), "int8", images(shape=WORDS)))
    assert type(layer) is kq.layers.QuantSoftmax


Q = kq.quantizers
QUANTIZERS = {name: name for name in ("lsq", "lsq+", "pact", "symmetric")}
QUANTIZERS |= {"power of two": Q.MovingAverage(power_of_two=True), "narrow": Q.MovingAverage(narrow=True)}


@pytest.mark.parametrize("name", few(QUANTIZERS, "lsq", "narrow"))
def test_every_quantizer_of_outputs_ships_after_training(name, tmp_path):
    x = images(shape=WORDS)
    policy = kq.Policy("int8", "int8", output_quantizer=QUANTIZERS[name])
    qmodel = kq.quantize(functional(INSIDE["operations"], WORDS), policy, x)
    qmodel.compile("adam", "mse")
    qmodel.fit(x, x, verbose=0)
    ship(qmodel, tmp_path, x)


def test_activations_of_4_bits_keep_the_fixed_grid():
    (layer,) = softmaxes(kq.quantize(functional(INSIDE["operations"], WORDS), "w4a4", images(shape=WORDS)))
    assert type(layer) is kq.layers.QuantSoftmax


@pytest.mark.parametrize("integer_only", [False, True])
@pytest.mark.parametrize("high", [1.0, 0.3, 1 / 256, 0.002, 1e-5])
def test_every_scale_ships_and_what_lies_above_it_is_clipped(high, integer_only, tmp_path):
    x = images(64, (100,), seed=3) * 4
    layer = kq.layers.QuantInnerSoftmax(policy=kq.Policy(integer_only=integer_only))
    inputs = keras.Input((100,))
    qmodel = keras.Model(inputs, layer(inputs))
    kq.calibrate(qmodel, x)
    layer.output_quantizer.set_range(0.0, high)
    ship(qmodel, tmp_path, x)
    # An exponential of 8 bits has steps of 1/255 of the largest, however fine those of the output are.
    if integer_only or high > 0.1:
        assert_near_float(keras.Model(inputs, ops.minimum(ops.softmax(inputs), high)), qmodel, x, 20)


ROWS = {
    "short": (3,),
    "matrix": (7, 33),
    "heads": (2, 3, 20),
    "one": (5, 1),
    **{f"of {terms}": (terms,) for terms in (256, 257, 2050, 65793)},
    "longer than float32 adds": (65794,),
}


@pytest.mark.parametrize("scale", [slow(0.001), 0.05, slow(1.0)])
@pytest.mark.parametrize("name", few(ROWS, "heads", "of 257", "longer than float32 adds"))
def test_rows_of_any_length_are_exact(name, scale, tmp_path):
    """On XNNPACK as long as float32 holds every sum; the built-in kernel takes longer rows."""
    shape = ROWS[name]
    x = images(4, shape, seed=1) * scale * 40
    x[0], x[1] = scale, -128 * scale
    inputs = keras.Input(shape)
    qmodel = keras.Model(inputs, kq.layers.QuantInnerSoftmax()(inputs))
    kq.calibrate(qmodel, x, method="min_max")
    report, _ = ship(qmodel, tmp_path, x)
    assert (not report.off_xnnpack) == (name != "longer than float32 adds")


def test_integers_only(tmp_path):
    x = images(shape=WORDS)
    qmodel = kq.quantize(functional(INSIDE["attention"], WORDS), "int8", x, integer_only=True)
    assert not ship(qmodel, tmp_path, x)[0].float_operators
    again = keras.models.clone_model(qmodel)
    assert softmaxes(again)[0].policy.integer_only


LOGARITHMS = {
    "of a layer with a softmax inside": lambda x: ops.log(L.Dense(40, activation="softmax", name="head")(x) + 1e-9),
    "plain": lambda x: ops.log(ops.softmax(L.Dense(40, name="head")(x))),
    "and the probabilities": lambda x: (p := L.Dense(40, activation="softmax", name="head")(x)) * ops.log(p + 1e-6),
}


@pytest.mark.parametrize("name", few(LOGARITHMS, "of a layer with a softmax inside"))
def test_the_logarithm_of_a_softmax_comes_from_its_logits(name, tmp_path):
    model = functional(lambda x: LOGARITHMS[name](L.Flatten()(x)), (12, 4))
    model.get_layer("head").kernel.assign(model.get_layer("head").kernel * 4)
    x = images(24, (12, 4))
    qmodel, report = quantize_and_ship(model, tmp_path, x)
    assert not [op for op in report.float_operators if "softmax" not in op.layer]
    assert_near_float(model, qmodel, x, 24)
    assert qmodel.get_layer("head").kernel.shape == (48, 40)
