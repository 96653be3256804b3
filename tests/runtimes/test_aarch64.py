"""64-bit Arm: the networks of `layers/test_shipping`, which together hold every operator, in one process a processor."""

import ast
import pathlib

import keras
import numpy as np
import pytest
from ai_edge_litert.schema_py_generated import BuiltinOperator

import keras_quant as kq
from keras_quant import integer
from keras_quant.tflite import Emulator, Runtime, aarch64, read_model
from keras_quant.tflite.writer import TensorType, Writer
from tests.helpers import functional, images, quantize_and_ship, sequential, shake
from tests.integer.one_op import EVERY_PAIR, OneOp, grid
from tests.runtimes.shipped import differences, operators_in, whole

L = keras.layers
# One process makes the networks for all.
pytestmark = pytest.mark.xdist_group("shipped")
# The first without, the second with the dot-product instructions.
CPUS = ["cortex-a72", "cortex-a76"]


@pytest.fixture(scope="module", params=CPUS)
def arm(request):
    """One process for all networks; setting it up is `export/aarch64/setup.sh`."""
    try:
        emulator = Emulator(request.param)
    except kq.EmulatorError as error:
        pytest.skip(str(error))
    with emulator:
        yield emulator


OF_OTHER_WIDTHS = {"AVERAGE_POOL_2D", "DEQUANTIZE", "RELU"}
# Of loops and of files that run step by step, which `test_loops.py` and `tests/test_streaming.py` hold to the runtime.
OF_LOOPS = {"ASSIGN_VARIABLE", "CALL_ONCE", "DYNAMIC_UPDATE_SLICE", "LESS", "READ_VARIABLE", "VAR_HANDLE", "WHILE"}


def operators_that_rules_name():
    """Names of operators that appear in the lowering's source."""
    folder, names = pathlib.Path(aarch64.__file__).parent, set()
    for path in folder.glob("*.py"):
        # Operators of other widths are held to the runtime in `layers/test_precision` and `layers/test_float_islands`.
        # `cost.py` names what files of other writers hold.
        if path.name in ("reasons.py", "cost.py") or path.name.startswith("float_"):
            continue
        nodes = ast.walk(ast.parse(path.read_text()))
        names |= {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    # DELEGATE is the runtime's word for a partition.
    return (
        {name for name in names if name.isupper() and hasattr(BuiltinOperator, name)}
        - {"DELEGATE"}
        - OF_OTHER_WIDTHS
        - OF_LOOPS
    )


@pytest.mark.slow
def test_the_networks_hold_every_operator_that_is_lowered_to(shipped_networks):
    held = set().union(*(operators_in(read_model(path)[1]) for _, path, _ in shipped_networks.values()))
    missing = operators_that_rules_name() - held
    assert not missing, f"Add a network with {sorted(missing)} to a table in tests/layers/test_shipping.py"
    assert len(held) > 15


@pytest.mark.slow
def test_every_output_and_tensor_inside_is_the_same_here_and_on_arm(arm, shipped_networks):
    for name, (_, path, x) in shipped_networks.items():
        file = whole(name, path, x)
        there = arm.runtime(file.content).run(file.inputs)
        assert differences(file.outputs, there)[0] == 0, name


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.25, 1 / 256, 83 / 340, 0.0081, 0.0083])
def test_products_round_otherwise_on_arm_where_halves_says_so(arm, ratio):
    a, b = EVERY_PAIR
    x, y = grid(0.02, -34), grid(0.02 * 0.25 / ratio, -20)
    op = OneOp("MUL", [(a, 0.02, -34), (b, 0.25, 0)], a.shape[1:], (y.scale, -20), 2, "MulOptions")
    (there,) = arm.runtime(op.content).run([a, b])
    products = np.multiply.outer(np.arange(-128, 128) + 34, np.arange(-128, 128))
    assert np.any(op.run() != there) == integer.products_part(products, x, grid(0.25, 0), y)


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [1.0, 4.0, 0.75, 1.1])
def test_sums_round_otherwise_on_arm_only_where_halves_says_so(arm, ratio):
    x, y = grid(0.02, -34), grid(0.02 * 2 / ratio, -20)
    a = np.stack([EVERY_PAIR[0].ravel(), EVERY_PAIR[1].ravel()], -1).reshape(1, 256, 256, 2)
    axes = lambda writer, fed: [*fed, writer.constant("axes", np.array([3], np.int32))]
    op = OneOp("MEAN", [(a, 0.02, -34)], (256, 256), (y.scale, -20), 2, "ReducerOptions", operands=axes, keepDims=False)
    (there,) = arm.runtime(op.content).run([a])
    if np.any(op.run() != there):
        assert integer.sums_part(2, x, y, share=0.5)


@pytest.mark.slow
def test_every_output_on_arm_is_what_keras_predicts(arm, shipped_networks):
    if arm.cpu == CPUS[0]:
        pytest.skip("follows from equality with this machine; one processor is asked directly, about every fifth network")
    for name, (qmodel, path, x) in list(shipped_networks.items())[::5]:
        report = kq.verify(qmodel, path, x, verbose=0, target=arm)
        assert report.elements and report.equal, f"{name}: {report}"


@pytest.mark.parametrize("wide", [True, False], ids=["to int16", "to int8"])
def test_softmax_to_int16_is_the_same_everywhere(arm, wide):
    """As it is lowered. To int8 the kernel differs on Arm: when it no longer does, SOFTMAX needs no QUANTIZE behind it."""
    differ = largest = 0
    for classes in (2, 10, 16, 100, 1000):
        for scale in (0.01, 0.05, 0.1, 0.3, 0.7):
            x = np.random.default_rng(classes).normal(0, 60, (200, classes)).round().clip(-128, 127).astype(np.int8)
            content = softmax_file(classes, scale, wide)
            (here,), (there,) = Runtime(content).run([x]), arm.runtime(content).run([x])
            steps = np.abs(here.astype(int) - there)
            differ, largest = differ + np.count_nonzero(steps), max(largest, steps.max())
    assert (differ, largest) == (0, 0) if wide else (differ > 0 and largest == 1)


