"""What a report says of a model without data: cost, size, range, and where it runs."""

import keras
import numpy as np
import pytest

import keras_quant as kq
from keras_quant.tflite import read_model
from tests.helpers import functional, images, sequential, shake
from tests.runtimes.shipped import networks
from tests.test_fallback import Warm

L = keras.layers


def quantized(model, policy="int8", **options):
    return kq.quantize(shake(model), policy, images(shape=model.input_shape[1:]), **options)


def line(report, path):
    (found,) = [layer for layer in report.layers if layer.path == path]
    return found


# Of images (12, 12, 6): layer, its multiply-accumulates, its weights.
BY_HAND = {
    "conv": (L.Conv2D(8, 3), 10 * 10 * 8 * 3 * 3 * 6, 3 * 3 * 6 * 8 + 8),
    "strided": (L.Conv2D(8, 3, strides=2, padding="same"), 6 * 6 * 8 * 3 * 3 * 6, 3 * 3 * 6 * 8 + 8),
    "grouped": (L.Conv2D(12, 3, groups=3, use_bias=False), 10 * 10 * 12 * 3 * 3 * 2, 3 * 3 * 2 * 12),
    "pointwise": (L.Conv2D(5, 1), 12 * 12 * 6 * 5, 6 * 5 + 5),
    "depthwise": (L.DepthwiseConv2D(3, depth_multiplier=2), 10 * 10 * 12 * 9, 9 * 12 + 12),
    "transposed": (L.Conv2DTranspose(8, 2, strides=2), 12 * 12 * 6 * 2 * 2 * 8, 2 * 2 * 6 * 8 + 8),
    "dense": (L.Dense(7), 12 * 12 * 6 * 7, 6 * 7 + 7),
    "pooling": (L.MaxPooling2D(), 0, 0),
}


@pytest.mark.parametrize("case", BY_HAND)
@pytest.mark.parametrize("policy", [pytest.param("int8", marks=pytest.mark.lowest), "float32"])
def test_macs_and_weights_by_hand(case, policy):
    layer, macs, weights = BY_HAND[case]
    model = sequential(type(layer).from_config({**layer.get_config(), "name": "layer"}))
    found = line(kq.report(quantized(model, policy)), "layer")
    assert (found.macs, found.parameters) == (macs, weights)
    assert found.file_macs == macs and found.policy == policy


@pytest.mark.parametrize("policy", ["int8", "float32"])
def test_macs_of_parts_and_products(policy):
    x = keras.Input((10, 8))
    scores = keras.ops.matmul(x, L.Permute((2, 1))(x))
    model = keras.Model(x, L.EinsumDense("abc,cde->abde", (10, 3, 2), name="einsum")(keras.ops.matmul(scores, x)))
    report = kq.report(quantized(model, policy, fallback="float"))
    assert report.macs == 10 * 10 * 8 + 10 * 8 * 10 + 10 * 8 * 6
    y = keras.ops.einsum("abc,adc->abd", x, keras.ops.relu(x))
    assert kq.report(quantized(keras.Model(x, y), policy)).macs == 10 * 10 * 8
    separable = quantized(sequential(L.SeparableConv2D(8, 3, depth_multiplier=2)), policy)
    assert kq.report(separable).macs == 10 * 10 * (12 * 9 + 12 * 8)


def test_macs_that_nobody_knows_are_none():
    model = sequential(L.Reshape((12, 72)), L.RNN(Warm(4), name="lstm"), L.Dense(3, name="dense"))
    report = kq.report(kq.quantize(model, "int8", images(), fallback="float"))
    assert line(report, "lstm").macs is None and line(report, "dense").macs == 12
    assert report.macs == 12
    assert line(report.sort("macs"), "lstm") is report.sort("macs").layers[-1]


# Kernels that are filled up with zeros: to stay on XNNPACK, or for the phases of a transposed convolution.
MORE_IN_THE_FILE = ("depthwise_large", "depthwise_large_in_blocks")
MORE_IN_THE_FILE += tuple(name for name in networks() if name.startswith("transpose"))


@pytest.mark.slow
@pytest.mark.xdist_group("shipped")
def test_layers_and_operators_count_alike(shipped_networks):
    """Two countings, of the layers and of the file's operators, of every network that the tests ship."""
    compared = 0
    for name, (qmodel, path, _) in shipped_networks.items():
        report = kq.report(qmodel)
        for layer in report.layers:
            if layer.macs and name not in MORE_IN_THE_FILE:
                assert layer.macs == layer.file_macs, (name, layer.path)
                compared += 1
            assert layer.macs is not None and layer.file_macs >= layer.macs
        assert report.bytes == path.stat().st_size, name
        assert sum(layer.bytes for layer in report.layers) == sum(constants(path)), name
        assert set(networks()) == set(shipped_networks)
    assert compared > 60


