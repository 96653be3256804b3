"""Float models as `.onnx`: every layer of the list, as people build models of them, computes what Keras computes."""

import keras
import numpy as np
import pytest

pytest.importorskip("tf2onnx", reason="the extra `onnx` is not installed")

import onnx

import keras_quant as kq
from keras_quant.graph import trace
from keras_quant.onnx import export_onnx, read_model
from tests.helpers import functional, images, sequential, shake
from tests.layers.test_float_islands import every_float_layer
from tests.layers.test_shipping import KERAS_CANNOT_RUN
from tests.models import MODELS
from tests.runtimes.shipped import networks

L, ops = keras.layers, keras.ops


def data_for(model, count=5):
    """Inputs by name."""
    values = trace(model, keep_float=True).inputs
    made = {v.name: images(count, v.shape[1:]) for v in values}
    return {v.name: made[v.name] if v.dtype == "float32" else np.abs(60 * made[v.name]).astype(v.dtype) for v in values}


def same(model, path, x=None, **options):
    """Export, check in full, run and compare; returns the export's report."""
    report = export_onnx(model, path, **options)
    onnx.checker.check_model(str(path), full_check=True)
    parity = kq.verify(model, path, data_for(model) if x is None else x, verbose=0)
    assert parity.elements > 0 and parity.equal, [(t.name, t.error) for t in parity.outputs]
    return report


# Whose name Keras itself cannot compile, and whose dtype is told of below.
NOT_HERE = ("subclassed_with_loops", "subclassed_with_a_dict", "half_precision")
# What tf2onnx writes wrongly or not at all: groups of volumes, windows in the batch.
NOT_HERE += ("conv3d_by_channel", "conv3d_grouped", "windowed_transformer")
BUILDS = {**networks(), **{parameter.id: parameter.values[0] for parameter in MODELS}}
BUILDS = {name: build for name, build in BUILDS.items() if name not in NOT_HERE}
FAST = ("layer_normalization", "transpose_small_kernel", "resizing_padded", "split", "augmented_in_front", "mixed_precision")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
        for index, name in enumerate(BUILDS)
        if name not in KERAS_CANNOT_RUN and (name in FAST or index % 2)  # in float; every second does
    ],
)
def test_every_network_is_exported_in_float(name, tmp_path):
    same(shake(BUILDS[name]()), tmp_path / "m.onnx")


