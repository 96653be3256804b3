"""Layers in every precision: what Keras predicts is what LiteRT computes, and what has no kernel is refused."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_quant as kq
from keras_quant.policy import get
from tests.helpers import few, functional, images, sequential, shake, ship, slow
from tests.layers.test_shipping import KERAS_CANNOT_RUN, OFF_XNNPACK, ON_XNNPACK

L = keras.layers
X = images()


def blocks(x):
    """Every kind of operator that has all widths of integers."""
    a = L.Conv2D(6, 1, activation="relu", name="pointwise")(x)
    b = L.BatchNormalization()(L.Conv2D(6, 3, padding="same", name="conv")(x))
    x = L.MaxPooling2D(2)(L.Concatenate(name="join")([a, L.ReLU(6.0)(b)]))
    y = L.Subtract(name="difference")([L.SeparableConv2D(8, 3, padding="same", name="separable")(x), L.Conv2D(8, 1)(x)])
    y = L.ZeroPadding2D(1)(L.AveragePooling2D(3, 2, padding="same")(L.ReLU()(y)))
    y = L.Add(name="sum")([y, L.Conv2D(8, 1)(y), L.ReLU(2.5)(y), L.DepthwiseConv2D(3, padding="same", name="depthwise")(y)])
    y = L.Concatenate()([L.Flatten()(L.Cropping2D(1)(L.Permute((2, 1, 3))(y))), L.GlobalAveragePooling2D()(y)])
    return L.Dense(4, name="logits")(L.Dense(6, activation="relu", name="hidden")(y))


def quantized(policy, build=blocks, **options):
    return kq.quantize(shake(functional(build)), policy, X, **options)


def operators(report):
    return [op.name for op in report.operators]


@pytest.mark.parametrize("policy", few(["int4", "w2a8", "w6a8", "w8a6", "w3a4", "w5a2"], "w5a2"))
def test_narrow_integers_are_exact_on_xnnpack(policy, tmp_path):
    report, _ = ship(quantized(policy), tmp_path, X)
    assert report.partitions == 1 and report.off_xnnpack == () and report.float_operators == ()


def test_int16_activations_are_exact(tmp_path):
    report, _ = ship(quantized("int16"), tmp_path, X)
    dtypes = {t.dtype for t in report.tensors if not t.constant}
    assert dtypes == {"int16"} and report.partitions == 0
    assert {t.dtype for t in report.tensors if t.name.endswith("/bias")} == {"int64"}


def test_wider_is_nearer_to_float():
    model = shake(functional(blocks))
    errors = []
    for policy in ("int4", "int8", "int16"):
        qmodel = kq.quantize(model, policy, X)
        errors.append(float(np.mean((np.asarray(qmodel(X)) - np.asarray(model(X))) ** 2)))
    assert errors[0] > errors[1] > errors[2]


def test_weights_of_4_bits_take_half_a_byte_where_xnnpack_has_a_kernel(tmp_path):
    report, _ = ship(quantized("int4"), tmp_path, X)
    kernels = {t.name: t.dtype for t in report.tensors if t.name.endswith("/kernel")}
    assert {name for name, dtype in kernels.items() if dtype == "int4"} == {
        *("pointwise/kernel", "hidden/kernel", "logits/kernel", "separable_pointwise/kernel"),
        *(name for name in kernels if name.startswith("conv2d")),
    }
    assert kernels["conv/kernel"] == kernels["depthwise/kernel"] == "int8"


def test_weights_lie_on_their_grid():
    layer = quantized("w3a8").get_layer("conv")
    weights = layer.folded_weights(get("int8").new_output_quantizer().params(), layer.output_quantizer.params())
    assert set(np.unique(weights.kernel)) == set(range(-3, 4))


@pytest.mark.parametrize("bits", [2, 5])
def test_activations_take_no_more_levels_than_their_bits_have(bits, tmp_path):
    qmodel = kq.quantize(
        shake(sequential(L.Conv2D(6, 3), L.Activation("tanh"), L.Conv2D(4, 1, activation="relu"))), f"w8a{bits}", X
    )
    ship(qmodel, tmp_path, X)
    assert len(np.unique(qmodel(X))) <= 2**bits
    assert len(np.unique(qmodel(X, training=True))) <= 2**bits


@pytest.mark.parametrize("function", ["sigmoid", "elu", "gelu", "silu", "softplus", "leaky_relu", "softmax", "hard_sigmoid"])
def test_functions_read_and_make_narrow_tensors(function, tmp_path):
    ship(kq.quantize(shake(sequential(L.Conv2D(6, 1), L.Activation(function), L.Conv2D(4, 1))), "w4a5", X), tmp_path, X)


def test_reductions_of_narrow_tensors_are_exact(tmp_path):
    build = lambda x: ops.mean(L.Conv2D(6, 1)(x), (1, 2), True) * ops.max(L.Conv2D(6, 1)(x), 1, True) + ops.sum(x, 1, True)
    ship(quantized("w8a4", build), tmp_path, X)
    ship(quantized("w8a4", lambda x: L.Maximum()([L.Conv2D(6, 1)(x), L.Conv2D(6, 3, padding="same")(x)])), tmp_path, X)


def test_a_concatenation_of_different_widths_is_exact(tmp_path):
    build = lambda x: L.Concatenate(name="join")([L.Conv2D(4, 1, name="a")(x), L.Conv2D(3, 1, name="b")(x), x])
    for join in ("int8", "w8a3", "int16"):
        ship(quantized(kq.PolicyMap({"a": "w8a4", "b": "int16", "join": join}), build), tmp_path, X)


def test_the_seam_of_two_readers_is_one_quantize(tmp_path):
    def build(x):
        x = L.Conv2D(4, 1, name="conv")(x)
        return L.Add(name="sum")([L.Conv2D(4, 1, name="a")(x), L.Conv2D(4, 1, name="b")(x)])

    report, _ = ship(quantized(kq.PolicyMap({"a": "int16", "b": "int16", "sum": "int16"}), build), tmp_path, X)
    assert operators(report) == ["CONV_2D", "QUANTIZE", "CONV_2D", "CONV_2D", "ADD"]


def test_what_only_moves_data_goes_along_with_its_input_unless_it_is_named(tmp_path):
    def build(x):
        x = L.MaxPooling2D(name="pool")(L.Conv2D(4, 1, name="conv")(x))
        return L.Dense(3, name="logits")(L.Flatten(name="flat")(L.Dropout(0.1)(x)))

    report, _ = ship(quantized(kq.PolicyMap({"conv": "int16"}), build), tmp_path, X)
    assert operators(report) == ["CONV_2D", "MAX_POOL_2D", "RESHAPE", "QUANTIZE", "FULLY_CONNECTED"]
    report, _ = ship(quantized(kq.PolicyMap({"conv": "int16", "pool": "int8"}), build), tmp_path, X)
    assert operators(report) == ["CONV_2D", "QUANTIZE", "MAX_POOL_2D", "RESHAPE", "FULLY_CONNECTED"]
    report, _ = ship(quantized(kq.PolicyMap({"conv": "float32"}), build), tmp_path, X)
    assert operators(report) == ["CONV_2D", "MAX_POOL_2D", "RESHAPE", "QUANTIZE", "FULLY_CONNECTED"]


def test_layers_by_hand_meet_in_different_widths(tmp_path):
    x = keras.Input((12, 12, 6))
    y = kq.layers.QuantConv2D(4, 3, policy="int16", name="a")(x)
    y = kq.layers.QuantConv2D(4, 1, policy="int4", name="b")(y)
    y = kq.layers.QuantAdd(name="sum", policy="int16")([kq.layers.QuantConv2D(4, 1, name="c")(y), y])
    qmodel = kq.calibrate(keras.Model(x, kq.layers.QuantReLU(policy="w8a5")(y)), X, verbose=0)
    report, _ = ship(qmodel, tmp_path, X)
    names = [
        "CONV_2D",
        "QUANTIZE",
        "FULLY_CONNECTED",
        "CONV_2D",
        "QUANTIZE",
        "QUANTIZE",
        "ADD",
        "QUANTIZE",
        "QUANTIZE",
        "QUANTIZE",
    ]
    assert sorted(operators(report)) == sorted(names)
    qmodel.save(tmp_path / "m.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "m.keras")(X), qmodel(X))


@pytest.mark.parametrize("policy", ["int4", "int16", "w3a4", "dynamic_int4", "float16"])
def test_training_learns_in_every_precision_and_ships(policy, tmp_path):
    x = images(200, (6, 6, 4))
    y = (x.mean((1, 2)) @ np.random.default_rng(0).standard_normal((4, 3))).argmax(-1)
    qmodel = kq.quantize(sequential(L.Conv2D(8, 1, activation="relu"), L.Flatten(), L.Dense(3), shape=(6, 6, 4)), policy, x)
    optimizer = keras.optimizers.Adam(0.01)
    if policy == "float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    qmodel.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    losses = qmodel.fit(x, y, epochs=6, batch_size=20, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]
    ship(qmodel, tmp_path, x)


def test_dynamic_weights_between_two_steps_ship(tmp_path):
    model = sequential(L.Dense(16), shape=(64,))
    kernel = np.random.default_rng(0).integers(-7, 7, (64, 16)).astype("float32") + np.float32(0.5)
    kernel[0] = 7.0
    model.layers[-1].kernel.assign(kernel)
    ship(kq.quantize(model, "dynamic_int4"), tmp_path, images(64, (64,)))


@pytest.mark.parametrize("policy", ["int4", slow("w2a8"), slow("w3a6")])
def test_few_bits_on_an_odd_number_of_inputs_hold_a_weight_a_byte_and_the_report_says_so(policy, tmp_path):
    model = shake(
        sequential(L.Conv2D(5, 1), L.Conv2D(4, 1, name="pointwise"), L.Flatten(), L.Dense(3, name="even"), shape=(3, 3, 3))
    )
    x = images(shape=(3, 3, 3))
    qmodel = kq.quantize(model, policy, x)
    report, _ = ship(qmodel, tmp_path, x)
    assert not report.off_xnnpack
    kernels = {tensor.name: tensor.dtype for tensor in report.tensors if tensor.name.endswith("/kernel")}
    assert kernels["pointwise/kernel"] == "int8" and kernels["even/kernel"] in ("int4", "int2")
    assert {layer.path: layer.stored for layer in kq.report(qmodel).layers}["pointwise"] == "int8"
    assert str(kq.report(qmodel)).count(f"{policy}, a byte each") == 2
    limit = 2 ** (qmodel.get_layer("pointwise").policy.weight_bits - 1) - 1
    integers = qmodel.get_layer("pointwise").kernel_quantizer.integers(
        qmodel.get_layer("pointwise").kernel, qmodel.get_layer("pointwise").kernel_axes
    )
    assert np.abs(integers).max() == limit


@pytest.mark.parametrize(
    "layer",
    [L.Activation("sigmoid", name="odd"), L.Softmax(name="odd"), L.Conv2DTranspose(3, 3, name="odd"), L.ELU(name="odd")],
)
def test_int16_without_a_kernel_is_refused_with_the_nearest_policy(layer, tmp_path):
    model = shake(sequential(L.Conv2D(4, 1), layer, L.Conv2D(4, 1)))
    with pytest.raises(kq.UnsupportedLayerError, match="'odd' .* on int16.*nearest policy that works is 'int8'"):
        kq.quantize(model, "int16")
    ship(kq.quantize(model, kq.PolicyMap({"odd": "int8"}, default="int16"), X), tmp_path, X)


def test_the_ends_stay_wider_by_one_argument(tmp_path):
    qmodel = quantized("int4", ends="int16")
    policies = {layer.name: layer.policy.name for layer in qmodel.layers if hasattr(layer, "policy")}
    assert policies["pointwise"] == policies["conv"] == policies["logits"] == "int16"
    assert policies["hidden"] == policies["separable"] == policies["depthwise"] == "int4"
    ship(qmodel, tmp_path, X)
    named = quantized(kq.PolicyMap({"logits": "int8"}, default="int4"), ends="float32")
    assert named.get_layer("logits").policy.name == "int8" and type(named.get_layer("conv")) is L.Conv2D


# One of three widths for each network, in turn.
WIDTHS = [(name, ("int4", "int16", "w5a6")[i % 3]) for i, name in enumerate([*ON_XNNPACK, *OFF_XNNPACK])]


@pytest.mark.slow
@pytest.mark.parametrize("name, policy", WIDTHS)
def test_every_network_ships_in_other_widths_or_says_why_not(name, policy, tmp_path):
    if name in KERAS_CANNOT_RUN:
        pytest.skip("Keras traces this and cannot compute it")
    build = ON_XNNPACK[name] if name in ON_XNNPACK else OFF_XNNPACK[name][0]
    model = shake(build())
    x = images(shape=model.input_shape[1:])
    try:
        qmodel = kq.quantize(model, policy, x)
    except kq.UnsupportedLayerError as error:
        assert policy == "int16"
        assert "on int16" in str(error) and "nearest policy that works" in str(error)
        return
    ship(qmodel, tmp_path, x)