def constants(path):
    """Sizes of the constants in a file."""
    _, model = read_model(path)
    read = {model.subgraphs[0].tensors[i].buffer for op in model.subgraphs[0].operators for i in op.inputs if i >= 0}
    return [len(model.buffers[i].data) for i in read if model.buffers[i].data is not None]


@pytest.mark.lowest
def test_bytes_are_those_of_the_file(tmp_path):
    model = sequential(L.Conv2D(8, 3, name="conv"), L.BatchNormalization(), L.ReLU(), L.Flatten(), L.Dense(4, name="dense"))
    for policy, bits in (("int8", 8), ("int4", 4)):
        qmodel = quantized(model, policy)
        exported = kq.export(qmodel, tmp_path / "m.tflite")
        report = kq.report(qmodel)
        assert report.bytes == exported.bytes == (tmp_path / "m.tflite").stat().st_size
        assert sum(layer.bytes for layer in report.layers) == sum(constants(tmp_path / "m.tflite"))
        # int8 kernels and int32 biases; of a 3×3 convolution 4-bit weights are stored as int8.
        assert line(report, "conv").bytes == 3 * 3 * 6 * 8 + 4 * 8
        assert line(report, "dense").bytes == 800 * 4 * bits // 8 + 4 * 4
    of_file = kq.report(tmp_path / "m.tflite")
    assert sum(layer.bytes for layer in of_file.layers) == sum(constants(tmp_path / "m.tflite"))
    assert of_file.macs == report.macs and of_file.bytes == report.bytes
    by_path = {layer.path: layer for layer in of_file.layers}
    for name in ("conv", "dense"):
        ours, theirs = line(report, name), by_path[name]
        assert (ours.scale, ours.zero_point, ours.low, ours.high) == (
            theirs.scale,
            theirs.zero_point,
            theirs.low,
            theirs.high,
        )
        assert np.sum(ours.weights.counts) == np.sum(theirs.weights.counts) > 0
        counts = dict(zip(theirs.weights.edges + 0.5, theirs.weights.counts))
        assert [counts[edge] for edge in ours.weights.edges[:-1] + 0.5] == ours.weights.counts.tolist()


def test_the_model_stays_as_it_is():
    x = keras.Input((10, 8))
    qmodel = quantized(keras.Model(x, keras.ops.matmul(keras.ops.mean(x, -1, keepdims=True), x[:, :1])))
    before = [np.array(v) for v in qmodel.variables]
    kq.report(qmodel, images(shape=(10, 8)))
    assert all(np.array_equal(a, np.array(v)) for a, v in zip(before, qmodel.variables))


def test_range_policy_and_runtime():
    x = keras.Input((8,))
    y = L.Dense(6, activation="relu", name="first")(x)
    model = keras.Model(x, L.Softmax(name="probabilities")(L.Dense(4, name="second")(y)))
    qmodel = quantized(model, kq.PolicyMap({"first": "int16"}, default="int8"))
    report = kq.report(qmodel)
    first, second, last = (line(report, name) for name in ("first", "second", "probabilities"))
    params = qmodel.get_layer("second").output_quantizer.params()
    scale, zero_point = float(params.scale), float(params.zero_point)
    assert (second.scale, second.zero_point) == (scale, zero_point)
    assert second.low == pytest.approx((-128 - zero_point) * scale) and second.high == pytest.approx(
        (127 - zero_point) * scale
    )
    assert (first.policy, second.policy) == ("int16", "int8")
    assert (first.runs_on, second.runs_on, last.runs_on) == ("built-in kernel", "XNNPACK", "built-in kernel")
    assert first.reason and not second.reason and "SOFTMAX" in last.operators
    assert "probabilities (SOFTMAX, QUANTIZE): " in str(report)
    assert report.layers[0].kind == "Quantize" and report.layers[0].runs_on == ""


def test_a_layer_called_twice_has_one_line():
    dense = L.Dense(8, name="twice")
    report = kq.report(quantized(functional(lambda x: dense(dense(x)), shape=(8,))))
    assert line(report, "twice").macs == 2 * 64 and line(report, "twice").parameters == 72
    assert line(report, "twice").bytes == sum(op.bytes for op in report.exported.operators)
    assert line(report, "twice").operators == ("FULLY_CONNECTED", "FULLY_CONNECTED")


@pytest.mark.parametrize("policy", ["int4", "int16", "w3a5", "float16", "float32", "dynamic_int8", "dynamic_int4"])
def test_every_policy_reports(policy, tmp_path):
    model = sequential(L.Conv2D(8, 3, name="conv"), L.ReLU(), L.Flatten(), L.Dense(4, name="dense"))
    report = kq.report(quantized(model, policy), images())
    assert not report.notes and report.samples == 32
    dense = line(report, "dense")
    assert dense.policy == policy and dense.bytes and dense.macs == 3200 and dense.low < 0 < dense.high
    if policy == "float32":
        assert dense.local_sqnr is None and report.output_sqnr["dense"] == np.inf
    else:
        assert 10 < dense.local_sqnr < 110
    in_integers = not policy.startswith(("float", "dynamic"))
    assert (dense.activations is not None) == (dense.clipped is not None) == in_integers
    report.save(tmp_path / "r.html")


