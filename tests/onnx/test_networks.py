"""Each layer, over its arguments, as ONNX: no weights in float, at most a step from Keras, the `.tflite`'s grids."""

import pathlib
import sys

import keras
import numpy as np
import pytest

pytest.importorskip("tf2onnx", reason="the extra `onnx` is not installed")

import keras_quant as kq
from keras_quant.onnx import Runtime, places
from tests.helpers import few, functional, images, sequential, shake, slow
from tests.layers.test_precision import quantized
from tests.models import MODELS
from tests.onnx import grids
from tests.quantizers.test_shipping import KERNELS, OUTPUTS
from tests.quantizers.test_shipping import network as every_kernel
from tests.runtimes.shipped import networks
from tests.test_networks import DATA, cifar10_test

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "benchmarks"))
from onnx_alone import alone

L = keras.layers
NETWORKS = networks()
WHOLE = {
    "mobilenet_v2": lambda: keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None),
    "resnet50": lambda: keras.applications.ResNet50(input_shape=(32, 32, 3), weights=None),
    **{p.id: p.values[0] for p in MODELS if p.id in ("u_net", "feature_pyramid", "residuals_into_concatenations")},
}
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
    "group_normalization",
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
    apart = {layer: found.steps for layer, found in alone(qmodel, path, x).items()}
    assert apart and max(apart.values()) <= most, {layer: steps for layer, steps in apart.items() if steps > most}
    return report, parity


def same_integers(qmodel, folder):
    """Hold the `m.onnx` in a folder against the `.tflite`; returns how many grids and constants are the same."""
    kq.export(qmodel, folder / "m.tflite")
    return grids.same(qmodel, folder / "m.onnx", folder / "m.tflite")


@pytest.mark.parametrize("name", few(NETWORKS, *FAST))
def test_every_operator_is_within_a_step_of_keras_and_fused_and_has_the_integers_of_the_tflite(name, tmp_path):
    qmodel, x = make(name)
    report, _ = check(qmodel, x, tmp_path / "m.onnx")
    assert report.unfused == ()
    assert same_integers(qmodel, tmp_path)[0] > 0
    oldest = kq.export(qmodel, tmp_path / "old.onnx", opset=13)
    assert oldest.unfused == () and oldest.opset == 13
    assert_same_outputs(tmp_path / "m.onnx", tmp_path / "old.onnx", x)


def assert_same_outputs(path, other, x):
    """Two files of one model compute the same, but for a step where one has a table and the other an operator."""
    runtimes = Runtime(path), Runtime(other)
    ends = places.read(runtimes[0].model)[1]
    for info, ours, theirs in zip(runtimes[0].outputs, *(runtime.run([x]) for runtime in runtimes), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1.01 * ends[info["name"]].scale)


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
    same_integers(qmodel, tmp_path)


@pytest.mark.parametrize("policy", ["int4", pytest.param("w8a6", marks=pytest.mark.slow), "int16"])
@pytest.mark.slow
def test_blocks_of_other_widths(policy, tmp_path):
    report, _ = check(quantized(policy), images(12), tmp_path / "m.onnx", most=4 if policy == "int16" else 1)
    if policy == "int16":
        # ONNX Runtime has no kernels of it, and says of each layer with weights that it is left in float.
        weighted = {op.layer for op in report.operators if op.name in ("Conv", "Gemm")}
        assert not any(name.startswith("QLinear") for name in report.runs)
        assert {op.layer for op in report.unfused} == weighted and "hidden: Gemm has no integer kernel" in str(report)
    else:
        assert report.unfused == ()
    kinds = {t.dtype for t in report.tensors if t.name.endswith("kernel")}
    assert kinds == ({"int4"} if policy == "int4" else {"int8"})


# --- quantizers ---


