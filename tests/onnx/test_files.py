"""What an `.onnx` file holds, how it is chosen, and what is refused."""

import functools
import importlib.util
import pathlib
import re

import keras
import numpy as np
import pytest

pytest.importorskip("tf2onnx", reason="the extra `onnx` is not installed")

import onnx
import onnxruntime

import keras_quant as kq
from keras_quant.graph import trace
from keras_quant.onnx import export_onnx, read_model
from keras_quant.onnx.opset import newest_opset
from keras_quant.tflite.parity import TOLERANCES
from tests.custom_layers import ConvUnit
from tests.helpers import functional, images, sequential, shake, slow
from tests.layers.test_dynamic import LAYERS as DYNAMIC
from tests.layers.test_dynamic import every, several
from tests.layers.test_float_islands import every_float_layer, three

L, ops = keras.layers, keras.ops
X = images(12)
PAGES = pathlib.Path(kq.__file__).parents[1] / "docs"


def network():
    layers = L.Conv2D(6, 3, padding="same", activation="relu", name="conv"), L.MaxPooling2D(name="pool"), L.Flatten()
    return shake(sequential(*layers, L.Dense(3, name="logits")))


def fresh(policy="int8"):
    return kq.quantize(network(), policy, X)


# For tests that leave the model as it is.
quantized = functools.cache(fresh)


def run(path, x=X):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    return session.run(None, {given.name: x})


def operators(path):
    return [node.op_type for node in read_model(path).graph.node]


@pytest.fixture
def shipped(tmp_path):
    qmodel, path = quantized(), tmp_path / "m.onnx"
    return qmodel, path, kq.export(qmodel, path)


@pytest.mark.lowest
def test_a_quantized_model_runs_on_onnx_runtime_in_integers(shipped):
    qmodel, path, report = shipped
    parity = kq.verify(qmodel, path, X, verbose=0, intermediates=True)
    assert parity.samples == 12 and parity.elements == 36 and parity.largest <= 1
    assert report.unfused == () and report.runs["QLinearConv"] == report.runs["QGemm"] == 1
    assert report.opset == newest_opset() >= 20
    np.testing.assert_allclose(run(path)[0], qmodel(X), atol=1.01 * report.tensors[-1].scale[0])


def test_the_same_model_gives_the_same_bytes(shipped, tmp_path):
    qmodel, path, report = shipped
    kq.export(qmodel, tmp_path / "again.onnx")
    assert path.read_bytes() == (tmp_path / "again.onnx").read_bytes() and len(path.read_bytes()) == report.bytes


def test_there_is_one_pair_at_each_quantized_tensor_and_none_elsewhere(shipped):
    _, path, _ = shipped
    found = operators(path)
    # The input, conv, pool, flatten, logits; and of constants two kernels and two biases.
    assert found.count("QuantizeLinear") == 5 and found.count("DequantizeLinear") == 5 + 4


def test_images_change_their_layout_at_the_ends_only(tmp_path):
    def build(x):
        a = L.Conv2D(6, 3, padding="same")(x)
        b = L.DepthwiseConv2D(3, padding="same")(L.ReLU()(a))
        x = L.Concatenate()([L.Add()([a, b]), L.Conv2D(4, 1, activation="silu")(L.BatchNormalization()(b))])
        x = L.Conv2D(4, 3)(L.ZeroPadding2D(1)(L.UpSampling2D(2)(L.MaxPooling2D(2)(x))))
        x = L.Multiply()([x, L.Dense(4, activation="sigmoid")(L.GlobalAveragePooling2D(keepdims=True)(x))])
        gate = L.Conv2D(4, 1, activation="hard_sigmoid")(L.Reshape((1, 1, 4))(L.GlobalAveragePooling2D()(x)))
        return L.Multiply()([x, gate])

    kq.export(kq.quantize(shake(functional(build)), "int8", X), tmp_path / "m.onnx")
    assert operators(tmp_path / "m.onnx").count("Transpose") == 2


