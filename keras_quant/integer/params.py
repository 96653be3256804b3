"""Scale and zero point of a tensor, and the step from real numbers onto its grid."""

import dataclasses
from typing import Any

from keras import ops

from keras_quant import backend

INT8_MIN, INT8_MAX = -128, 127


@dataclasses.dataclass(frozen=True)
class IntegerType:
    """A range of integers.

    Attributes:
        low, high: the smallest and the largest.
        storage: name of the type that holds them in the file: "int8" or "int16".
    """

    low: int
    high: int
    storage: str

    @property
    def levels(self):
        """Steps from the smallest to the largest."""
        return self.high - self.low

    @property
    def bits(self):
        """Bits of one integer."""
        return self.levels.bit_length()

    @property
    def is_narrow(self):
        """Whether the lowest integer of the width is left out, as in [-127, 127]."""
        return self.high == -self.low


def integer_type(bits):
    """The `IntegerType` of `bits` bits, which int8 holds up to 8 bits."""
    return IntegerType(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, "int8" if bits <= 8 else "int16")


def narrow_type(bits):
    """`integer_type` without its lowest integer."""
    full = integer_type(bits)
    return IntegerType(-full.high, full.high, full.storage)


INT8, INT16 = integer_type(8), integer_type(16)


@dataclasses.dataclass(frozen=True)
class QuantParams:
    """How integers stand for real numbers: `real = scale * (q - zero_point)`.

    Attributes:
        scale: float32 scalar.
        zero_point: integer-valued float32 scalar.
        type: `IntegerType`.
    """

    scale: Any
    zero_point: Any
    type: IntegerType = INT8

    @property
    def low(self):
        """The smallest centred integer."""
        return self.type.low - self.zero_point

    @property
    def high(self):
        """The largest centred integer."""
        return self.type.high - self.zero_point

    @property
    def kernel(self):
        """The grid on which a kernel of the storage type makes the tensor: its upper clamp is this grid's."""
        return self if self.is_full else QuantParams(self.scale, INT8.high - self.high)

    @property
    def stored(self):
        """The grid that the tensor has in the file once its lower end is clamped, too: by QUANTIZE from `kernel`."""
        return self if self.is_full else QuantParams(self.scale, INT8.low - self.low)

    @property
    def is_full(self):
        """Whether the integers fill their storage type."""
        return self.type in (INT8, INT16)


@dataclasses.dataclass(frozen=True)
class Quantized:
    """A tensor as the runtime holds it.

    Attributes:
        integers: centred integers in float32.
        params: its `QuantParams`.
    """

    integers: Any
    params: QuantParams


def activation_range(y, bounds=(None, None)):
    """The centred integers that a fused activation lets through.

    XNNPACK quantizes the activation's bounds with the output's own scale (`xnn_qs8_quantize`).

    Args:
        y: `QuantParams` of the output.
        bounds: real lower and upper bound of the activation, `None` for none: `(0, None)` is ReLU, `(0, 6)` ReLU6.

    Returns:
        Lowest and highest centred integer.
    """
    low, high = bounds
    lowest = y.low if low is None else ops.maximum(y.low, backend.round_half_even(low / y.scale))
    highest = y.high if high is None else ops.minimum(y.high, backend.round_half_even(high / y.scale))
    return lowest, highest


def float32_product(a, b):
    """`float32(a · b)`: one float32 operation of the kernels, which no graph compiler may merge with the next one.

    TensorFlow's optimizer turns a division by a constant into a product with its reciprocal and takes chains of products in
    another order, each up to a unit in the last place away. The float64 result between two casts is rounded as the kernel
    rounds it.

    Args:
        a, b: float32 tensors.
    """
    return ops.cast(ops.cast(a, "float64") * ops.cast(b, "float64"), "float32")


def float32_ratio(a, b):
    """`float32(a / b)`, see `float32_product`; rounding to 53 bits first does not change what rounding to 24 gives."""
    return ops.cast(ops.cast(a, "float64") / ops.cast(b, "float64"), "float32")


def inverse_of(scales):
    """`float32(1 / scales)`. Of several, TensorFlow's reciprocal in a graph is often a unit off, even that of 1."""
    return float32_ratio(1.0, scales)


def to_grid(x, y):
    """QUANTIZE from float32, to int8 and to int16: `rint(x · (1/s_y))`, clamped. The kernels multiply by the reciprocal.

    Args:
        x: float32 tensor of real values.
        y: `QuantParams`.

    Returns:
        Centred integers, of `x`'s shape.
    """
    return backend.clip(backend.round_half_even(x * (1.0 / y.scale)), y.low, y.high)


def rescale(accumulator, multiplier, y, bounds=(None, None)):
    """`rint(accumulator · multiplier)`, clamped: the float32 requantization that XNNPACK's qs8 and qc8w kernels share.

    Args:
        accumulator: integers in float32.
        multiplier: float32, a scalar or one per channel (last axis).
        y: `QuantParams` of the output.
        bounds: of the fused activation, see `activation_range`.

    Returns:
        Centred integers of the output.
    """
    low, high = activation_range(y, bounds)
    return backend.clip(backend.round_half_even(accumulator * multiplier), low, high)