@pytest.mark.parametrize("name", ["kmeans", slow("look_up"), slow("powers_of_two"), slow("lsq")])
def test_kernels_of_every_sort_of_quantizer_ship(name, tmp_path):
    """Codebooks of 16 levels are integers of 8 bits; the others of int4 are packed."""
    policy = kq.Policy("int4", "int8", kernel_quantizer=KERNELS.get(name, name))
    qmodel = kq.quantize(shake(functional(every_kernel)), policy, images(12))
    report, _ = check(qmodel, images(12), tmp_path / "m.onnx")
    assert same_integers(qmodel, tmp_path)[1] >= 10
    kinds = {t.dtype for t in report.tensors if t.name.endswith("/kernel")}
    assert kinds == ({"int4"} if name in KERNELS else {"int8"})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lsq+", "power of two"])
def test_outputs_of_every_sort_of_quantizer_ship(name, tmp_path):
    policy = kq.Policy("int8", "int8", output_quantizer=OUTPUTS[name])
    qmodel = kq.quantize(shake(functional(every_kernel)), policy, images(12))
    check(qmodel, images(12), tmp_path / "m.onnx")
    assert same_integers(qmodel, tmp_path)[0] >= 10


# --- the integers of the .tflite ---


@pytest.mark.parametrize("storage", ["uint8", "int8"])
@pytest.mark.parametrize("policy", ["int8", "int4", slow("int16"), slow("w2a8"), slow("w3a4"), slow("w8a6")])
def test_grids_and_weights_of_blocks_are_those_of_the_tflite(policy, storage, tmp_path):
    qmodel = quantized(policy)
    kq.export(qmodel, tmp_path / "m.onnx", storage=storage)
    grids, constants = same_integers(qmodel, tmp_path)
    assert grids > 15 and constants > 15


@pytest.mark.parametrize("policy", ["dynamic_int8", "dynamic_int4"])
def test_weights_of_dynamic_layers_are_those_of_the_tflite(policy, tmp_path):
    layers = L.Conv2D(6, 3, strides=2), L.Conv2D(8, 1), L.Flatten(), L.Dense(6, activation="relu"), L.Dense(4)
    qmodel = kq.quantize(shake(sequential(*layers)), policy)
    kq.export(qmodel, tmp_path / "m.onnx")
    assert same_integers(qmodel, tmp_path) == (0, 4)


def test_grids_and_weights_beside_float_layers_are_those_of_the_tflite(tmp_path):
    policies = kq.PolicyMap({"conv": "float32", "pointwise": "int4", "hidden": "dynamic_int8", "logits": "int16"})
    qmodel = quantized(policies)
    kq.export(qmodel, tmp_path / "m.onnx")
    same_integers(qmodel, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["int8", "int4"])
@pytest.mark.parametrize("name", WHOLE)
def test_grids_and_weights_of_whole_networks_are_those_of_the_tflite(name, policy, tmp_path):
    model = WHOLE[name]()
    qmodel = kq.quantize(shake(model), policy, images(8, model.input_shape[1:]))
    report = kq.export(qmodel, tmp_path / "m.onnx")
    grids, constants = same_integers(qmodel, tmp_path)
    assert report.unfused == () and grids > 10 and constants >= 12


@pytest.mark.parametrize("name", ["resnet8_cifar10", slow("mobilenet_v2_cifar10")])
def test_trained_networks_have_the_integers_of_the_tflite_and_the_outputs_of_predict(name, tmp_path):
    x, _ = cifar10_test(400)
    qmodel = kq.quantize(keras.models.load_model(DATA / f"{name}.keras"), "int8", x[:200])
    report = kq.export(qmodel, tmp_path / "m.onnx")
    grids, constants = same_integers(qmodel, tmp_path)
    assert report.unfused == () and grids > 10 and constants >= 12
    found = kq.verify(qmodel, tmp_path / "m.onnx", x[200:], verbose=0)
    # ONNX Runtime rounds sums at halves to even: one step, more or fewer with the processor that trained data meets.
    assert found.mismatches <= 0.005 * found.elements and max(t.largest for t in found.outputs) <= 1
