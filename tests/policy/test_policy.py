"""Policies by name, and maps from paths to them."""

import dataclasses

import keras
import numpy as np
import pytest

import keras_quant as kq
from keras_quant.policy import PRESETS, get
from tests.helpers import functional, images, sequential, shake

L = keras.layers
X = images()


@pytest.mark.parametrize("name", [*PRESETS, "w3a8", "w8a2", "w4a16", "dynamic_int5"])
def test_a_policy_comes_back_from_its_name(name):
    policy = get(name)
    assert policy.name == str(policy) == name and get(policy) is policy and get(policy.name) == policy


def test_a_custom_name_of_a_preset_is_the_preset():
    assert get("w4a8") == get("int4") and get("w4a8").name == "int4" and get("w8a16").name == "int16"


def test_a_policy_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        get("int8").weights = "int4"


@pytest.mark.parametrize(
    "given, near", [("int9", "int"), ("flaot16", "float16"), ("dynamic", "dynamic_int"), (4, "int4"), ("W4-A8", "w4a8")]
)
def test_an_unknown_name_gets_the_nearest(given, near):
    with pytest.raises(kq.QuantizationError, match=f"Did you mean '{near}.*Received: policy={given!r}"):
        kq.quantize(sequential(L.Dense(3)), given)


@pytest.mark.parametrize(
    "weights, activations", [("int1", "int8"), ("int8", "float32"), ("float16", "int8"), ("int16", "int8")]
)
def test_what_no_kernel_takes_is_refused(weights, activations):
    with pytest.raises(kq.QuantizationError, match=f"Received: weights='{weights}', activations='{activations}'"):
        kq.Policy(weights, activations)


def test_a_map_prefers_the_exact_path_then_the_first_expression_then_the_default():
    policies = kq.PolicyMap({"block_.*": "int4", "block_1/conv": "int16", "block_1/.*": "float32"}, default="w8a6")
    assert policies["block_1/conv"].name == "int16"
    assert policies["block_1/dense"].name == "int4"
    assert policies["stem"].name == "w8a6"
    # An expression matches whole paths.
    assert policies["my_block_1"].name == "w8a6"


def test_a_map_goes_to_json_and_back(tmp_path):
    policies = kq.PolicyMap({"a/.*": "int4", "b": kq.Policy("int3", "int8")}, default="float16")
    assert kq.PolicyMap.from_json(policies.to_json()) == policies
    policies.save(tmp_path / "policies.json")
    assert kq.PolicyMap.load(tmp_path / "policies.json") == policies
    assert kq.PolicyMap.from_config(policies.get_config()) == policies
    assert kq.PolicyMap.from_json(kq.PolicyMap({"a/.*": "int4"}).to_json()) != policies
    for text, cause in (("[1", r"name} \(Expecting"), ('{"policies": 3}', r"name}\. Received: .*3")):
        with pytest.raises(kq.QuantizationError, match=f"in JSON is .*{cause}"):
            kq.PolicyMap.from_json(text)


def test_a_map_prints_itself():
    lines = repr(kq.PolicyMap({"stem": "int16", "block_.*/expand": "w3a8"})).splitlines()
    assert [line.split() for line in lines[1:]] == [["stem", "int16"], ["block_.*/expand", "w3a8"], ["(default)", "int8"]]


def test_a_map_is_changed_as_a_dict_is():
    policies = kq.PolicyMap({"a": "int4"})
    policies["b"] = "int16"
    del policies["a"]
    assert list(policies) == ["b"] and len(policies) == 1 and "b" in policies and "a" not in policies
    with pytest.raises(kq.QuantizationError, match="regular expression"):
        policies["(b"] = "int8"


def test_a_key_that_matches_nothing_is_said_with_near_paths():
    model = sequential(L.Conv2D(4, 1, name="stem_conv"), L.Flatten(), L.Dense(3, name="logits"))
    with pytest.warns(UserWarning, match=r"Key 'stem_cnov' of the `PolicyMap` matches no layer. Near it are \['stem_conv'"):
        kq.quantize(model, kq.PolicyMap({"stem_cnov": "int4", "logits": "int4"}))


def test_each_layer_gets_its_policy_and_the_saved_model_keeps_it(tmp_path):
    model = shake(
        sequential(L.Conv2D(4, 1, name="a"), L.ReLU(), L.Conv2D(4, 3, name="b"), L.Flatten(), L.Dense(3, name="c"))
    )
    qmodel = kq.quantize(model, kq.PolicyMap({"a": "int4", "b": "w3a6", "c": "int16"}), X)
    qmodel.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    for m in (qmodel, loaded):
        assert [m.get_layer(name).policy.name for name in "abc"] == ["int4", "w3a6", "int16"]
        assert [m.get_layer(name).kernel_quantizer.bits for name in "abc"] == [4, 3, 8]
        assert [m.get_layer(name).output_quantizer.bits for name in "abc"] == [8, 6, 16]
    np.testing.assert_array_equal(loaded(X), qmodel(X))


def test_a_model_of_one_policy_is_that_of_the_map_with_this_default():
    model = shake(sequential(L.Conv2D(4, 1), L.Flatten(), L.Dense(3)))
    one, other = (kq.quantize(model, policy, X) for policy in ("int4", kq.PolicyMap(default=get("int4"))))
    np.testing.assert_array_equal(one(X), other(X))


def test_what_joins_a_layer_takes_its_policy_unless_it_is_named():
    def build(x):
        return L.ReLU(name="relu")(L.BatchNormalization(name="bn")(L.Conv2D(4, 1, name="conv")(x)))

    joined = kq.quantize(functional(build), kq.PolicyMap({"conv": "int4"}))
    assert joined.get_layer("conv").batch_norm is not None and joined.get_layer("conv").activation is keras.activations.relu
    apart = kq.quantize(functional(build), kq.PolicyMap({"conv": "int4", "relu": "int16"}))
    assert apart.get_layer("conv").activation is keras.activations.linear
    assert apart.get_layer("relu").policy.name == "int16"


def test_a_layer_by_hand_takes_a_policy():
    layer = kq.layers.QuantDense(3, policy="w5a16")
    clone = type(layer).from_config(layer.get_config())
    assert clone.policy == layer.policy == get("w5a16") and clone.kernel_quantizer.bits == 5
    assert "policy" not in kq.layers.QuantDense(3).get_config()


def test_integers_only_is_a_property_of_policies_that_lasts():
    policies = kq.PolicyMap({"dense": "int4"}, "w8a4").integer_only()
    again = kq.PolicyMap.from_json(policies.to_json())
    assert again == policies and all(policy.integer_only for policy in (again["dense"], again["other"]))
    assert str(again["dense"]) == "int4 (integers only)"
    assert not kq.Policy().integer_only and kq.Policy(integer_only=True) != kq.Policy()


def test_integers_only_in_float_is_refused():
    with pytest.raises(kq.QuantizationError, match="computes in float is not `integer_only`.*policy='float32'"):
        kq.PolicyMap({"dense": "float32"}).integer_only()