def test_nodes_carry_the_layers_paths(tmp_path):
    inner = sequential(ConvUnit(4, name="unit"), L.Conv2D(3, 1, name="last"))
    inner.name = "inner"
    qmodel = kq.quantize(functional(lambda x: L.Dense(2, name="head")(L.Flatten()(inner(x)))), "int8", X)
    report = kq.export(qmodel, tmp_path / "m.onnx")
    weighted = [op.layer for op in report.operators if op.name in ("Conv", "Gemm")]
    assert weighted == [node.path for node in trace(qmodel).nodes if hasattr(node.operation, "kernel")]
    assert all(name in " ".join(weighted) for name in ("inner", "unit", "last", "head"))
    named = {node.name.rpartition("/")[0] for node in read_model(tmp_path / "m.onnx").graph.node}
    assert set(weighted) <= named


def test_the_batch_is_open_unless_it_is_given(shipped, tmp_path):
    qmodel, path, _ = shipped
    assert [len(run(path, X[:n])[0]) for n in (1, 5, 12)] == [1, 5, 12]
    kq.export(qmodel, tmp_path / "two.onnx", batch_size=2)
    session = onnxruntime.InferenceSession(str(tmp_path / "two.onnx"))
    assert session.get_inputs()[0].shape == [2, 12, 12, 6] and session.get_outputs()[0].shape == [2, 3]
    assert kq.verify(qmodel, tmp_path / "two.onnx", X[:5], verbose=0).samples == 5


@pytest.mark.parametrize("given, made", [("int8", "uint8"), ("uint8", "int8"), ("float32", "int8")])
@pytest.mark.parametrize("storage", ["uint8", "int8"])
def test_the_ends_have_the_types_that_are_asked_for(storage, given, made, tmp_path):
    qmodel, path = quantized(), tmp_path / "m.onnx"
    kq.export(qmodel, path, input_type=given, output_type=made, storage=storage)
    session = onnxruntime.InferenceSession(str(path))
    kinds = [end[0].type for end in (session.get_inputs(), session.get_outputs())]
    assert kinds == [f"tensor({name.replace('float32', 'float')})" for name in (given, made)]
    assert kq.verify(qmodel, path, X, verbose=0).largest <= 1


def test_ends_of_other_integers_are_refused(tmp_path):
    with pytest.raises(kq.ExportError, match="'input_layer.*' cannot be int16"):
        kq.export(quantized(), tmp_path / "m.onnx", input_type="int16")
    with pytest.raises(kq.ExportError, match="Output 'logits' is int8 in the model and cannot be int16"):
        kq.export(quantized(), tmp_path / "m.onnx", output_type="int16")
    kq.export(quantized("int16"), tmp_path / "m.onnx", input_type="int16", output_type="int16")


def test_integer_inputs_stay_what_they_are(tmp_path):
    x = keras.Input((12, 12, 6), dtype="uint8", name="pixels")
    qmodel = kq.quantize(keras.Model(x, L.Conv2D(3, 3)(L.Rescaling(1 / 255)(x))), "int8", np.uint8(np.abs(X) * 60))
    kq.export(qmodel, tmp_path / "m.onnx")
    assert onnxruntime.InferenceSession(str(tmp_path / "m.onnx")).get_inputs()[0].type == "tensor(uint8)"
    assert kq.verify(qmodel, tmp_path / "m.onnx", np.uint8(np.abs(X) * 60), verbose=0).largest <= 1


# --- precisions ---


