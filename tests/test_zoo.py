"""The smallest model of each family of `keras.applications`: exact, without floats, and in as few pieces as can be."""

import pathlib
import sys

import numpy as np
import pytest

import keras_quant as kq

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "benchmarks"))

import applications
import weights

CALIBRATION, TEST = 16, 2
# In dB. Deep networks with random weights magnify noise, for any int8 file alike (`benchmarks/zoo.py --converter`); a wrong
# range or weight leaves nothing of the signal.
LEAST_SQNR = 6
# ConvNeXt's blocks change between kernels of which XNNPACK has no int8 form.
SEVERAL_PARTITIONS = {"convnext"}


@pytest.mark.slow
@pytest.mark.parametrize("family, name", applications.smallest().items(), ids=applications.smallest())
def test_family(family, name, tmp_path):
    size = applications.smallest_size(name)
    x = applications.pictures(name, size, min(64, applications.enough(size)), seed=0)
    model = weights.settle(applications.build(name, size), x)
    qmodel = kq.quantize(model, "int8", x[:CALIBRATION])
    report = kq.export(qmodel, tmp_path / "m.tflite")
    exact = {"float32"} if family == "convnext" else set()
    assert {tensor.dtype for tensor in report.tensors} <= {"int8", "int32"} | exact
    if family not in SEVERAL_PARTITIONS:
        assert report.partitions == 1, report.off_xnnpack
    x = applications.pictures(name, size, TEST, seed=1)
    parity = kq.verify(qmodel, tmp_path / "m.tflite", x, verbose=0)
    assert parity.equal and parity.elements == 1000 * TEST
    real, quantized = (np.asarray(m(x, training=False)) for m in (model, qmodel))
    noise = np.mean((real - quantized) ** 2)
    assert 10 * np.log10(np.mean((real - real.mean(0)) ** 2) / noise) > LEAST_SQNR
