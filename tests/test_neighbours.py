"""Every ordered pair of policies side by side: exports, loads, verifies."""

import keras
import numpy as np
import pytest

import keras_quant as kq
from keras_quant import policy as policies
from keras_quant.policy import PRESETS
from keras_quant.tflite import read_model
from keras_quant.tflite.writer import BuiltinOperator
from tests.helpers import functional, images, shake, ship

L = keras.layers
X = images(16, (6, 6, 4))
POLICIES = [*PRESETS, "w3a6"]
# Of an integer, a float and a dynamic policy each way, in the fast suite.
FAST = [("int4", "int16"), ("int16", "float32"), ("float16", "int8"), ("dynamic_int4", "int4"), ("w3a6", "int16")]


def dense_dense(x):
    return L.Dense(4, name="second")(L.Dense(6, activation="relu", name="first")(L.Flatten(name="flat")(x)))


def conv_dense(x):
    return L.Dense(4, name="second")(L.Flatten()(L.Conv2D(6, 3, activation="relu6", name="first")(x)))


def through_add(x):
    first = L.Conv2D(4, 3, padding="same", name="first")(x)
    return L.Conv2D(3, 1, name="second")(L.Add(name="join")([x, first]))


def through_concatenate(x):
    first = L.Conv2D(4, 3, padding="same", name="first")(x)
    return L.Conv2D(3, 3, name="second")(L.Concatenate(name="join")([first, L.Conv2D(2, 1, name="other")(x)]))


def einsum_einsum(x):
    x = L.EinsumDense("abcd,def->abcef", (None, None, 2, 3), activation="relu", name="first")(x)
    return L.EinsumDense("abcef,fd->abced", (None, None, None, 3), bias_axes="d", name="second")(x)


NETWORKS = {f.__name__: f for f in (dense_dense, conv_dense, einsum_einsum, through_add, through_concatenate)}


def check(build, named, folder):
    model = shake(functional(build, X.shape[1:]))
    qmodel = kq.quantize(model, kq.PolicyMap(named), X)
    _, parity = ship(qmodel, folder, X)
    assert len(parity.intermediates) >= 2
    wanted, got = np.asarray(model(X), "float64"), np.asarray(qmodel(X), "float64")
    decibels = 10 * np.log10(np.sum(wanted**2) / np.sum((wanted - got) ** 2))
    assert decibels > 4
    return seams(folder / "model.tflite")


def seams(path):
    """How many operators of a file change a tensor's type or grid."""
    _, model = read_model(path)
    graph, kinds = model.subgraphs[0], (BuiltinOperator.QUANTIZE, BuiltinOperator.DEQUANTIZE)
    changes = [op for op in graph.operators if model.operatorCodes[op.opcodeIndex].builtinCode in kinds]
    return sum(model.buffers[graph.tensors[op.inputs[0]].buffer].data is None for op in changes)


def expected_seams(first, second):
    """In a row of two layers: one where their types differ, and the lower clamp of each tensor narrower than 8 bits."""
    kinds = [policies.get(name).storage for name in (first, second)]
    return (kinds[0] != kinds[1]) + [first, second].count("w3a6")


@pytest.mark.parametrize("first, second", FAST)
def test_neighbours(first, second, tmp_path):
    assert check(conv_dense, {"first": first, "second": second}, tmp_path) == expected_seams(first, second)
    check(through_concatenate, {"first": first, "join": second, "second": first, "other": "int8"}, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("first", POLICIES)
@pytest.mark.parametrize("second", POLICIES)
def test_all_neighbours(network, first, second, tmp_path):
    """Through Add the first of both policies joins, through Concatenate the second; each pair is there both ways."""
    named = {"first": first, "second": second}
    if network == "dense_dense":
        # By itself it would be int8, the default.
        named["flat"] = "float32" if first.startswith("dynamic") else first
    if not network.startswith("through"):
        assert check(NETWORKS[network], named, tmp_path) == expected_seams(first, second)
        return
    join = first if network == "through_add" else second
    # Nothing is there for the kernel to quantize as it runs.
    joined = "float32" if join.startswith("dynamic") else join
    check(NETWORKS[network], {**named, "join": joined}, tmp_path)
