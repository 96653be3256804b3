"""Layers that compute in float between layers that compute in integers, and those that quantize as they run."""

import keras
import numpy as np
import pytest

import keras_quant as kq
from keras_quant.tflite import Runtime, read_model
from keras_quant.tflite.parity import TOLERANCES
from tests.helpers import functional, images, sequential, shake, ship

L = keras.layers
X = images()


def three(**names):
    """Three convolutions in a row, the policies by name."""
    layers = [L.Conv2D(6, 3, padding="same", activation="relu", name=name) for name in ("a", "b", "c")]
    return kq.quantize(shake(sequential(*layers, L.Flatten(), L.Dense(3, name="d"))), kq.PolicyMap(names), X)


def operators(report):
    return [op.name for op in report.operators]


INT, FLAT = ["CONV_2D"], ["RESHAPE", "FULLY_CONNECTED"]
ISLAND = ["DEQUANTIZE", "CONV_2D", "QUANTIZE"]


def test_an_island_has_one_dequantize_and_one_quantize(tmp_path):
    report, parity = ship(three(b="float32"), tmp_path, X)
    assert operators(report) == [*INT, *ISLAND, *INT, *FLAT] and report.partitions == 1
    assert [op.layer for op in report.float_operators] == ["b", "b", "b_quantize"]
    island = next(t for t in parity.intermediates if t.name == "b")
    assert island.tolerance == TOLERANCES["float32"] == 1e-4 and island.error < island.tolerance


def test_a_float_model_is_not_taken_for_one_whose_policy_is_float(tmp_path):
    model = shake(sequential(L.Conv2D(4, 3, name="conv"), L.Flatten(), L.Dense(3)))
    with pytest.raises(kq.ExportError, match="'conv' .Conv2D.*compute in float"):
        kq.export(model, tmp_path / "m.tflite")
    qmodel = kq.quantize(model, "float32", X)
    qmodel.save(tmp_path / "m.keras")
    ship(keras.models.load_model(tmp_path / "m.keras"), tmp_path, X)


def test_neighbours_in_float_have_nothing_between_them(tmp_path):
    report, _ = ship(three(b="float32", c="float32"), tmp_path, X)
    assert operators(report) == ["CONV_2D", "DEQUANTIZE", "CONV_2D", "CONV_2D", "RESHAPE", "QUANTIZE", "FULLY_CONNECTED"]


@pytest.mark.parametrize("policy", ["float32", "float16"])
def test_batch_normalization_and_relu_in_float_join_the_layer_before_them(policy, tmp_path):
    def build(x):
        x = L.ReLU(6.0, name="clamp")(L.BatchNormalization()(L.Conv2D(8, 3, use_bias=False)(x)))
        x = L.BatchNormalization(name="bare", center=False)(L.DepthwiseConv2D(3, depth_multiplier=2)(x))
        kept = L.Conv2D(4, 1, name="read_twice")(x)
        x = L.Add()([L.BatchNormalization(scale=False)(kept), kept])
        return L.Activation("relu")(L.BatchNormalization()(L.Dense(5)(L.Flatten()(x))))

    report, parity = ship(kq.quantize(shake(functional(build)), policy, X), tmp_path, X)
    computing = [name for name in operators(report) if name != "DEQUANTIZE"]
    assert computing == ["CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D", "MUL", "ADD", "ADD", "RESHAPE", "FULLY_CONNECTED"]
    assert {"bare", "read_twice"} <= {t.name for t in parity.intermediates}


def test_a_model_begins_and_ends_in_float(tmp_path):
    qmodel = three(a="float32", d="float32")
    report, _ = ship(qmodel, tmp_path, X)
    assert operators(report) == ["CONV_2D", "QUANTIZE", "CONV_2D", "CONV_2D", "RESHAPE", "DEQUANTIZE", "FULLY_CONNECTED"]
    runtime = Runtime((tmp_path / "model.tflite").read_bytes())
    assert runtime.inputs[0]["dtype"] == runtime.outputs[0]["dtype"] == np.float32
    np.testing.assert_allclose(runtime.run([X])[0], qmodel(X), atol=1e-4 * float(np.abs(qmodel(X)).max()))


def test_a_float16_island_has_half_the_bytes_in_its_weights(tmp_path):
    report, _ = ship(three(b="float16"), tmp_path, X)
    assert operators(report) == ["CONV_2D", "DEQUANTIZE", "DEQUANTIZE", "DEQUANTIZE", "CONV_2D", "QUANTIZE", *INT, *FLAT]
    assert {t.dtype for t in report.tensors if t.name.startswith("b/") and t.constant} == {"float16"}
    assert report.partitions == 1


def metadata(path):
    _, model = read_model(path)
    return {m.name.decode(): bytes(model.buffers[m.buffer].data) for m in model.metadata}


def test_the_file_allows_half_arithmetic_only_where_no_layer_asks_for_float32(tmp_path):
    ship(three(b="float16"), tmp_path, X)
    assert metadata(tmp_path / "model.tflite")["reduced_precision_support"] == b"fp16accfp16"
    ship(three(b="float16", c="float32"), tmp_path, X)
    assert "reduced_precision_support" not in metadata(tmp_path / "model.tflite")


def test_float32_operators_that_are_exact_forbid_float16(tmp_path):
    model = functional(lambda x: L.Dense(4, name="half")(L.LayerNormalization()(x)))
    for integer_only in (False, True):
        qmodel = kq.quantize(model, kq.PolicyMap({"half": "float16"}, kq.Policy(integer_only=integer_only)), X)
        kq.export(qmodel, tmp_path / "model.tflite")
        assert ("reduced_precision_support" in metadata(tmp_path / "model.tflite")) == integer_only