@pytest.mark.parametrize(
    "build",
    [
        lambda: sequential(L.Conv2D(6, 3, padding="same"), L.MaxPooling2D(), L.Flatten(), L.Dense(3)),
        pytest.param(lambda: functional(every_float_layer), marks=pytest.mark.slow),
        lambda: sequential(L.Conv2D(12, 3, groups=3), L.Activation("gelu"), L.Flatten(), L.Dense(3)),
        lambda: sequential(L.LSTM(5, return_sequences=True), L.GRU(4), shape=(7, 3)),
        lambda: sequential(L.Embedding(9, 4), L.GlobalAveragePooling1D(), shape=(5,)),
        lambda: sequential(L.Conv3D(4, 2), L.MaxPooling3D(2), L.Flatten(), L.Dense(2), shape=(5, 6, 7, 2)),
    ],
)
def test_any_float_model_is_exported(build, tmp_path):
    model = build()
    same(model, tmp_path / "m.onnx", np.abs(images(6, model.input_shape[1:])) * 3 // 1)


@pytest.mark.lowest
@pytest.mark.parametrize("opset", [13, 17, 18, None])
@pytest.mark.parametrize("shape", [(1, 1, 8), (1, 5, 8)])
def test_images_of_one_pixel_or_row(shape, opset, tmp_path):
    """tf2onnx 1.17 takes transposes of them for reshapes, to shapes that it mistakes behind a square."""

    def build(x):
        x = L.LayerNormalization(epsilon=1e-3)(L.Conv2D(8, 3, padding="same")(x))
        x = L.UnitNormalization()(L.Conv2D(8, 3, padding="same")(x))
        return L.Conv2D(4, 1)(x / (3 + ops.sum(ops.square(x - ops.sum(x, -1, keepdims=True)), -1, keepdims=True)))

    same(shake(functional(build, shape)), tmp_path / "m.onnx", opset=opset)


@pytest.mark.parametrize("kernel, strides, options", [(2, 5, {}), (1, 3, {"padding": "same"}), (3, (3, 1), {})])
def test_places_that_no_tap_of_a_transposed_convolution_reaches(kernel, strides, options, tmp_path):
    same(shake(sequential(L.Conv2DTranspose(4, kernel, strides, **options))), tmp_path / "m.onnx")


def test_random_layers_do_in_a_file_what_they_do_in_inference(tmp_path):
    model = sequential(L.RandomFlip(), L.RandomRotation(0.3), L.RandomContrast(0.5), L.GaussianNoise(1.0), L.Dropout(0.5))
    same(model, tmp_path / "m.onnx")
    assert {node.op_type for node in read_model(tmp_path / "m.onnx").graph.node} <= {"Identity", "Cast", "Clip"}


def test_nodes_of_float_layers_carry_their_paths(tmp_path):
    inner = sequential(L.Conv2D(4, 3, name="conv"), L.LayerNormalization(name="norm"))
    inner.name = "inner"
    model = functional(lambda x: L.Dense(2, name="head")(L.Flatten(name="flat")(inner(L.ReLU(name="_first")(x)))))
    report = same(shake(model), tmp_path / "m.onnx")
    kinds = {(op.layer, op.name) for op in report.operators}
    assert {("inner/conv", "Conv"), ("inner/norm", "ReduceMean"), ("head", "MatMul")} <= kinds or ("head", "Gemm") in kinds
    assert {op.layer for op in report.operators} <= {"_first", "inner/conv", "inner/norm", "flat", "head"}
    assert all(op.node.startswith(f"{op.layer}/") for op in report.operators)


def test_a_layer_that_tf2onnx_cannot_convert_is_named_wherever_it_stands(tmp_path):
    odd = L.Lambda(lambda x: ops.erfinv(ops.tanh(x) / 2), name="odd", output_shape=(10, 10, 4))
    model = sequential(L.Conv2D(4, 3, name="before"), odd, L.Conv2D(3, 1, name="after"))
    with pytest.raises(kq.ExportError, match="Erfinv in 'odd.*register_lowering"):
        kq.export(model, tmp_path / "m.onnx")
    x = keras.Input((12, 12, 6))
    model = keras.Model(x, L.Conv2D(4, 1)(ops.pad(L.ReLU()(x), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")))
    with pytest.raises(kq.ExportError, match="cannot convert 'pad"):
        kq.export(model, tmp_path / "m.onnx")
    model = sequential(L.Conv2D(4, 3), L.Conv2D(4, 3, dtype="bfloat16", name="brain"))
    with pytest.raises(kq.ExportError, match="'brain' computes in bfloat16.*`dtype=\"mixed_float16\"`"):
        kq.export(model, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


# --- beyond what a protocol buffer holds ---


def convolutions(dtype="float32"):
    layers = L.Conv2D(32, 3, padding="same"), L.DepthwiseConv2D(3), L.BatchNormalization(), L.SeparableConv2D(32, 3)
    layers += L.Conv2D(32, 3, groups=4), L.Conv2DTranspose(16, 3, strides=2), L.Flatten(), L.Dense(40, activation="relu")
    return sequential(*(layer.from_config({**layer.get_config(), "dtype": dtype}) for layer in layers), L.Dense(10))


@pytest.mark.lowest
@pytest.mark.parametrize("largest", [150_000, 100])
@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_weights_that_do_not_go_into_one_graph_are_written_as_those_that_do(dtype, largest, tmp_path):
    model = shake(convolutions(dtype))
    whole = same(model, tmp_path / "whole.onnx")
    report = same(model, tmp_path / "m.onnx", largest=largest)
    files = {path.name: path.stat().st_size for path in tmp_path.glob("m.onnx*")}
    assert files["m.onnx"] < files["m.onnx.data"] and sum(files.values()) == report.bytes < 1.1 * whole.bytes
    held = lambda name: {tuple(t.dims) for t in read_model(tmp_path / name).graph.initializer if np.prod(t.dims) > 1000}
    assert held("m.onnx") == held("whole.onnx")


@pytest.mark.slow
def test_recurrent_weights_that_do_not_go_into_one_graph(tmp_path):
    model = sequential(L.LSTM(64, return_sequences=True), L.GRU(100), L.Dense(3), shape=(7, 3))
    same(model, tmp_path / "m.onnx", largest=40_000)