def test_4_bits_take_half_a_byte_and_run_in_integers(tmp_path):
    model = shake(sequential(L.Flatten(), L.Dense(256, name="wide"), L.Dense(4)))
    reports = [kq.export(kq.quantize(model, p, X), tmp_path / f"{p}.onnx") for p in ("int4", "int8")]
    weights = 864 * 256 + 256 * 4
    assert abs((reports[1].bytes - reports[0].bytes) - weights // 2) < 2000
    assert all(report.unfused == () for report in reports)
    old = kq.export(kq.quantize(model, "int4", X), tmp_path / "old.onnx", opset=20)
    assert {t.dtype for t in old.tensors if t.name.endswith("kernel")} == {"int8"}


@pytest.mark.parametrize("policy", ["dynamic_int8", *(slow(p) for p in ("float32", "float16", "dynamic_int4"))])
def test_every_float_layer_is_exported(policy, tmp_path):
    qmodel = kq.quantize(shake(functional(every_float_layer)), policy)
    report = kq.export(qmodel, tmp_path / "m.onnx")
    parity = kq.verify(qmodel, tmp_path / "m.onnx", X, verbose=0)
    assert report.unfused == () and parity.equal, [t.error for t in parity.outputs]


def several_dynamic(x):
    x = L.Conv2D(8, 3, strides=2, padding="same", activation="relu")(x)
    x = L.Dense(6, activation="tanh")(L.Conv2D(8, 1, activation="gelu")(x))
    return L.Dense(3)(L.Dense(9)(L.Flatten()(L.Conv2D(5, 3, dilation_rate=2, use_bias=False)(x))))


@pytest.mark.lowest
@pytest.mark.parametrize("opset", [13, None])
@pytest.mark.parametrize("batch_size", [None, 1])
@pytest.mark.parametrize("policy", ["dynamic_int8", slow("dynamic_int4")])
def test_dynamic_layers_have_the_grids_of_xnnpack(policy, batch_size, opset, tmp_path):
    qmodel = kq.quantize(shake(functional(several_dynamic)), policy)
    kq.export(qmodel, tmp_path / "m.onnx", batch_size=batch_size, opset=opset)
    x = X * np.float32(10.0) ** np.arange(-6, 6)[:, None, None, None]
    x[3] = 0
    assert kq.verify(qmodel, tmp_path / "m.onnx", x, verbose=0).equal
    found = operators(tmp_path / "m.onnx")
    assert found.count("ConvInteger") == 3 and found.count("MatMulInteger") == 3
    # Not of the pixels of a 1x1 convolution and of the rows of a Dense layer on an image.
    assert found.count("DynamicQuantizeLinear") == (4 if batch_size == 1 else 0)


@pytest.mark.parametrize("batch_size", [None, 1])
@pytest.mark.parametrize("name", ["images", *(slow(name) for name in DYNAMIC if name != "images")])
def test_every_dynamic_layer_has_the_grids_of_xnnpack(name, batch_size, tmp_path, monkeypatch):
    monkeypatch.setitem(TOLERANCES, "dynamic", 5e-5)
    qmodel, x = kq.quantize(several(name), every("dynamic_int8")), images(6, DYNAMIC[name][0])
    kq.export(qmodel, tmp_path / "m.onnx", batch_size=batch_size)
    x *= np.float32(10.0) ** np.arange(-3, 3).reshape(-1, *[1] * (x.ndim - 1))
    parity = kq.verify(qmodel, tmp_path / "m.onnx", x, verbose=0)
    assert parity.equal and len(parity.outputs) == len(DYNAMIC[name]) - 1, [t.error for t in parity.outputs]
    found = operators(tmp_path / "m.onnx")
    assert found.count("ConvInteger") + found.count("MatMulInteger") == len(parity.outputs)


def test_a_sample_of_a_dynamic_model_does_not_depend_on_those_beside_it(tmp_path):
    qmodel = kq.quantize(network(), "dynamic_int8")
    report = kq.export(qmodel, tmp_path / "m.onnx")
    assert report.bytes < 20_000
    together = run(tmp_path / "m.onnx", np.concatenate([X[:1], 100 * X[1:]]))[0]
    np.testing.assert_array_equal(together[:1], run(tmp_path / "m.onnx", X[:1])[0])


def test_a_dynamic_layer_of_one_sample_runs_fused(tmp_path):
    model = shake(sequential(L.Flatten(), L.Dense(64, activation="relu"), L.Dense(3)))
    report = kq.export(kq.quantize(model, "dynamic_int8"), tmp_path / "m.onnx", batch_size=1)
    assert report.runs["DynamicQuantizeMatMul"] == 2 and "MatMulInteger" not in report.runs


def test_float16_has_half_the_bytes(tmp_path):
    model = shake(sequential(L.Conv2D(64, 3), L.Conv2D(64, 3), L.GlobalAveragePooling2D(), L.Dense(10)))
    sizes = [kq.export(kq.quantize(model, p, X), tmp_path / "m.onnx").bytes for p in ("float16", "float32")]
    assert sizes[0] < 0.55 * sizes[1]


def test_a_float_island_stands_between_pairs(tmp_path):
    qmodel = three(b="float32")
    report = kq.export(qmodel, tmp_path / "m.onnx")
    assert kq.verify(qmodel, tmp_path / "m.onnx", X, intermediates=True, verbose=0).largest <= 1
    assert report.runs["QLinearConv"] == 2 and report.unfused == ()
    assert report.runs.get("Conv", 0) + report.runs.get("FusedConv", 0) == 1


# --- layers of one's own ---


def test_a_layer_without_a_rule_is_converted_from_its_float_arithmetic(tmp_path):
    class Softly(L.Layer):
        def call(self, x):
            return x / (1.0 + ops.exp(-x))

    @kq.register_quantized_layer(Softly, package="tests")
    class QuantSoftly(kq.layers.QuantLayer, Softly):
        def integer_call(self, x, y):
            real = self.float_call(x.integers * x.params.scale)
            return ops.clip(ops.round(real / y.scale), y.low, y.high)

        def compute_output_shape(self, shape):
            return shape

    qmodel = kq.quantize(shake(sequential(L.Conv2D(4, 3), Softly(name="odd"), L.Conv2D(3, 1))), "int8", X)
    kq.export(qmodel, tmp_path / "m.onnx")
    assert kq.verify(qmodel, tmp_path / "m.onnx", X, intermediates=True, verbose=0).largest <= 1


def test_the_rule_in_the_documentation_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pages, names = [PAGES / "custom_layers.md", PAGES / "onnx.md"], {}
    for page in pages:
        code = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)[-1]
        exec(compile(code, str(page), "exec"), names)
    report = kq.export(names["qmodel"], "upscale.onnx")
    assert "DepthToSpace" in [op.name for op in report.operators]
    assert kq.verify(names["qmodel"], "upscale.onnx", names["data"], intermediates=True, verbose=0).largest <= 1