# --- what cannot be found out, and bad input ---


def test_without_ranges_the_rest_is_reported():
    qmodel = kq.quantize(sequential(L.Conv2D(8, 3, name="conv")))
    report = kq.report(qmodel)
    assert report.exported is None and line(report, "conv").bytes is None and line(report, "conv").macs == 43200
    assert "not set" in str(report) and "never set" in " ".join(report.notes) and "Pass `data`" in " ".join(report.notes)
    assert "bytes" not in [column.key for column in report.columns]
    with pytest.raises(kq.CalibrationError, match=r"'.*' was never set.*calibrate"):
        kq.report(qmodel, images())


def test_a_float_model_is_reported_for_its_cost():
    report = kq.report(sequential(L.Conv2D(8, 3, name="conv")), images())
    assert line(report, "conv").policy == "float32" and line(report, "conv").macs == 43200
    assert "Pass it to `keras_quant.quantize`" in " ".join(report.notes)
    assert line(report, "conv").low < 0 and line(report, "conv").weights is None


def test_errors_say_the_way_out(tmp_path):
    qmodel = quantized(sequential(L.Flatten(), L.Dense(3, name="dense")))
    with pytest.raises(kq.QuantizationError, match="Call it once on a batch"):
        kq.report(keras.Sequential([L.Dense(3)]))
    with pytest.raises(kq.QuantizationError, match=r"A `keras.Model` is needed.*Dense"):
        kq.report(L.Dense(3))
    with pytest.raises(kq.CalibrationError, match="takes batches"):
        kq.report(qmodel, images(shape=(5, 5, 6)))
    with pytest.raises(kq.CalibrationError, match="NaN"):
        kq.report(qmodel, images() * np.nan)
    with pytest.raises(kq.QuantizationError, match=r"No layer of `float_model`.*was given to `quantize`"):
        kq.report(qmodel, images(), float_model=sequential(L.ReLU(name="other")))
    with pytest.raises(kq.QuantizationError, match="load_model"):
        kq.report("model.keras")
    with pytest.raises(kq.ModelFileError, match="Check the path"):
        kq.report(tmp_path / "none.tflite")
    path = tmp_path / "m.tflite"
    kq.export(qmodel, path)
    with pytest.raises(kq.QuantizationError, match="Pass the quantized model"):
        kq.report(path, images())
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(kq.ModelFileError, match="damaged|cannot load"):
        kq.report(path)


@pytest.mark.parametrize("length", [7, 22])
@pytest.mark.parametrize("policy", ["int8", "float32"])
def test_the_layers_inside_a_loop_have_lines(policy, length):
    model = functional(lambda x: L.Dense(2)(L.LSTM(6, name="lstm")(x)), (length, 5))
    report = kq.report(quantized(model, policy))
    around, inside = length * 4 * 6 * 5, length * 4 * 6 * 6
    assert report.macs == around + inside + 6 * 2 == kq.report(model).macs
    assert sum(layer.macs for layer in report.layers if layer.path.startswith("lstm/")) == inside
    assert sum(operator.macs for operator in report.exported.operators) == report.macs
    assert line(report, "lstm").policy == policy and line(report, "lstm").macs == 0
    assert line(report, "lstm/gates_recurrent").policy == policy
    assert {layer.runs_on for layer in report.layers if layer.path.startswith("lstm/")} <= {"", "XNNPACK"}
    assert line(report, "lstm/gates_recurrent").bytes >= 3 * 6 * 6
    assert sum(layer.parameters for layer in report.layers) == model.count_params()


def test_the_file_of_a_loop(tmp_path):
    qmodel = quantized(functional(lambda x: L.GRU(6, return_sequences=True, name="gru")(x), (22, 5)))
    exported = kq.export(qmodel, tmp_path / "m.tflite")
    (loop,) = [operator for operator in exported.operators if operator.name == "WHILE"]
    inside = [operator for operator in exported.operators if operator.times > 1]
    assert (loop.layer, loop.on_xnnpack) == ("gru", False) and "repeats what is inside" in loop.reason
    assert {operator.layer for operator in inside} > {"gru/gates_recurrent", "gru/state", "gru"}
    assert {op.name for op in exported.off_xnnpack} <= {"WHILE", "GATHER", "ADD", "CONCATENATION", "DYNAMIC_UPDATE_SLICE"}
    exact = "a step of an integer layer that is exact in float"
    assert exact in {op.reason for op in exported.float_operators} <= {exact, "integers and real numbers meet here"}
    assert any(tensor.name.startswith("gru.gates_recurrent") for tensor in exported.tensors)
    report = kq.report(tmp_path / "m.tflite")
    assert report.macs == 22 * 3 * 6 * (5 + 6) and len(report.layers) == len(exported.operators)
    assert line(report, "gru/gates_recurrent").macs > 0
