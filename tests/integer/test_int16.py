"""int16 activations: random integers over geometry and scales, against LiteRT's built-in kernels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_quant import integer
from keras_quant.integer import FoldedWeights, QuantParams
from keras_quant.integer.params import INT8, INT16
from keras_quant.tflite.runtime import Runtime
from keras_quant.tflite.writer import TensorType, Writer
from tests.integer.test_weighted import BOUNDS, PADDING, geometry, strides

TYPES = {np.dtype("int8"): (INT8, TensorType.INT8), np.dtype("int16"): (INT16, TensorType.INT16)}


def grid(scale, dtype=np.int16, zero_point=0):
    return QuantParams(np.float32(scale), np.float32(zero_point), TYPES[np.dtype(dtype)][0])


def quantized(array, params):
    return integer.Quantized(array.astype(np.float32) - params.zero_point, params)


def run(name, inputs, y, shape, version, options=None, constants=lambda writer: [], **fields):
    """What LiteRT computes; `inputs` are pairs of an array and its `QuantParams`."""
    writer = Writer(inputs[0][0].shape[0])
    kinds = {INT8: TensorType.INT8, INT16: TensorType.INT16}
    fed = [writer.activation(f"x{i}", a.shape[1:], p.scale, p.zero_point, kinds[p.type]) for i, (a, p) in enumerate(inputs)]
    out = writer.activation("y", shape[1:], y.scale, y.zero_point, kinds[y.type])
    writer.operator(name, [*fed, *constants(writer)], out, version, (1, 14, 0), options, **fields)
    runtime = Runtime(writer.finish({t.name: t for t in fed}, {"y": out}, "one operator"), name)
    assert runtime.partitions() == []
    return runtime.run([a for a, _ in inputs])[0].astype(int)


def equal(ours, y, theirs):
    np.testing.assert_array_equal((np.asarray(ours) + y.zero_point).astype(int), theirs)


class Case:
    """Random tensors for one example; scales that are powers of two make exact halves."""

    def __init__(self, seed, x_shape, kernel_shape, channels, terms):
        rng = np.random.default_rng(seed)
        exact = seed % 3 == 0
        power = lambda v: np.exp2(np.rint(np.log2(v))) if exact else v
        self.x = rng.integers(-32768, 32768, size=x_shape).astype(np.int16)
        self.params = grid(power(np.exp(rng.uniform(-12, -7))))
        self.kernel = rng.integers(-127, 128, size=kernel_shape).astype(np.int8)
        self.bias = rng.integers(-300000, 300000, size=channels)
        self.scale = power(np.exp(rng.uniform(-7, -3, size=channels))).astype(np.float32)
        spread = float(self.params.scale * self.scale.max() * 127 * np.sqrt(terms))
        self.y = grid(power(spread * rng.uniform(0.2, 2)))
        self.weights = FoldedWeights(
            self.kernel.astype(np.float32),
            self.bias.astype(np.float64),
            self.scale,
            None,
            np.float64(self.params.scale) * np.float64(self.scale) / np.float64(self.y.scale),
        )

    def check(self, name, ours, kernel, axis, version, options, **fields):
        def constants(writer):
            bias = writer.constant("b", self.bias.astype(np.int64), self.params.scale * self.scale)
            return [writer.constant("w", np.ascontiguousarray(kernel), self.scale, axis), bias]

        theirs = run(name, [(self.x, self.params)], self.y, ours.shape, version, options, constants, **fields)
        equal(ours, self.y, theirs)


@settings(max_examples=25)
@given(geometry)
def test_conv_2d_equals_litert(g):
    shape = (*g["kernel"], g["channels"], g["filters"])
    case = Case(g["seed"], (2, 11, 10, g["channels"]), shape, shape[3], np.prod(shape[:3]))
    x = quantized(case.x, case.params)
    ours = integer.conv_2d(x, case.weights, case.y, BOUNDS[g["activation"]], g["stride"], g["padding"])
    fields = {"padding": PADDING[g["padding"]], "fusedActivationFunction": g["activation"], **strides(g["stride"])}
    fields |= {"dilationHFactor": 1, "dilationWFactor": 1}
    case.check("CONV_2D", ours, case.kernel.transpose(3, 0, 1, 2), 0, 4, "Conv2DOptions", **fields)


@settings(max_examples=25)
@given(geometry, st.integers(1, 3))
def test_depthwise_conv_2d_equals_litert(g, multiplier):
    shape = (*g["kernel"], g["channels"], multiplier)
    case = Case(g["seed"], (2, 11, 10, g["channels"]), shape, shape[2] * multiplier, np.prod(shape[:2]))
    x = quantized(case.x, case.params)
    ours = integer.depthwise_conv_2d(x, case.weights, case.y, BOUNDS[g["activation"]], g["stride"], g["padding"])
    fields = {"padding": PADDING[g["padding"]], "fusedActivationFunction": g["activation"], **strides(g["stride"])}
    fields |= {"dilationHFactor": 1, "dilationWFactor": 1, "depthMultiplier": multiplier}
    kernel = case.kernel.reshape(1, *shape[:2], -1)
    case.check("DEPTHWISE_CONV_2D", ours, kernel, 3, 5, "DepthwiseConv2DOptions", **fields)


@pytest.mark.parametrize("kernel", ["dense", "conv"])
@pytest.mark.parametrize("seed", [0, 1, 3])
def test_many_sums_are_rounded_as_litert_does(kernel, seed):
    """Exact halves among them, at seeds that three divides; and, at others, sums within a millionth of a half."""
    shape, rows = (6, 4), (20000,) if kernel == "dense" else (1, 200, 100)
    case = Case(seed, (*rows, 6), shape if kernel == "dense" else (1, 1, *shape), 4, 6)
    x = quantized(case.x, case.params)
    if kernel == "dense":
        ours = integer.fully_connected(x, case.weights, case.y)
        case.check("FULLY_CONNECTED", ours, case.kernel.T, 0, 7, "FullyConnectedOptions")
        return
    ours = integer.conv_2d(x, case.weights, case.y)
    fields = {"padding": PADDING["valid"], "dilationHFactor": 1, "dilationWFactor": 1, **strides(1)}
    case.check("CONV_2D", ours, case.kernel.transpose(3, 0, 1, 2), 0, 4, "Conv2DOptions", **fields)


@settings(max_examples=40)
@given(geometry, st.sampled_from([(3,), (2, 3)]), st.integers(1, 1500))
def test_fully_connected_equals_litert(g, leading, inputs):
    case = Case(g["seed"], (*leading, inputs), (inputs, g["filters"]), g["filters"], inputs)
    ours = integer.fully_connected(quantized(case.x, case.params), case.weights, case.y, BOUNDS[g["activation"]])
    fields = {"keepNumDims": len(leading) > 1, "fusedActivationFunction": g["activation"]}
    case.check("FULLY_CONNECTED", ours, case.kernel.T, 0, 7, "FullyConnectedOptions", **fields)


seeds = st.integers(0, 2**31)


def two_scales(seed):
    rng = np.random.default_rng(seed)
    a, b = np.exp(rng.uniform(-12, -6, size=2))
    return (np.exp2(np.rint(np.log2(a))), np.exp2(np.rint(np.log2(b))), rng) if seed % 3 == 0 else (a, b, rng)


@settings(max_examples=30)
@given(seeds, st.sampled_from(["ADD", "SUB"]), st.sampled_from([0, 1, 3]))
def test_sums_equal_litert(seed, name, activation):
    first, second, rng = two_scales(seed)
    a, b = (rng.integers(-32768, 32768, size=(1, 20, 20, 8)).astype(np.int16) for _ in range(2))
    pa, pb, y = grid(first), grid(second), grid(max(first, second) * rng.uniform(0.5, 3))
    formula = integer.int16.add if name == "ADD" else integer.int16.subtract
    ours = formula(quantized(a, pa), quantized(b, pb), y, BOUNDS[activation])
    options = {"options": "AddOptions" if name == "ADD" else "SubOptions", "potScaleInt16": False}
    version = 3 if name == "ADD" else 5
    theirs = run(name, [(a, pa), (b, pb)], y, a.shape, version, **options, fusedActivationFunction=activation)
    equal(ours, y, theirs)


@pytest.mark.parametrize("source, target", [("int8", "int16"), ("int16", "int8"), ("int16", "int16")])
@settings(max_examples=25)
@given(seed=seeds)
def test_a_change_of_width_equals_litert(source, target, seed):
    scale, _, rng = two_scales(seed)
    limits = np.iinfo(source)
    x = rng.integers(limits.min, limits.max + 1, size=(1, 60, 60, 1)).astype(source)
    zero = lambda dtype: int(rng.integers(-128, 128)) if dtype == "int8" else 0
    width = {"int8": 256, "int16": 65536}
    spread = 2.0 ** rng.integers(-1, 2) if seed % 3 == 0 else rng.uniform(0.4, 3)
    px, y = grid(scale, source, zero(source)), grid(scale * width[source] / width[target] * spread, target, zero(target))
    ours = integer.kernels(px, y).requantize(quantized(x, px), y)
    equal(ours, y, run("QUANTIZE", [(x, px)], y, x.shape, 2, "QuantizeOptions"))


@settings(max_examples=20)
@given(seeds)
def test_relu_equals_litert(seed):
    scale, _, rng = two_scales(seed)
    x = rng.integers(-32768, 32768, size=(1, 30, 30, 4)).astype(np.int16)
    px, y = grid(scale), grid(scale * rng.uniform(0.3, 2))
    equal(integer.int16.relu(quantized(x, px), y), y, run("RELU", [(x, px)], y, x.shape, 3))


@settings(max_examples=20)
@given(seeds, st.integers(1, 5), st.integers(1, 3), st.sampled_from(["valid", "same"]))
def test_average_pool_equals_litert(seed, window, stride, padding):
    rng = np.random.default_rng(seed)
    x = rng.integers(-32768, 32768, size=(2, 11, 10, 3)).astype(np.int16)
    px = grid(0.001)
    ours = integer.int16.average_pool(quantized(x, px), (window, 2), (stride, 2), padding)
    fields = {"padding": PADDING[padding], "filterHeight": window, "filterWidth": 2, "strideH": stride, "strideW": 2}
    equal(ours, px, run("AVERAGE_POOL_2D", [(x, px)], px, ours.shape, 3, "Pool2DOptions", **fields))
