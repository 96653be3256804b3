"""Pooling, resizing and softmax: random integers, against LiteRT."""

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


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.integers(1, 20), st.integers(1, 20), st.booleans())
def test_mean_equals_litert(seed, height, width, keepdims):
    x, sx, zx, rng = random(seed, (2, height, width, 5))
    y = grid(sx * rng.uniform(0.1, 2), int(rng.integers(-128, 128)))
    ours = integers(integer.mean(quantized(x, sx, zx), y, (1, 2), keepdims), y)
    axes = lambda writer, fed: [fed[0], writer.constant("axes", np.array([1, 2], np.int32))]
    op = OneOp("MEAN", [(x, sx, zx)], ours.shape[1:], (y.scale, y.zero_point), 2, "ReducerOptions", axes, keepDims=keepdims)
    assert op.on_xnnpack
    np.testing.assert_array_equal(ours, op.run())


@settings(max_examples=40)
@given(
    st.integers(0, 2**31),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.sampled_from(["same", "valid"]),
    st.booleans(),
)
def test_average_pool_2d_equals_litert(seed, pool, strides, padding, traced):
    x, sx, zx, _ = random(seed, (2, 9, 8, 3))
    formula = lambda c: integer.average_pool_2d(integer.Quantized(c, grid(sx, zx)), pool, strides, padding)
    # In a compiled graph divisions by constants become products: the formula has to stand that.
    formula = backend.compiled(formula) if traced else formula
    ours = integers(formula(quantized(x, sx, zx).integers), grid(sx, zx))
    op = OneOp(
        "AVERAGE_POOL_2D",
        [(x, sx, zx)],
        ours.shape[1:],
        (sx, zx),
        2,
        "Pool2DOptions",
        padding=int(padding == "valid"),
        strideH=strides[0],
        strideW=strides[1],
        filterHeight=pool[0],
        filterWidth=pool[1],
    )
    np.testing.assert_array_equal(ours, op.run())


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.tuples(*[st.integers(2, 7)] * 2), st.tuples(*[st.integers(1, 5)] * 2))
def test_resize_bilinear_equals_litert(seed, size, factor):
    x, sx, zx, _ = random(seed, (2, *size, 3))
    height, width = size[0] * factor[0], size[1] * factor[1]
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
