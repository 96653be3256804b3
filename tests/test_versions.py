"""Operator versions are the lowest that carry what is used, so that the oldest runtimes load the files."""

import pytest
from ai_edge_litert import schema_py_generated as schema

from keras_quant.tflite import read_model
from tests.runtimes.shipped import operators_in

# One process makes the networks for all.
pytestmark = pytest.mark.xdist_group("shipped")
# From LiteRT's `tflite/converter/tools/versioning/op_version.cc`, for int8 tensors of up to four dimensions.
LOWEST = {
    "ADD": 2,
    "BATCH_MATMUL": 2,
    "CAST": 1,
    "CONCATENATION": 2,
    "DEPTHWISE_CONV_2D": 3,
    "DEPTH_TO_SPACE": 2,
    "DEQUANTIZE": 2,
    "DIV": 1,
    "ELU": 1,
    "GATHER": 2,
    "GELU": 2,
    "GREATER": 1,
    "LEAKY_RELU": 1,
    "LOGICAL_AND": 1,
    "LOGICAL_NOT": 1,
    "LOGISTIC": 2,
    "MAXIMUM": 1,
    "MAX_POOL_2D": 2,
    "MEAN": 2,
    "PAD": 2,
    "QUANTIZE": 1,
    "REDUCE_MAX": 2,
    "REDUCE_MIN": 2,
    "RESHAPE": 1,
    "RESIZE_BILINEAR": 3,  # with half-pixel centres
    "RESIZE_NEAREST_NEIGHBOR": 3,  # with half-pixel centres
    "REVERSE_V2": 3,
    "SELECT_V2": 1,
    "SOFTMAX": 2,
    "SPACE_TO_DEPTH": 2,
    "STRIDED_SLICE": 2,
    "SUB": 2,
    "SUM": 2,
    "TANH": 2,
    "TRANSPOSE": 2,
}

# Of the operators above, those that also compute on int32.
OF_INT32 = ("ADD", "SUB", "SUM", "REDUCE_MAX", "REDUCE_MIN")
LOWEST |= dict.fromkeys(
    "CUMSUM EQUAL FLOOR_DIV FLOOR_MOD GREATER_EQUAL LESS LESS_EQUAL LOGICAL_OR MINIMUM NEG NOT_EQUAL ONE_HOT REDUCE_ANY "
    "REDUCE_ALL".split(),
    1,
)
LOWEST |= dict.fromkeys("ARG_MAX ARG_MIN TOPK_V2".split(), 2)

# The releases that brought these versions: LiteRT's `runtime_version.cc`; per-channel FULLY_CONNECTED by measurement.
RELEASES = {
    "conv_grouped": "2.9.0",
    "dense": "2.10.0",
    "upsampling_bilinear": "2.2.0",
    "transpose_same": "1.14.0",
    "add": "1.14.0",
}


def lowest(name, graph, operator):
    options, tensors = operator.builtinOptions, [graph.tensors[int(index)] for index in operator.inputs]
    if name in OF_INT32 and tensors[0].type == schema.TensorType.INT32:
        return 1
    if name in ("ADD", "MUL", "SUB", "SUM") and tensors[0].type == schema.TensorType.FLOAT32:
        return 1
    if name == "CONV_2D":
        grouped = tensors[0].shape[3] != tensors[1].shape[3]
        return 6 if grouped else 3
    if name == "FULLY_CONNECTED":
        return 5 if options.keepNumDims else 4
    if name == "MUL":
        a, b, y = (t.quantization.scale[0] for t in (*tensors, graph.tensors[int(operator.outputs[0])]))
        return 3 if a * b / y >= 1 else 2
    return LOWEST[name]


@pytest.mark.slow
def test_versions_are_the_lowest(shipped_networks):
    for network, (_, path, _) in shipped_networks.items():
        _, model = read_model(path)
        graph = model.subgraphs[0]
        for name, operator in zip(operators_in(model), graph.operators):
            code = model.operatorCodes[operator.opcodeIndex]
            assert code.version == lowest(name, graph, operator), f"{name} in {network}"


@pytest.mark.slow
@pytest.mark.parametrize("network", RELEASES)
def test_files_name_the_release_that_they_need(network, shipped_networks):
    _, model = read_model(shipped_networks[network][1])
    (entry,) = [e for e in model.metadata if e.name in (b"min_runtime_version", "min_runtime_version")]
    assert bytes(model.buffers[entry.buffer].data).rstrip(b"\0").decode() == RELEASES[network]
