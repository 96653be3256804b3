"""Each layer, over its arguments, as ONNX: no weights in float, at most a step from Keras, the `.tflite`'s grids."""

import keras
import numpy as np
import pytest

pytest.importorskip("tf2onnx", reason="the extra `onnx` is not installed")

import onnx

import keras_quant as kq
from keras_quant.onnx import read_model
from keras_quant.tflite import read_model as read_tflite
from keras_quant.tflite.report import text
from keras_quant.tflite.writer import TensorType
from tests.helpers import images, shake
from tests.layers.test_precision import quantized
from tests.onnx.forced import differences
from tests.runtimes.shipped import networks

NETWORKS = networks()
# One of each kind of rule.
FAST = (
    "conv_same_strided",
    "conv_grouped",
    "depthwise_multiplied",
    "transpose_same",
    "bn_alone_on_vectors",
    "mish",
    "squeeze_and_excite",
    "concatenate_fixed_grids",
    "padding_and_cropping",
    "upsampling_bilinear",
    "movement",
    "arithmetic_with_arrays",
    "matmul",
    "conv1d_causal",
    "gelu",
    "softmax",
)


def make(name, policy="int8"):
    keras.utils.set_random_seed(0)
    model = shake(NETWORKS[name]())
    x = images(12, model.input_shape[1:])
    return kq.quantize(model, policy, x), x


def check(qmodel, x, path, most=1, **options):
    """Export, run, and hold every operator to `most` steps; returns the reports."""
    report = kq.export(qmodel, path, **options)
    parity = kq.verify(qmodel, path, x, verbose=0, intermediates=True)
    assert parity.elements > 0 and parity.samples == len(x)
    apart = differences(qmodel, path, x)
    assert apart and max(apart.values()) <= most, {layer: steps for layer, steps in apart.items() if steps > most}
    return report, parity


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in NETWORKS])
def test_every_operator_is_within_a_step_of_keras_and_fused(name, tmp_path):
    qmodel, x = make(name)
    report, _ = check(qmodel, x, tmp_path / "m.onnx")
    assert report.unfused == ()


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["int4", "w5a6", "int16"])
@pytest.mark.parametrize("name", FAST)
def test_every_operator_in_other_widths(name, policy, tmp_path):
    try:
        qmodel, x = make(name, policy)
    except kq.UnsupportedLayerError:
        pytest.skip("there is no such form")
    # AVERAGE_POOL_2D and QUANTIZE of int16 round twice: a tie on the first grid is several steps of the second.
    report, _ = check(qmodel, x, tmp_path / "m.onnx", most=4 if policy == "int16" else 1)
    assert policy == "int16" or report.unfused == ()


@pytest.mark.slow
@pytest.mark.parametrize("name", FAST)
def test_every_operator_in_the_oldest_opset(name, tmp_path):
    qmodel, x = make(name)
    report, _ = check(qmodel, x, tmp_path / "m.onnx", opset=13)
    assert report.unfused == () and report.opset == 13


@pytest.mark.parametrize("policy", ["int4", pytest.param("w8a6", marks=pytest.mark.slow), "int16"])
def test_blocks_of_other_widths(policy, tmp_path):
    report, _ = check(quantized(policy), images(12), tmp_path / "m.onnx", most=4 if policy == "int16" else 1)
    assert policy == "int16" or report.unfused == ()
    kinds = {t.dtype for t in report.tensors if t.name.endswith("kernel")}
    assert kinds == ({"int4"} if policy == "int4" else {"int8"})


# --- against the .tflite ---


def of_tflite(qmodel, path):
    """Grids, and data of constants, by tensor name."""
    kq.export(qmodel, path)
    _, model = read_tflite(path)
    found = {}
    for tensor in model.subgraphs[0].tensors:
        q = tensor.quantization
        if q is not None and q.scale is not None:
            values = values_of(tensor, model.buffers[tensor.buffer].data)
            found[text(tensor.name)] = np.float32(q.scale), np.asarray(q.zeroPoint), values
    return found


def values_of(tensor, data):
    """The integers of a constant of a `.tflite`; `None` of other tensors."""
    if data is None:
        return None
    if tensor.type == TensorType.INT4:
        pairs = np.frombuffer(bytes(data), np.uint8)
        nibbles = np.stack([pairs & 15, pairs >> 4], 1).ravel()[: np.prod(tensor.shape)].astype(int)
        return np.where(nibbles > 7, nibbles - 16, nibbles).reshape(tensor.shape)
    kinds = {TensorType.INT8: np.int8, TensorType.INT32: np.int32, TensorType.INT64: np.int64}
    return np.frombuffer(bytes(data), kinds[tensor.type]).reshape(tensor.shape)


def of_onnx(qmodel, path, storage):
    """Likewise, under the same names, zero points in terms of int8."""
    report = kq.export(qmodel, path, storage=storage)
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in read_model(path).graph.initializer}
    shift = {"uint8": 128}
    return {
        t.name.removesuffix("/quantized"): (np.float32(t.scale), t.zero_point - shift.get(t.dtype, 0), constants.get(t.name))
        for t in report.tensors
    }


def as_tflite(kernel, wanted):
    """A kernel with its filters first in the layout of the `.tflite`'s: filters last if it is depthwise."""
    moved = np.moveaxis(kernel, 1, -1) if kernel.ndim > 2 else kernel
    moved = np.moveaxis(moved, 0, -1) if wanted[0] == 1 and kernel.shape[0] > 1 and kernel.ndim > 2 else moved
    return moved.reshape(wanted)


@pytest.mark.parametrize("policy, storage", [("int8", "uint8"), ("int8", "int8"), ("int4", "uint8"), ("int16", "uint8")])
def test_grids_and_weights_are_those_of_the_tflite(policy, storage, tmp_path):
    qmodel = quantized(policy)
    ours, theirs = of_onnx(qmodel, tmp_path / "m.onnx", storage), of_tflite(qmodel, tmp_path / "m.tflite")
    shared = [name for name in theirs if name in ours]
    # The mean over a window is a convolution with constant weights there, AveragePool here.
    constants = {name for name in theirs if not name.startswith("average_pooling")}
    kernels = {name for name in constants if name.endswith("/kernel")}
    biases = {name for name in constants if name.endswith("/bias")}
    inside = {node for node in (layer.name for layer in qmodel.layers[1:]) if node in theirs}
    assert kernels and biases and inside and {*kernels, *biases} <= set(shared)
    # Padding has joined the convolution behind it.
    assert {name for name in inside if name not in ours} <= {"zero_padding2d"}
    for name in shared:
        (scale, zero, values), (scale_, zero_, values_) = ours[name], theirs[name]
        np.testing.assert_array_equal(scale, scale_, name)
        assert np.all(zero_ == zero), name
        if values is not None and values_ is not None:
            values = values.astype(int)
            values = as_tflite(values, values_.shape) if name in kernels else values
            values = np.moveaxis(values, 1, -1) if name.endswith("/constant") else values
            np.testing.assert_array_equal(values, values_, name)