# --- weights in a file of their own ---


def test_large_models_keep_their_weights_beside(tmp_path, monkeypatch):
    qmodel = kq.quantize(shake(sequential(L.Flatten(), L.Dense(128), L.Dense(3))), "int8", X)
    report = export_onnx(qmodel, tmp_path / "m.onnx", largest=10_000)
    files = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(files) == {"m.onnx", "m.onnx.data"} and files["m.onnx"] < 10_000 < files["m.onnx.data"]
    assert report.bytes == sum(files.values()) and report.unfused == ()
    assert kq.verify(qmodel, tmp_path / "m.onnx", X, intermediates=True, verbose=0).largest <= 1
    (tmp_path / "m.onnx.data").unlink()
    with pytest.raises(kq.ModelFileError, match="m.onnx"):
        kq.verify(qmodel, tmp_path / "m.onnx", X, verbose=0)


# --- bad input ---


@pytest.mark.parametrize("opset", [12, 0, "new", 21.0, newest_opset() + 1])
def test_an_opset_that_does_not_work_is_refused(opset, tmp_path):
    with pytest.raises(kq.ExportError, match="`opset` is an integer from 13.*Received: opset="):
        kq.export(quantized(), tmp_path / "m.onnx", opset=opset)


def test_an_opset_too_low_for_a_layer_names_it_and_the_lowest_that_works(tmp_path):
    qmodel = kq.quantize(network(), kq.PolicyMap({"logits": "int16"}), X)
    with pytest.raises(kq.ExportError, match="Layer 'logits' computes on int16.*`opset=21`.*Received: opset=20"):
        kq.export(qmodel, tmp_path / "m.onnx", opset=20)
    kq.export(qmodel, tmp_path / "m.onnx", opset=21)


