"""What the export report says of operators that built-in kernels run."""

import re

import keras
import numpy as np
import pytest
from keras import ops

import keras_quant as kq
from tests.helpers import few

L = keras.layers
IDS = np.random.default_rng(0).integers(0, 9, (8, 12)).astype("int32")
ROWS = kq.quantizers.TableQuantizer(granularity="row")
# Of layers on ids: a model, its table's policy, and what is said of each operator that XNNPACK leaves.
TABLES = {
    "int8": (lambda x: L.Embedding(9, 8)(x), "int8", {"GATHER": "picks rows of a table"}),
    "int4": (
        lambda x: L.Embedding(9, 8)(x),
        "int4",
        {"GATHER": "picks rows of a table", "DEQUANTIZE": "no rows of 4 bits.*8 bits are not packed"},
    ),
    "rows": (lambda x: L.Embedding(9, 8)(x), kq.Policy(output_quantizer=ROWS), {"GATHER": "picks rows of a table"}),
    "dynamic": (lambda x: L.Embedding(9, 8)(x), "dynamic_int8", {"GATHER": "picks rows of a table"}),
    "moved_ids": (
        lambda x: L.Embedding(9, 8)((x + 1) // 2),
        "int8",
        {"GATHER": "picks rows", "ADD": "whole numbers", "FLOOR_DIV": "whole numbers"},
    ),
    "one_hot": (lambda x: ops.one_hot(x, 9), "int8", {"ONE_HOT": "no ONE_HOT"}),
    "masked": (
        lambda x: L.GlobalAveragePooling1D()(L.Embedding(9, 8, mask_zero=True)(x)),
        "int8",
        {"GATHER": "picks rows", "NOT_EQUAL": "masks", "CAST": "masks", "RESHAPE": "masks"},
    ),
}


@pytest.mark.parametrize("name", few(TABLES, "int4", "moved_ids", "masked"))
def test_operators_on_ids_and_masks_have_a_reason(name, tmp_path):
    build, policy, said = TABLES[name]
    x = keras.Input((12,), dtype="int32")
    qmodel = kq.quantize(keras.Model(x, L.Dense(3)(build(x))), kq.PolicyMap({"(embedding|one_hot).*": policy}), IDS)
    report = kq.export(qmodel, tmp_path / "m.tflite")
    assert {op.name for op in report.off_xnnpack} == set(said)
    for op in report.off_xnnpack:
        assert re.search(said[op.name], f"{op.reason}. {op.remedy}"), op
    of_integers = [op for op in report.float_operators if op.on_xnnpack and policy != "dynamic_int8"]
    assert {op.reason for op in of_integers} <= {"a step of an integer layer that is exact in float"}
