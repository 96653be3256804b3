"""What has an int8 form computes in float, too: the parts of its quantized layer, on real numbers."""

import keras
import numpy as np
import pytest

import keras_quant as kq
from keras_quant import coverage
from keras_quant.layers import table
from keras_quant.tflite import Runtime, read_model
from keras_quant.tflite.float_functions import has_form
from tests.coverage_cases import CASES, IDS, KERAS_CANNOT_RUN, OPERATIONS, WORDS
from tests.helpers import functional, images, shake, ship
from tests.test_coverage import model_of

L = keras.layers
FUNCTIONS = [name for name in table._FUNCTIONS if name not in table._BINARY and name != "threshold"]


def test_each_function_of_one_value_has_float_operators():
    assert not [name for name in table._FUNCTIONS if not has_form({"exp": "exponential"}.get(name, name))]


@pytest.mark.parametrize("low, high", [(-4.0, 4.0), (-30.0, 30.0), (1.0, 80.0), (-1.0, 1.0)])
def test_functions_of_one_value_are_those_of_keras(low, high, tmp_path):
    """At the ends of domains, at 0 and far out as well; where Keras gives no finite number, the file may give any."""
    x = np.unique(np.float32([*np.linspace(low, high, 157), 0.0, 1e-6, -1e-6, 0.5, -0.5, 2.5])).clip(low, high)[None]
    operations = {name: getattr(keras.ops, {"exponential": "exp"}.get(name, name), None) for name in FUNCTIONS}
    names = [name for name, operation in operations.items() if operation is not None]
    model = functional(lambda t: [operations[name](t) for name in names], x.shape[1:])
    kq.export(kq.quantize(model, "float32", x), tmp_path / "m.tflite")
    runtime = Runtime((tmp_path / "m.tflite").read_bytes(), "m.tflite")
    made = runtime.run([x])
    assert len(made) > 40
    for name, got in zip(names, made):
        wanted = np.float64(keras.ops.convert_to_numpy(operations[name](x)))
        is_number = np.isfinite(wanted)
        error = np.abs(got[is_number] - wanted[is_number]) / np.maximum(1.0, np.abs(wanted[is_number]))
        assert error.max(initial=0) < 1e-4, f"{name}({x[is_number][error.argmax()]}: {error.max():.1e})"


def block(x):
    y = L.LayerNormalization(name="normalized")(x)
    x = L.Add()([x, L.MultiHeadAttention(2, 8)(y, y)])
    y = L.Dense(16, name="projection")(L.Dense(32, "gelu")(L.LayerNormalization()(x)))
    return L.Dense(3)(L.GlobalAveragePooling1D()(L.Add()([x, y])))


@pytest.mark.parametrize("policy, share", [("float32", 1.0), ("float16", 0.62)])
def test_a_transformer_is_one_partition(policy, share, tmp_path):
    model, x = shake(functional(block, (12, 16))), images(8, (12, 16))
    qmodel = kq.quantize(model, policy, x)
    report, _ = ship(qmodel, tmp_path, x)
    assert report.partitions == 1 and not [op for op in report.operators if not op.is_float]
    weights = sum(4 * int(np.prod(w.shape)) for w in model.weights)
    _, file = read_model(tmp_path / "model.tflite")
    kept = sum(len(b.data) for b in file.buffers if b.data is not None)
    assert kept < share * weights + 3000
    if policy == "float32":
        np.testing.assert_allclose(qmodel.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-4, atol=1e-5)


def test_parts_in_float_between_integers(tmp_path):
    names = {".*multi_head_attention.*": "float32", "normalized": "float16", "projection": "float32"}
    x = images(16, (12, 16))
    qmodel = kq.quantize(shake(functional(block, (12, 16))), kq.PolicyMap(names), x)
    report, _ = ship(qmodel, tmp_path, x)
    assert {"BATCH_MATMUL", "SOFTMAX", "FULLY_CONNECTED", "RSQRT"} <= {op.name for op in report.float_operators}


def groups(size=24):
    """The names of `CASES` that are int8; operations on words share models, as outputs."""
    known = {e.names[0]: e.kinds[:1] for room in (coverage.layers, coverage.operations) for e in room()}
    names = [name for name in CASES if known.get(name) == ("int8",) and name not in KERAS_CANNOT_RUN]
    shared = [name for name in names if name in OPERATIONS and CASES[name][1] == WORDS and name not in IDS]
    alone = [[name] for name in names if name not in shared]
    return alone + [shared[i : i + size] for i in range(0, len(shared), size)]


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["float32", "float16"])
@pytest.mark.parametrize("names", groups(), ids=lambda names: names[0])
def test_what_is_int8_is_float_too(names, policy, tmp_path):
    model, x = model_of(names)
    report, _ = ship(kq.quantize(model, policy, x), tmp_path, x)
    assert not [op for op in report.operators if not op.is_float and op.name in ("QUANTIZE", "CONV_2D")]


def test_a_layer_that_overflows_in_float16_is_named():
    model = functional(lambda x: L.Dense(3, name="end")(L.Rescaling(1e5, name="far")(L.Dense(8, name="first")(x))), (6,))
    x = images(8, (6,))
    with pytest.raises(kq.CalibrationError, match="'far' computes in float16, which ends at 65,504"):
        kq.quantize(model, "float16", x)
    qmodel = kq.quantize(model, kq.PolicyMap({"far": "float32", "end": "float32"}, default="float16"), x)
    assert np.isfinite(qmodel.predict(x, verbose=0)).all()


def test_a_map_names_an_activation_inside_a_layer(tmp_path):
    def build(x):
        return L.Dense(3, name="end")(L.Dense(8, "gelu", name="wide")(x))

    x = images(16, (5, 6))
    model = shake(functional(build, (5, 6)))
    whole, _ = ship(kq.quantize(model, "int8", x), tmp_path, x)
    apart, _ = ship(kq.quantize(model, kq.PolicyMap({".*/gelu": "float32"}), x), tmp_path, x)
    assert [op.name for op in whole.operators] == ["FULLY_CONNECTED", "GELU", "FULLY_CONNECTED"] and whole.partitions == 2
    expected = ["FULLY_CONNECTED", "DEQUANTIZE", "GELU", "QUANTIZE", "FULLY_CONNECTED"]
    assert [op.name for op in apart.operators] == expected and apart.partitions == 1


def test_masked_attention_in_float16_has_numbers_in_every_row(tmp_path):
    """Of padding all scores are set far below; minus infinity in all of a row would be NaN."""
    ids = keras.Input((9,), dtype="int32")
    x = L.Embedding(20, 8, mask_zero=True)(ids)
    model = keras.Model(ids, L.Dense(2)(L.GlobalAveragePooling1D()(L.MultiHeadAttention(2, 4)(x, x))))
    data = np.random.default_rng(0).integers(1, 20, (8, 9)).astype("int32")
    data[:, 5:] = 0
    qmodel = kq.quantize(model, "float16", data)
    np.testing.assert_allclose(qmodel.predict(data, verbose=0), model.predict(data, verbose=0), atol=1e-2)
    ship(qmodel, tmp_path, data)