@pytest.mark.parametrize("option", [{"storage": "int4"}, {"batch_size": 0}, {"batch_size": "two"}, {"input_type": "int4"}])
def test_options_that_are_none_are_refused(option, tmp_path):
    with pytest.raises(kq.ExportError, match=f"Received: {next(iter(option))}="):
        kq.export(quantized(), tmp_path / "m.onnx", **option)


def test_what_is_refused_for_a_tflite_is_refused_here(tmp_path):
    with pytest.raises(kq.CalibrationError, match="never set"):
        kq.export(kq.quantize(network()), tmp_path / "m.onnx")
    with pytest.raises(kq.ExportError, match="Cannot write"):
        kq.export(quantized(), tmp_path / "nowhere" / "m.onnx")
    qmodel, path = fresh(), tmp_path / "m.onnx"
    kq.export(qmodel, path)
    old = path.read_bytes()
    qmodel.get_layer("conv").kernel.assign(np.full((3, 3, 6, 6), np.nan))
    with pytest.raises(kq.ExportError, match="NaN"):
        kq.export(qmodel, path)
    assert path.read_bytes() == old and [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_without_the_extra_the_command_that_installs_it_is_given(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tf2onnx" else found(name))
    for verb in (lambda: kq.export(quantized(), tmp_path / "m.onnx"), lambda: kq.verify(None, tmp_path / "m.onnx", X)):
        with pytest.raises(kq.ExportError, match=r"needs tf2onnx.*pip install 'keras-quant\[onnx\]'"):
            verb()


@pytest.mark.parametrize("content", [b"", b"short", b"\0" * 1000, np.random.default_rng(0).bytes(5000)])
def test_a_file_that_is_no_onnx_is_refused(content, shipped, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(kq.ModelFileError, match="bad.onnx' is no ONNX model, or cut short"):
        kq.verify(shipped[0], tmp_path / "bad.onnx", X, verbose=0)


def test_a_file_cut_short_anywhere_is_refused(shipped, tmp_path):
    content = shipped[1].read_bytes()
    whole = read_model(shipped[1])
    # The format has no end mark: between fields behind the graph a cut cannot be seen, and loses none of it.
    behind = len(content) - len(onnx.ModelProto(metadata_props=whole.metadata_props).SerializeToString())
    for size in range(0, behind, max(len(content) // 100, 1)):
        (tmp_path / "cut.onnx").write_bytes(content[:size])
        with pytest.raises(kq.ModelFileError, match="cut.onnx"):
            read_model(tmp_path / "cut.onnx")


def test_a_missing_file_and_one_of_another_model_are_refused(shipped, tmp_path):
    qmodel, path, _ = shipped
    with pytest.raises(kq.ModelFileError, match="Cannot read '.*none.onnx'"):
        kq.verify(qmodel, tmp_path / "none.onnx", X, verbose=0)
    other = kq.quantize(sequential(L.Conv2D(4, 3, name="other")), "int8", X)
    with pytest.raises(kq.ModelFileError, match="m.onnx' was exported from another model"):
        kq.verify(other, path, X, verbose=0)
    with pytest.raises(kq.QuantizationError, match="on ONNX Runtime on this machine"):
        kq.verify(qmodel, path, X, verbose=0, target="aarch64")


def test_verify_finds_a_difference(tmp_path):
    qmodel, path = fresh(), tmp_path / "m.onnx"
    kq.export(qmodel, path)
    dense = qmodel.get_layer("logits")
    dense.bias.assign(dense.bias + 5 * float(dense.output_quantizer.params().scale))
    report = kq.verify(qmodel, path, X, intermediates=True, verbose=0)
    assert not report.equal and report.mismatches > 20 and 4 <= report.largest <= 6
    assert [t.name for t in report.intermediates if t.mismatches] == ["logits"]


def test_the_file_passes_the_full_check(shipped):
    onnx.checker.check_model(str(shipped[1]), full_check=True)
