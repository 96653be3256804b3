"""Kernels with weights: random integers over geometry, scales and zero points, against LiteRT."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_quant import integer
from keras_quant.integer.weights import accumulate
from tests.integer.one_op import OneOp, grid, integers, plain_weights, quantized

BOUNDS = {0: (None, None), 1: (0.0, None), 3: (0.0, 6.0)}
PADDING = {"same": 0, "valid": 1}

geometry = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**31),
        "kernel": st.tuples(st.integers(1, 4), st.integers(1, 4)),
        "stride": st.integers(1, 3),
        "padding": st.sampled_from(["same", "valid"]),
        "activation": st.sampled_from([0, 1, 3]),
        "channels": st.integers(1, 5),
        "filters": st.integers(1, 6),
    }
)


class Case:
    """Random tensors for one example."""

    def __init__(self, seed, x_shape, kernel_shape, channels, terms):
        rng = np.random.default_rng(seed)
        self.x = rng.integers(-128, 128, size=x_shape).astype(np.int8)
        self.sx, self.zx = np.float32(np.exp(rng.uniform(-5, -1))), int(rng.integers(-128, 128))
        self.kernel = rng.integers(-127, 128, size=kernel_shape).astype(np.int8)
        self.bias = rng.integers(-3000, 3000, size=channels).astype(np.int32)
        self.sw = np.exp(rng.uniform(-7, -3, size=channels)).astype(np.float32)
        spread = float(self.sx * self.sw.max() * 127 * 128 * np.sqrt(terms))
        self.y = grid(spread * rng.uniform(0.2, 1) / 128, int(rng.integers(-128, 128)))
        self.weights = plain_weights(self.kernel, self.bias, self.sw, grid(self.sx, self.zx), self.y)

    def quantized(self):
        return quantized(self.x, self.sx, self.zx)

    def check(self, name, ours, layout, axis, version, options, first=None, kernel=None, **fields):
        ours = integers(ours, self.y)
        kernel = self.kernel.transpose(layout) if kernel is None else kernel

        def operands(writer, fed):
            weights = writer.constant("w", kernel, self.sw, axis)
            bias = writer.constant("b", self.bias, self.sx * self.sw)
            if first is None:
                return [fed[0], weights, bias]
            return [writer.constant("shape", np.asarray(ours.shape, np.int32)), weights, fed[0], bias]

        y = (self.y.scale, self.y.zero_point)
        op = OneOp(name, [(self.x, self.sx, self.zx)], ours.shape[1:], y, version, options, operands, **fields)
        assert op.on_xnnpack
        np.testing.assert_array_equal(ours, op.run())


def strides(stride):
    return {"strideH": stride, "strideW": stride}


@settings(max_examples=40)
@given(geometry, st.integers(1, 2), st.integers(1, 3))
def test_conv_2d_equals_litert(g, dilation, groups):
    dilation = 1 if g["stride"] > 1 else dilation
    shape = (*g["kernel"], g["channels"], g["filters"] * groups)
    case = Case(g["seed"], (2, 11, 10, g["channels"] * groups), shape, shape[3], np.prod(shape[:3]))
    bounds = BOUNDS[g["activation"]]
    ours = integer.conv_2d(case.quantized(), case.weights, case.y, bounds, g["stride"], g["padding"], dilation)
    case.check(
        "CONV_2D",
        ours,
        (3, 0, 1, 2),
        0,
        3,
        "Conv2DOptions",
        padding=PADDING[g["padding"]],
        fusedActivationFunction=g["activation"],
        dilationHFactor=dilation,
        dilationWFactor=dilation,
        **strides(g["stride"]),
    )


@settings(max_examples=40)
@given(geometry, st.integers(1, 2), st.integers(1, 3))
def test_depthwise_conv_2d_equals_litert(g, dilation, multiplier):
    dilation = 1 if g["stride"] > 1 else dilation
    shape = (*g["kernel"], g["channels"], multiplier)
    case = Case(g["seed"], (2, 11, 10, g["channels"]), shape, shape[2] * multiplier, np.prod(shape[:2]))
    bounds = BOUNDS[g["activation"]]
    ours = integer.depthwise_conv_2d(case.quantized(), case.weights, case.y, bounds, g["stride"], g["padding"], dilation)
    case.check(
        "DEPTHWISE_CONV_2D",
        ours,
        None,
        3,
        3,
        "DepthwiseConv2DOptions",
        kernel=case.kernel.reshape(1, *shape[:2], -1),
        padding=PADDING[g["padding"]],
        fusedActivationFunction=g["activation"],
        depthMultiplier=multiplier,
        dilationHFactor=dilation,
        dilationWFactor=dilation,
        **strides(g["stride"]),
    )


@settings(max_examples=40)
@given(geometry)
def test_transpose_conv_equals_litert(g):
    # XNNPACK does not take kernels smaller than the stride; the lowering rule fills them up.
    size = [max(k, g["stride"]) for k in g["kernel"]]
    shape = (*size, g["filters"], g["channels"])
    case = Case(g["seed"], (1, 5, 6, g["channels"]), shape, g["filters"], np.prod(size) * g["channels"])
    bounds = BOUNDS[g["activation"]]
    ours = integer.transpose_conv(case.quantized(), case.weights, case.y, bounds, g["stride"], g["padding"])
    case.check(
        "TRANSPOSE_CONV",
        ours,
        (2, 0, 1, 3),
        0,
        4,
        "TransposeConvOptions",
        first="shape",
        padding=PADDING[g["padding"]],
        fusedActivationFunction=g["activation"],
        **strides(g["stride"]),
    )


@settings(max_examples=40)
@given(geometry, st.sampled_from([(3,), (2, 3), (2, 2, 2)]), st.integers(1, 300))
def test_fully_connected_equals_litert(g, leading, inputs):
    case = Case(g["seed"], (*leading, inputs), (inputs, g["filters"]), g["filters"], inputs)
    ours = integer.fully_connected(case.quantized(), case.weights, case.y, BOUNDS[g["activation"]])
    case.check(
        "FULLY_CONNECTED",
        ours,
        (1, 0),
        0,
        5,
        "FullyConnectedOptions",
        keepNumDims=len(leading) > 1,
        fusedActivationFunction=g["activation"],
    )


def test_accumulators_above_the_exact_range_of_float32_equal_litert():
    for seed, inputs in enumerate((3000, 9000, 30000, 70000)):
        case = Case(seed, (2, inputs), (inputs, 8), 8, inputs)
        case.kernel[:] = np.random.default_rng(seed).integers(100, 128, case.kernel.shape)
        case.x[:] = np.random.default_rng(seed).integers(90, 128, case.x.shape)
        reach = (127 - case.zx) * 127 * inputs
        case.y = grid(case.sx * case.sw.max() * reach / 100, -128)
        case.weights = plain_weights(case.kernel, case.bias, case.sw, grid(case.sx, case.zx), case.y)
        assert reach > 2**24
        ours = integer.fully_connected(case.quantized(), case.weights, case.y)
        case.check("FULLY_CONNECTED", ours, (1, 0), 0, 5, "FullyConnectedOptions")


@pytest.mark.parametrize("rows", [10, 3000])
@pytest.mark.parametrize("inputs", [20, 518, 600])
def test_accumulators_are_rounded_once_whatever_the_bias(inputs, rows):
    """Of few terms and many, of few sums a sample and many; the bias is of 24 bits, as `fold` makes it."""
    case = Case(0, (1, rows, inputs), (inputs, 8), 8, inputs)
    bias = np.random.default_rng(0).integers(2**24, 2**28, 8).astype("float32").astype("int64")
    weights = plain_weights(case.kernel, bias, case.sw, grid(case.sx, case.zx), case.y)
    exact = (case.x.astype("int64") - case.zx) @ case.kernel.astype("int64") + bias
    ours = accumulate(keras.ops.matmul, case.quantized(), weights, (0,))
    np.testing.assert_array_equal(ours, exact.astype("float32"))


@settings(max_examples=40)
@given(geometry, st.sampled_from([(3,), (2, 3), (2, 2, 2)]), st.integers(1, 150), st.sampled_from([2, 4]))
def test_fully_connected_of_weights_of_few_bits_equals_litert(g, leading, count, bits):
    inputs, limit = 8 // bits * count, 2 ** (bits - 1)
    case = Case(g["seed"], (*leading, inputs), (inputs, g["filters"]), g["filters"], inputs)
    case.kernel = np.random.default_rng(g["seed"]).integers(-limit, limit, case.kernel.shape).astype(np.int8)
    case.weights = plain_weights(case.kernel, case.bias, case.sw, grid(case.sx, case.zx), case.y)
    ours = integers(integer.fully_connected(case.quantized(), case.weights, case.y, BOUNDS[g["activation"]]), case.y)

    def operands(writer, fed):
        weights = writer.narrow_constant("w", np.ascontiguousarray(case.kernel.T), case.sw, bits)
        return [fed[0], weights, writer.constant("b", case.bias, case.sx * case.sw)]

    y = (case.y.scale, case.y.zero_point)
    fields = {"keepNumDims": len(leading) > 1, "fusedActivationFunction": g["activation"]}
    fed = [(case.x, case.sx, case.zx)]
    op = OneOp("FULLY_CONNECTED", fed, ours.shape[1:], y, {2: 14, 4: 10}[bits], "FullyConnectedOptions", operands, **fields)
    assert op.on_xnnpack
    np.testing.assert_array_equal(ours, op.run())
