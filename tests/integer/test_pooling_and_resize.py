"""Pooling, resizing and softmax: random integers, against LiteRT."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_quant import backend, integer
from tests.integer.one_op import OneOp, grid, integers, quantized


def random(seed, shape):
    rng = np.random.default_rng(seed)
    x = rng.integers(-128, 128, size=shape).astype(np.int8)
    return x, np.float32(np.exp(rng.uniform(-5, -1))), int(rng.integers(-128, 128)), rng


@settings(max_examples=60)
@given(
    st.integers(0, 2**31),
    st.tuples(*[st.integers(1, 20)] * 2),
    st.sampled_from([(1, 2), (1,), (2,), (3,), (1, 3), (1, 2, 3)]),
    st.booleans(),
    st.sampled_from(["MEAN", "SUM"]),
)
def test_mean_and_sum_equal_litert(seed, size, axes, keepdims, name):
    x, sx, zx, rng = random(seed, (2, *size, 5))
    wide = 1.0 if name == "MEAN" else np.sqrt(np.prod([x.shape[axis] for axis in axes]))
    y = grid(sx * wide * rng.uniform(0.1, 2), int(rng.integers(-128, 128)))
    formula = {"MEAN": integer.mean, "SUM": integer.sum}[name]
    ours = integers(formula(quantized(x, sx, zx), y, axes, keepdims), y)
    operands = lambda writer, fed: [fed[0], writer.constant("axes", np.array(axes, np.int32))]
    op = OneOp(
        name, [(x, sx, zx)], ours.shape[1:], (y.scale, y.zero_point), 2, "ReducerOptions", operands, keepDims=keepdims
    )
    assert op.on_xnnpack
    np.testing.assert_array_equal(ours, op.run())


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.tuples(*[st.integers(1, 40)] * 2), st.tuples(*[st.integers(1, 40)] * 2))
def test_resize_bilinear_equals_litert(seed, size, wanted):
    x, sx, zx, _ = random(seed, (2, *size, 3))
    height, width = wanted
    ours = integers(integer.resize_bilinear(quantized(x, sx, zx), height, width), grid(sx, zx))
    operands = lambda writer, fed: [fed[0], writer.constant("size", np.array([height, width], np.int32))]
    op = OneOp(
        "RESIZE_BILINEAR",
        [(x, sx, zx)],
        ours.shape[1:],
        (sx, zx),
        3,
        "ResizeBilinearOptions",
        operands,
        halfPixelCenters=True,
    )
    np.testing.assert_array_equal(ours, op.run())


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.tuples(*[st.integers(1, 60)] * 2), st.tuples(*[st.integers(1, 60)] * 2))
def test_resize_nearest_equals_litert_and_keras(seed, size, wanted):
    x, sx, zx, _ = random(seed, (2, *size, 3))
    ours = integers(integer.resize_nearest(quantized(x, sx, zx), *wanted), grid(sx, zx))
    operands = lambda writer, fed: [fed[0], writer.constant("size", np.array(wanted, np.int32))]
    fields = {"operands": operands, "halfPixelCenters": True}
    options = "ResizeNearestNeighborOptions"
    op = OneOp("RESIZE_NEAREST_NEIGHBOR", [(x, sx, zx)], ours.shape[1:], (sx, zx), 3, options, **fields)
    np.testing.assert_array_equal(ours, op.run())
    np.testing.assert_array_equal(ours, keras.ops.image.resize(x.astype("float32"), wanted, interpolation="nearest"))


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("classes", [2, 10, 100, 1000])
def test_softmax_equals_litert(classes, traced):
    y = grid(1 / 256, -128)
    for seed in range(12):
        x, sx, zx, _ = random(seed, (200, classes))
        formula = _softmax_of(grid(sx, zx), y)
        formula = backend.compiled(formula) if traced else formula
        op = OneOp("SOFTMAX", [(x, sx, zx)], (classes,), (y.scale, -128), 2, "SoftmaxOptions", beta=1.0)
        np.testing.assert_array_equal(integers(formula(quantized(x, sx, zx).integers), y), op.run())


def _softmax_of(x, y):
    return lambda centred: integer.softmax(integer.Quantized(centred, x), y)
