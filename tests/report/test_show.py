"""A report in order, as a table, as a data frame."""

import builtins
import sys

import keras
import numpy as np
import pytest
import rich

import keras_quant as kq
from keras_quant.report.layer import BY_KEY, COLUMNS, compact, decibel_text, share_text
from tests.helpers import images, sequential

L = keras.layers
KEYS = [column.key for column in COLUMNS]


@pytest.fixture(scope="module")
def report():
    keras.utils.set_random_seed(0)
    layers = L.Conv2D(8, 3, name="conv"), L.Conv2D(4, 1, name="small"), L.Flatten(), L.Dense(5, name="logits"), L.Softmax()
    qmodel = kq.quantize(sequential(*layers), kq.PolicyMap({"small": "float32"}, default="int8"), images())
    return kq.report(qmodel, images())


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("descending", [None, False, True])
def test_sort(report, key, descending):
    ordered = report.sort(key, descending)
    values = [BY_KEY[key].value(layer) for layer in ordered.layers]
    known = [value for value in values if value is not None]
    assert values[: len(known)] == known and len(known) > 2
    down = BY_KEY[key].descending if descending is None else descending
    assert known == sorted(known, reverse=down)
    assert sorted(layer.index for layer in ordered.layers) == list(range(len(report.layers)))


def test_what_costs_or_loses_most_comes_first(report):
    for key in ("bytes", "macs", "parameters"):
        assert report.sort(key).layers[0].path == ("logits" if key != "macs" else "conv")
    noise = [layer.local_sqnr for layer in report.sort("local_sqnr").layers if layer.local_sqnr is not None]
    assert noise[0] == min(noise)
    clipped = [layer.clipped for layer in report.sort("clipped").layers if layer.clipped is not None]
    assert clipped[0] == max(clipped)


def test_unknown_keys_and_unmeasured_ones(report):
    with pytest.raises(kq.QuantizationError, match="Did you mean 'bytes'"):
        report.sort("byte")
    bare = kq.report(kq.quantize(sequential(L.Flatten(), L.Dense(3)), "int8", images()))
    with pytest.raises(kq.QuantizationError, match="measured on data"):
        bare.sort("sqnr")


def test_table_has_a_row_for_each_layer_in_order(report):
    lines = [line for line in str(report.sort("path")).splitlines() if line.startswith("│")]
    shown = [line.split("│")[2].strip() for line in lines]
    assert shown == sorted(layer.path for layer in report.layers)
    for text in ("QuantConv2D", "?×10×10×8", "43.2 k", "float32", "built-in kernel", "SQNR alone", "clipped"):
        assert text in str(report), text
    rich.print(report)


def test_table_without_data_says_what_is_missing():
    bare = kq.report(kq.quantize(sequential(L.Flatten(), L.Dense(3)), "int8", images()))
    assert "SQNR" not in str(bare).partition("No error")[0] and "Pass `data`" in str(bare)
    assert "zero point" in str(bare)


def test_layers_off_xnnpack_share_a_line():
    layers = [L.Dense(4, activation="softmax") for _ in range(7)]
    bare = kq.report(kq.quantize(sequential(*layers, shape=(4,)), "int8", images(shape=(4,))))
    (found,) = [line for line in str(bare).splitlines() if "SOFTMAX is float" in line]
    assert "and 2 more (SOFTMAX, QUANTIZE): " in found


def test_data_frame(report):
    pandas = pytest.importorskip("pandas")
    frame = report.sort("bytes").to_pandas()
    assert isinstance(frame, pandas.DataFrame) and len(frame) == len(report.layers)
    assert frame["path"].tolist() == [layer.path for layer in report.sort("bytes").layers]
    assert frame["bytes"].sum() == sum(layer.bytes for layer in report.layers)
    assert frame.set_index("path").loc["conv", "macs"] == 43200
    assert np.isnan(frame.set_index("path").loc["small", "clipped"])
    assert not {"weights", "activations"} & set(frame.columns)


@pytest.mark.parametrize("missing", ["pandas", "matplotlib"])
def test_missing_packages_are_named(report, missing, monkeypatch, tmp_path):
    real = builtins.__import__
    for name in ("page", "plots"):  # they hold Matplotlib once it was imported
        monkeypatch.delitem(sys.modules, f"keras_quant.report.{name}", raising=False)
        monkeypatch.delattr(sys.modules["keras_quant.report"], name, raising=False)

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == missing:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'keras-quant\[report\]'"):
        report.to_pandas() if missing == "pandas" else report.save(tmp_path / "r.html")
    assert not list(tmp_path.iterdir())


def test_numbers_as_people_read_them():
    assert [compact(n) for n in (0, 999, 1000, 43200, 999_600, 300_774_272, 4_100_000_000)] == [
        *("0", "999", "1 k", "43.2 k", "1 M", "301 M", "4.1 G"),
    ]
    assert [share_text(s) for s in (0, 1e-6, 0.00069, 0.25, 1)] == ["0 %", "< 0.001 %", "0.069 %", "25.0 %", "100.0 %"]
    assert [decibel_text(v) for v in (np.inf, -np.inf, 31.25)] == ["exact", "none", "31.2"]
