"""What surrounds the two products of attention costs no operator, or one that is on XNNPACK."""

import keras
import pytest
from keras import ops

import keras_quant as kq
from tests.helpers import assert_near_float, few, functional, images, quantize_and_ship, ship, slow

L = keras.layers
WORDS = (10, 8)


def names(report):
    return [operator.name for operator in report.operators]


def transposed(x):
    return ops.transpose(x, (0, 2, 1))


SCALED = {
    "first": lambda q, k: ops.matmul(q * 0.3, transposed(k)),
    "second": lambda q, k: ops.matmul(q, transposed(k * 0.3)),
    "both": lambda q, k: ops.einsum("bqd,bkd->bqk", q * 0.5, k / 2.5),
    "product": lambda q, k: ops.matmul(q, transposed(k)) / 7.0,
    "all": lambda q, k: ops.einsum("bqd,bkd->bqk", q / 3.0, k * 0.5) * 1.7,
}


@pytest.mark.parametrize("name", few(SCALED, "second", "all"))
def test_a_factor_of_a_product_is_in_the_scale_of_an_operand(name, tmp_path):
    model = functional(lambda x: SCALED[name](L.Dense(8)(x), L.Dense(8)(x)), WORDS)
    qmodel, report = quantize_and_ship(model, tmp_path)
    assert names(report).count("MUL") == 1 and "DEPTHWISE_CONV_2D" not in names(report)
    assert report.partitions == 1 and not report.off_xnnpack
    assert_near_float(model, qmodel, images(shape=WORDS), 25)


@pytest.mark.parametrize("build", [lambda x: -0.5 * x, lambda x: x * 0.5 + 1.0], ids=["negative", "with an offset"])
def test_other_factors_are_layers_of_their_own(build, tmp_path):
    _, report = quantize_and_ship(functional(lambda x: ops.matmul(build(x), transposed(L.Dense(8)(x))), WORDS), tmp_path)
    assert "DEPTHWISE_CONV_2D" in names(report)


def test_keys_and_values_lie_on_the_grid_of_the_product_and_are_not_transposed_byte_by_byte(tmp_path):
    _, report = quantize_and_ship(functional(lambda x: L.MultiHeadAttention(2, 4)(x, x), WORDS), tmp_path)
    # That of the softmax.
    assert names(report).count("QUANTIZE") == 1
    assert names(report).count("TRANSPOSE") == 4


def test_a_dense_layer_that_others_read_too_keeps_its_grid(tmp_path):
    model = functional(
        lambda x: ops.matmul(x, transposed(y := L.Dense(8, name="key")(x))) + ops.mean(y, (1, 2), keepdims=True), WORDS
    )
    qmodel, report = quantize_and_ship(model, tmp_path)
    assert not qmodel.get_layer("key").output_quantizer.symmetric
    assert "QUANTIZE" in names(report)


def test_quantizers_of_a_policy_stay(tmp_path):
    x = images(shape=WORDS)
    policy = kq.Policy(output_quantizer=kq.quantizers.PACT())
    qmodel = kq.quantize(functional(lambda x: ops.matmul(x, transposed(L.Dense(8, name="key")(x))), WORDS), policy, x)
    assert type(qmodel.get_layer("key").output_quantizer) is kq.quantizers.PACT
    ship(qmodel, tmp_path, x)


@pytest.mark.lowest
@pytest.mark.parametrize("arguments", [slow({}), {"transpose_b": True, "input_scale": 0.3}])
def test_products_made_by_hand_train_save_and_ship(arguments, tmp_path):
    x, columns = images(shape=WORDS), (10, 8) if arguments.get("transpose_b") else (8, 10)
    inputs = keras.Input(WORDS)
    right = kq.layers.QuantReshape(columns)(kq.layers.QuantDense(8)(inputs))
    model = keras.Model(inputs, kq.layers.QuantMatmul(**arguments)([inputs, right]))
    model.compile("adam", "mse")
    model.fit(x, model.predict(x, verbose=0) + 1.0, verbose=0)
    ship(model, tmp_path, x)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert (again.predict(x, verbose=0) == model.predict(x, verbose=0)).all()


def test_a_negative_factor_is_refused():
    with pytest.raises(kq.QuantizationError, match="`input_scale` is above 0"):
        kq.layers.QuantMatmul(input_scale=-1.0)


def test_reshapes_of_reshapes_are_one_and_those_that_cancel_none(tmp_path):
    build = lambda x: L.Dense(3)(L.Reshape((10, 8))(L.Reshape((2, 40))(L.Reshape((4, 20))(x))))
    _, report = quantize_and_ship(functional(build, WORDS), tmp_path)
    assert names(report) == ["FULLY_CONNECTED"]
    build = lambda x: L.Reshape((5, 16))(L.Reshape((4, 20))(L.Dense(8)(x)))
    _, report = quantize_and_ship(functional(build, WORDS), tmp_path)
    assert names(report) == ["FULLY_CONNECTED", "RESHAPE"]