@pytest.mark.parametrize("step", [1 / 255, 0.3 / 255, 0.01 / 255])
def test_softmax_of_any_scale_is_the_same_everywhere(arm, step):
    for classes in (2, 16, 200):
        for scale in (0.01, 0.1, 0.7):
            x = np.random.default_rng(classes).normal(0, 60, (200, classes)).round().clip(-128, 127).astype(np.int8)
            content = softmax_file(classes, scale, True, step)
            (here,), (there,) = Runtime(content).run([x]), arm.runtime(content).run([x])
            np.testing.assert_array_equal(here, there)


def softmax_file(classes, scale, wide, step=1 / 256):
    writer = Writer(batch_size=None)
    x = writer.activation("x", (classes,), scale, 3)
    y = writer.activation("y", (classes,), step, -128)
    out = writer.activation("wide", (classes,), step, 0, TensorType.INT16) if wide else y
    writer.operator("SOFTMAX", [x], out, 2, (2, 3, 0), "SoftmaxOptions", beta=1.0)
    if wide:
        writer.operator("QUANTIZE", [out], y, 1, (1, 14, 0), "QuantizeOptions")
    return writer.finish({"x": x}, {"y": y}, "softmax")


def test_emulator_serves_open_batches_and_reports_bad_files(arm):
    x = np.zeros((3, 10), np.int8)
    runtime = arm.runtime(softmax_file(10, 0.1, True))
    for count in (1, 3, 2):
        assert runtime.run([x[:count]])[0].shape == (count, 10)
    with pytest.raises(kq.ModelFileError, match="LiteRT cannot load 'bad.tflite'"):
        arm.runtime(b"no model at all", "bad.tflite")
    assert runtime.run([x])[0].shape == (3, 10)


def test_an_emulator_that_ended_says_so(arm):
    with Emulator(arm.cpu) as emulator:
        emulator._process.kill()
        with pytest.raises(kq.EmulatorError, match="ended"):
            emulator.runtime(softmax_file(10, 0.1, True))


def test_a_processor_without_folder_is_refused(arm):
    with pytest.raises(kq.EmulatorError, match="has the processors cortex-a72, cortex-a76. Received: cpu='m68k'"):
        Emulator("m68k")


def test_a_missing_emulator_says_how_to_set_it_up(tmp_path, monkeypatch):
    with pytest.raises(kq.EmulatorError, match="Set it up once with `bash .*export/aarch64/setup.sh`"):
        Emulator(folder=tmp_path)
    monkeypatch.setenv("KERAS_QUANT_AARCH64", str(tmp_path / "none"))
    with pytest.raises(kq.EmulatorError, match="No emulated Arm in '.*none'"):
        Emulator()


def test_an_unknown_target_is_refused(tmp_path):
    x, path = images(), tmp_path / "model.tflite"
    qmodel, _ = quantize_and_ship(sequential(keras.layers.Conv2D(2, 1)), tmp_path, x)
    with pytest.raises(kq.QuantizationError, match="Received: target='arm'"):
        kq.verify(qmodel, path, x, target="arm")


@pytest.mark.slow
def test_a_tensor_joined_with_its_gated_self_is_the_same_on_arm(arm, tmp_path):
    """On one grid the product's multiplier would be a sigmoid's scale, 1/256, which leaves halves."""

    def excited(x):
        gate = L.Dense(x.shape[-1], activation="sigmoid")(L.GlobalAveragePooling2D(keepdims=True)(x))
        return L.Conv2D(4, 1)(L.Concatenate()([x, L.Multiply()([x, gate])]))

    x = images(32)
    qmodel = kq.quantize(shake(functional(excited)), "int8", x)
    kq.export(qmodel, tmp_path / "m.tflite")
    assert kq.verify(qmodel, tmp_path / "m.tflite", x, verbose=0, target=arm).mismatches == 0


def residual(x):
    a = L.Conv2D(8, 1, activation="relu", name="pointwise")(x)
    b = L.BatchNormalization()(L.Conv2D(8, 3, padding="same", name="conv")(x))
    y = L.Add()([a, b, L.DepthwiseConv2D(3, padding="same", name="depthwise")(a)])
    y = L.Concatenate()([L.MaxPooling2D(2)(y), L.Conv2D(4, 3, strides=2, padding="same")(y)])
    return L.Dense(4, name="logits")(L.Flatten()(y))


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["int4", "w3a6", "int16", "dynamic_int4", "float32", "float16", "conv in float16"])
def test_every_precision_equals_keras_on_arm(arm, policy, tmp_path):
    """The cortex-a76 computes float16 layers in half arithmetic, by the file's metadata."""
    x = images(8)
    named = kq.PolicyMap({"conv": "float16"}) if policy == "conv in float16" else policy
    qmodel = kq.quantize(shake(functional(residual)), named, x)
    kq.export(qmodel, tmp_path / "m.tflite")
    parity = kq.verify(qmodel, tmp_path / "m.tflite", x, intermediates=True, verbose=0, target=arm)
    assert parity.equal, [t for t in (*parity.outputs, *parity.intermediates) if t.mismatches]
    if policy == "float16":
        here = kq.verify(qmodel, tmp_path / "m.tflite", x, intermediates=True, verbose=0)
        halves = max(t.error for t in parity.intermediates) > 1.2 * max(t.error for t in here.intermediates)
        assert halves == (arm.cpu == "cortex-a76")
