"""Every int8 value, or every pair of them, against LiteRT."""

import numpy as np
import pytest

from keras_quant import backend, integer
from keras_quant.integer import Quantized
from keras_quant.integer.params import float32_product, float32_ratio
from tests.integer.one_op import EVERY_PAIR, EVERY_VALUE, OneOp, grid, integers, quantized, scales

BOUNDS = {0: (None, None), 1: (0.0, None), 3: (0.0, 6.0)}


def check_pairs(name, options, formula, output_scale, seed, version=2):
    a, b = EVERY_PAIR
    for case, (sa, za, rng) in enumerate(scales(seed, 24)):
        sb, zb, zy = np.float32(np.exp(rng.uniform(-5, -1))), int(rng.integers(-128, 128)), int(rng.integers(-128, 128))
        y = grid(output_scale(sa, sb, rng), zy)
        activation = (0, 1, 3)[case % 3]
        op = OneOp(
            name,
            [(a, sa, za), (b, sb, zb)],
            a.shape[1:],
            (y.scale, zy),
            version,
            options,
            fusedActivationFunction=activation,
        )
        assert op.on_xnnpack
        ours = formula(quantized(a, sa, za), quantized(b, sb, zb), y, BOUNDS[activation])
        np.testing.assert_array_equal(integers(ours, y), op.run())


def test_add_equals_litert_on_every_pair():
    check_pairs("ADD", "AddOptions", integer.add, lambda sa, sb, rng: max(sa, sb) * rng.uniform(0.3, 3), seed=1)


def test_subtract_equals_litert_on_every_pair():
    check_pairs("SUB", "SubOptions", integer.subtract, lambda sa, sb, rng: max(sa, sb) * rng.uniform(0.3, 3), seed=2)


def test_multiply_equals_litert_on_every_pair():
    check_pairs("MUL", "MulOptions", integer.multiply, lambda sa, sb, rng: sa * sb * rng.uniform(20, 120), seed=3)


@pytest.mark.parametrize("exponent", [-9, -3, 0, 3, 7])
def test_add_equals_litert_at_exact_powers_of_two(exponent):
    a, b = EVERY_PAIR
    y = grid(2.0**-exponent, 3)
    op = OneOp("ADD", [(a, 1.0, -5), (b, 0.75, 9)], a.shape[1:], (y.scale, 3), 2, "AddOptions")
    if not op.on_xnnpack:
        pytest.skip("XNNPACK does not take this ratio")
    np.testing.assert_array_equal(integers(integer.add(quantized(a, 1.0, -5), quantized(b, 0.75, 9), y), y), op.run())


def test_requantize_equals_litert_on_every_value():
    for sx, zx, rng in scales(4, 80):
        y = grid(sx * np.exp(rng.uniform(-4, 4)), int(rng.integers(-128, 128)))
        op = OneOp("QUANTIZE", [(EVERY_VALUE, sx, zx)], (16, 16, 1), (y.scale, y.zero_point), 2, "QuantizeOptions")
        assert op.on_xnnpack
        np.testing.assert_array_equal(integers(integer.requantize(quantized(EVERY_VALUE, sx, zx), y), y), op.run())


@pytest.mark.parametrize("alpha", [0.2, 0.3, 0.01, 0.5])
def test_leaky_relu_equals_litert_on_every_value(alpha):
    for sx, zx, rng in scales(5, 30):
        y = grid(sx * rng.uniform(0.3, 1), int(rng.integers(-128, 128)))
        op = OneOp(
            "LEAKY_RELU", [(EVERY_VALUE, sx, zx)], (16, 16, 1), (y.scale, y.zero_point), 2, "LeakyReluOptions", alpha=alpha
        )
        assert op.on_xnnpack
        np.testing.assert_array_equal(integers(integer.leaky_relu(quantized(EVERY_VALUE, sx, zx), y, alpha), y), op.run())


@pytest.mark.parametrize(
    "name, formula, y", [("LOGISTIC", integer.logistic, grid(1 / 256, -128)), ("TANH", integer.tanh, grid(1 / 128, 0))]
)
def test_tabulated_functions_equal_litert_on_every_value(name, formula, y):
    for sx, zx, _ in scales(6, 80):
        op = OneOp(name, [(EVERY_VALUE, sx, zx)], (16, 16, 1), (y.scale, y.zero_point), 2)
        assert op.on_xnnpack
        np.testing.assert_array_equal(integers(formula(quantized(EVERY_VALUE, sx, zx), y), y), op.run())


def test_compiled_multiply_rounds_as_litert_where_products_lie_half_way():
    # 85 · 6 · float32(83 / 340) is 124.5 in float32, as LiteRT multiplies; 85 · float32(6 · 83 / 340) lies above.
    a, b, y = np.full((1, 2, 2, 4), 51, np.int8), np.full((1, 2, 2, 1), 6, np.int8), grid(0.02436144, -34)
    op = OneOp("MUL", [(a, 0.02378823, -34), (b, 0.25, 0)], a.shape[1:], (y.scale, -34), 2, "MulOptions")
    compiled = backend.compiled(
        lambda a, b: integer.multiply(Quantized(a, grid(0.02378823, -34)), Quantized(b, grid(0.25, 0)), y)
    )
    ours = compiled(quantized(a, 0.02378823, -34).integers, quantized(b, 0.25, 0).integers)
    np.testing.assert_array_equal(integers(ours, y), op.run())


def test_compiled_float32_operations_round_once():
    values = np.float32(np.random.default_rng(0).uniform(0.001, 1, 2000))
    ratio = backend.compiled(lambda a: float32_ratio(float32_product(a, 0.3), np.float32(1 / 255)))
    np.testing.assert_array_equal(ratio(values), values * np.float32(0.3) / np.float32(1 / 255))
