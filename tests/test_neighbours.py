"""Every ordered pair of policies side by side: exports, loads, verifies."""

import keras
import numpy as np
import pytest

import keras_quant as kq
from keras_quant import policy as policies
from keras_quant.policy import PRESETS
from keras_quant.tflite import read_model
from keras_quant.tflite.flatbuffer import text
from keras_quant.tflite.writer import BuiltinOperator
from tests.helpers import images, shake, ship, signal_to_noise

L = keras.layers
X = images(16, (6, 6, 4))
POLICIES = [*PRESETS, "w3a6"]
# Of an integer, a float and a dynamic policy each way, in the fast suite.
FAST = [("int4", "int16"), ("int16", "float32"), ("float16", "int8"), ("dynamic_int4", "int4"), ("w3a6", "int16")]


# Each takes a tensor and a function that gives layers their names.
def dense_dense(x, named):
    x = L.Dense(6, activation="relu", name=named("first"))(L.Flatten(name=named("flat"))(x))
    return L.Dense(4, name=named("second"))(x)


def conv_dense(x, named):
    x = L.Conv2D(6, 3, activation="relu6", name=named("first"))(x)
    return L.Dense(4, name=named("second"))(L.Flatten(name=named("flat"))(x))


def einsum_einsum(x, named):
    x = L.EinsumDense("abcd,def->abcef", (None, None, 2, 3), activation="relu", name=named("first"))(x)
    return L.EinsumDense("abcef,fd->abced", (None, None, None, 3), bias_axes="d", name=named("second"))(x)


def through_add(x, named):
    first = L.Conv2D(4, 3, padding="same", name=named("first"))(x)
    return L.Conv2D(3, 1, name=named("second"))(L.Add(name=named("join"))([x, first]))


def through_concatenate(x, named):
    first = L.Conv2D(4, 3, padding="same", name=named("first"))(x)
    joined = L.Concatenate(name=named("join"))([first, L.Conv2D(2, 1, name=named("other"))(x)])
    return L.Conv2D(3, 3, name=named("second"))(joined)


def normalization(x, named):
    return L.LayerNormalization(name=named("second"))(L.Dense(6, activation="relu", name=named("first"))(x))


def attention(x, named):
    x = L.Dense(6, name=named("first"))(L.Reshape((36, 4), name=named("rows"))(x))
    return L.Dense(3, name=named("last"))(L.MultiHeadAttention(2, 3, name=named("second"))(x, x))


def table(ids, named):
    return L.Dense(5, name=named("second"))(L.Embedding(20, 8, name=named("first"))(ids))


NETWORKS = (dense_dense, conv_dense, einsum_einsum, through_add, through_concatenate, normalization, attention, table)
IDS = np.random.default_rng(0).integers(0, 20, (16, 7)).astype("int32")


def without_kernel(policy):
    """What a layer computes in that has no kernel of this policy."""
    return "float32" if policy.startswith("dynamic") else "int8" if policy == "int16" else policy


def names_of(network, first, second):
    """The policies of a network's layers. Through Add the first of both joins, through Concatenate the second."""
    names = {"first": first, "second": second}
    if network is dense_dense:
        # By itself it would be int8, the default.
        return {**names, "flat": "float32" if first.startswith("dynamic") else first}
    if network in (through_add, through_concatenate):
        join = first if network is through_add else second
        # Nothing is there for the kernel to quantize as it runs.
        return {**names, "join": "float32" if join.startswith("dynamic") else join}
    if network is attention:
        projections = {"second/(query|key|value|attention_output)": second}
        return {"first": first, **projections, "second.*": without_kernel(second), "last": first}
    return {**names, "second": without_kernel(second)} if network is normalization else names


def check(networks, first, second, folder):
    """Ship a model of several networks side by side, each with an input of its own."""
    inputs, outputs, named, data = [], [], {}, []
    for network in networks:
        own = lambda part, name=network.__name__: f"{name}_{part}"
        data.append(IDS if network is table else X)
        inputs.append(keras.Input(data[-1].shape[1:], dtype=data[-1].dtype.name, name=network.__name__))
        outputs.append(network(inputs[-1], own))
        named |= {own(part): policy for part, policy in names_of(network, first, second).items()}
    model = shake(keras.Model(inputs, outputs))
    qmodel = kq.quantize(model, kq.PolicyMap(named), data)
    _, parity = ship(qmodel, folder, data)
    assert len(parity.intermediates) >= 2 * len(networks)
    for network, wanted, got in zip(networks, *(keras.tree.flatten(m(data)) for m in (model, qmodel))):
        assert signal_to_noise(wanted, got) > 4, network.__name__
        if network in (dense_dense, conv_dense, einsum_einsum):
            assert seams(folder / "model.tflite", network.__name__) == expected_seams(first, second), network.__name__


def seams(path, name):
    """How many operators of a network in a file change a tensor's type or grid."""
    _, model = read_model(path)
    graph, kinds = model.subgraphs[0], (BuiltinOperator.QUANTIZE, BuiltinOperator.DEQUANTIZE)
    changes = [op for op in graph.operators if model.operatorCodes[op.opcodeIndex].builtinCode in kinds]
    own = [op for op in changes if text(graph.tensors[op.outputs[0]].name).startswith(name)]
    return sum(model.buffers[graph.tensors[op.inputs[0]].buffer].data is None for op in own)


def expected_seams(first, second):
    """In a row of two layers: one where their types differ, and the lower clamp of each tensor narrower than 8 bits."""
    kinds = [policies.get(name).storage for name in (first, second)]
    return (kinds[0] != kinds[1]) + [first, second].count("w3a6")


@pytest.mark.parametrize("first, second", FAST)
def test_neighbours(first, second, tmp_path):
    check([conv_dense, through_concatenate, normalization], first, second, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("first", POLICIES)
@pytest.mark.parametrize("second", POLICIES)
def test_all_neighbours(first, second, tmp_path):
    check(NETWORKS, first, second, tmp_path)