def test_float16_has_half_the_bytes_of_float32(tmp_path):
    model = shake(sequential(L.Conv2D(64, 3), L.Conv2D(64, 3), L.GlobalAveragePooling2D(), L.Dense(10)))
    half, whole = (ship(kq.quantize(model, name, X), tmp_path, X)[0] for name in ("float16", "float32"))
    assert half.bytes < 0.55 * whole.bytes
    np.testing.assert_allclose(kq.quantize(model, "float16")(X), model(X), atol=1e-2)


def every_float_layer(x):
    y = L.BatchNormalization()(L.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(x))
    y = L.ReLU(6.0)(L.DepthwiseConv2D(3, padding="same", activation="silu")(L.Activation("hard_silu")(y)))
    y = L.LeakyReLU(0.1)(L.SeparableConv2D(6, 3, padding="same", depth_multiplier=2, activation="gelu")(y))
    z = L.Conv2DTranspose(6, 3, strides=2, padding="same", activation="relu")(L.MaxPooling2D(2)(y))
    y = L.Multiply()([L.Add()([y, z, L.ReLU(2.0)(y)]), L.Subtract()([y, z])])
    y = L.Concatenate()([L.AveragePooling2D(2)(L.ZeroPadding2D(1)(y)), L.Cropping2D(1)(L.Permute((2, 1, 3))(y))])
    y = L.ReLU(negative_slope=0.2)(L.Rescaling(0.5, 0.1)(keras.ops.tanh(y * 2 + 1)))
    y = L.Concatenate()([L.GlobalAveragePooling2D()(y), L.GlobalMaxPooling2D()(y), L.Dropout(0.2)(L.Flatten()(y))])
    return L.Softmax()(L.Dense(4, activation="elu")(L.Dense(5, activation="tanh")(L.Reshape((1, -1))(y))))


@pytest.mark.parametrize("policy", ["float32", "float16", "dynamic_int8", "dynamic_int4"])
def test_every_float_layer_is_lowered(policy, tmp_path):
    model = shake(functional(every_float_layer))
    qmodel = kq.quantize(model, policy)
    report, _ = ship(qmodel, tmp_path, X)
    assert report.partitions == 1 and report.off_xnnpack == ()
    if policy != "dynamic_int4":
        np.testing.assert_allclose(qmodel(X), model(X), atol=1e-5 if policy == "float32" else 0.05)


def test_a_fallback_is_exported_without_the_converter_where_there_are_rules(tmp_path):
    model = shake(sequential(L.Conv2D(4, 3), L.Activation("exponential"), L.Flatten(), L.Dense(3)))
    qmodel = kq.quantize(model, "int8", X, fallback="float")
    ship(qmodel, tmp_path, X)


def test_the_integers_behind_an_island_are_compared_on_equal_inputs(tmp_path):
    """A file whose island computes otherwise is told apart, one whose integer layers do as well."""
    qmodel = three(b="float32")
    kq.export(qmodel, tmp_path / "m.tflite")
    assert kq.verify(qmodel, tmp_path / "m.tflite", X, intermediates=True, verbose=0).equal
    for name in ("b", "c"):
        other = keras.models.clone_model(qmodel)
        other.set_weights(qmodel.get_weights())
        kernel = other.get_layer(name).kernel
        kernel.assign(np.roll(kernel, 1, axis=-1))
        parity = kq.verify(other, tmp_path / "m.tflite", X, intermediates=True, verbose=0)
        differ = {t.name for t in parity.intermediates if t.mismatches}
        assert name in differ and ("d" in differ) == (name == "c")


@pytest.mark.parametrize("policy", ["dynamic_int8", "dynamic_int4", "dynamic_int3"])
def test_dynamic_layers_hold_integers_and_run_on_xnnpack(policy, tmp_path):
    model = shake(
        sequential(L.Conv2D(6, 3), L.Conv2D(8, 1, strides=2), L.Conv2D(6, 1), L.Flatten(), L.Dense(4, name="logits"))
    )
    report, _ = ship(kq.quantize(model, policy), tmp_path, X)
    dtypes = {t.name: t.dtype for t in report.tensors if t.constant and t.name.endswith("kernel")}
    assert dtypes.pop("logits/kernel") == ("int8" if policy == "dynamic_int8" else "int4")
    assert set(dtypes.values()) == {"int8"} and report.partitions == 1


def test_a_named_layer_without_a_dynamic_kernel_is_refused(tmp_path):
    model = shake(sequential(L.DepthwiseConv2D(3, name="odd"), L.Conv2D(4, 3)))
    with pytest.raises(kq.QuantizationError, match="'odd' .*nearest policies that work are 'int8' and 'float32'"):
        kq.quantize(model, kq.PolicyMap({"odd": "dynamic_int8"}))
    assert type(kq.quantize(model, "dynamic_int8").get_layer("odd")) is L.DepthwiseConv2D


def test_a_model_with_islands_is_saved_and_loaded(tmp_path):
    qmodel = three(a="float16", b="dynamic_int4", c="int16")
    qmodel.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.get_layer("b").policy.name == "dynamic_int4" and loaded.get_layer("a").dtype_policy.name == "mixed_float16"
    np.testing.assert_array_equal(loaded(X), qmodel(X))
