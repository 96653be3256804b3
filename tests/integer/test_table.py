"""Functions of one value: every int8 value, against LiteRT."""

import numpy as np
import pytest
from keras import ops

from keras_quant import integer
from tests.integer.one_op import EVERY_VALUE, OneOp, grid, integers, quantized, scales


def test_elu_equals_litert_on_every_value():
    for sx, zx, rng in scales(11, 80):
        y = grid(sx * rng.uniform(0.2, 2), int(rng.integers(-128, 128)))
        op = OneOp("ELU", [(EVERY_VALUE, sx, zx)], (16, 16, 1), (y.scale, y.zero_point), 1)
        assert op.on_xnnpack
        np.testing.assert_array_equal(integers(integer.elu(quantized(EVERY_VALUE, sx, zx), y), y), op.run())


@pytest.mark.parametrize("approximate", [False, True])
def test_gelu_equals_litert_on_every_value(approximate):
    for sx, zx, rng in scales(12, 150):
        y = grid(sx * rng.uniform(0.1, 2), int(rng.integers(-128, 128)))
        grids = [(EVERY_VALUE, sx, zx)], (16, 16, 1), (y.scale, y.zero_point)
        op = OneOp("GELU", *grids, 2, "GeluOptions", approximate=approximate)
        ours = integers(integer.gelu(quantized(EVERY_VALUE, sx, zx), y, approximate), y)
        np.testing.assert_array_equal(ours, op.run())


@pytest.mark.parametrize("function", [ops.softplus, ops.rsqrt, ops.log, ops.exp])
def test_tables_hold_the_nearest_value_and_saturate(function):
    sx, zx, y = np.float32(0.05), -100, grid(0.02, 10)
    table = np.asarray(integer.tabulate(grid(sx, zx), y, function))
    with np.errstate(all="ignore"):
        exact = np.asarray(function(np.float64(sx) * (np.arange(-128, 128) - zx)))
    expected = np.clip(np.nan_to_num(exact / 0.02 + 10, posinf=1e9, neginf=-1e9), -128, 127)
    assert np.abs(table - expected).max() <= 0.5 + 1e-3
