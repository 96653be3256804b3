"""Normalizations by statistics of the input itself: float32 operators whose results are exact.

XNNPACK adds, subtracts, multiplies and divides single float32 values with one correct rounding, on any processor. Its sums
run in an order of its own; they are exact all the same where the terms are integers and no partial sum passes 2**24. Its
SQRT is not rounded correctly everywhere, so Heron's method takes the root.
"""

import math

from keras import ops

from keras_quant.integer.params import INT8, float32_product, float32_ratio, inverse_of, to_grid

# The largest distance of an int8 value from its zero point, and the integers that float32 holds.
_FARTHEST, _EXACT = 255, 2**24
# Of a root before the last step, which leaves half its square: a few units in the last place.
LARGEST_ERROR = 2.0**-10
# Where partial sums are parted into a high and a low integer, whose sums are exact for so many of them.
MOST_PARTIAL_SUMS = 2**12


def standardize(x, y, axes, epsilon, center=True, statistic="mean", scale=None, offset=None):
    """`(c - mean) · (1/√(variance + ε/s_x²)) · scale + offset`, each step a float32 operation; then QUANTIZE.

    With `n` terms, `S = Σc` and `T = Σc²`, both exact and rounded to float32 once: `mean = S/n` and
    `variance = max(T/n - mean·mean, 0)`; without `center`, `T/n`; of the statistic "sum", `T`. The difference is off by less
    than 0.02 steps², where the rounding onto the input's grid left a variance of 1/12.

    Args:
        x: `Quantized`.
        y: `QuantParams` of the output.
        axes: integers: those that a mean is taken over.
        epsilon: float.
        center: whether to subtract the mean.
        statistic: "mean" or "sum": what is taken of the squares.
        scale, offset: float32, of a shape that `x`'s can be divided by; `None` for none.
    """
    c, axes = x.integers, list(axes)
    count = math.prod(c.shape[axis] for axis in axes)
    small = scaled_epsilon(epsilon, x.params.scale)
    variance = _exact_sum(c * c, axes, count, _FARTHEST**2)
    if statistic == "mean":
        variance = float32_ratio(variance, float(count))
    if center:
        mean = float32_ratio(_exact_sum(c, axes, count, _FARTHEST), float(count))
        c, variance = c - mean, ops.maximum(variance - float32_product(mean, mean), 0.0)
    root = root_by_heron(variance + small, *heron(count, center, statistic, small))
    result = float32_product(c, inverse_of(root))
    result = result if scale is None else float32_product(result, scale)
    return to_grid(result if offset is None else result + offset, y)


def _exact_sum(terms, axes, count, largest):
    """Of integers, rounded to float32 once."""
    if count * largest <= _EXACT:
        return ops.sum(terms, axes, keepdims=True)
    return ops.cast(ops.sum(ops.cast(terms, "float64"), axes, keepdims=True), "float32")


def summed_at_once(sizes, summed, farthest, divides=True):
    """How many values of each axis float32 sums up at once, so that sums of their squares are exact.

    Args:
        sizes: of the axes.
        summed: list of bools: whether an axis is summed over.
        farthest: the largest distance of a value from the zero point.
        divides: whether an axis that is too long may be split; it is summed value by value otherwise.

    Returns:
        A list of divisors of `sizes`; for an axis that is not summed over, its size.
    """
    count = math.prod(size for size, over in zip(sizes, summed) if over)
    room, found = _EXACT // farthest**2, []
    if count <= room:
        return list(sizes)
    for size, over in zip(sizes[::-1], summed[::-1]):
        divisor = size if not over else _divisor(size, room) if divides else 1
        found.insert(0, divisor)
        room = room // divisor if over else room
    return found


def _divisor(size, most):
    """The largest one that is not above `most`."""
    return next(d for d in range(min(size, max(most, 1)), 0, -1) if size % d == 0)


def sums_are_exact(sizes, summed):
    """Whether float32 holds the sums of squares, whatever the zero point; see `summed_at_once`."""
    if math.prod(size for size, over in zip(sizes, summed) if over) <= MOST_PARTIAL_SUMS:
        return True
    parts = (summed_at_once(sizes, summed, farthest) for farthest in range(-INT8.low, _FARTHEST + 1))
    return all(math.prod(sizes) // math.prod(each) <= MOST_PARTIAL_SUMS for each in parts)


def scaled_epsilon(epsilon, scale):
    """What is added to a variance of centred integers: `float32(ε / s²)`."""
    scale = ops.cast(scale, "float64")
    return ops.cast(ops.cast(epsilon, "float64") / (scale * scale), "float32")


def heron(count, center, statistic, small):
    """Where Heron's method starts, and the factors of its steps, so that it converges for every row of integers.

    A variance that is not zero is at least that of one value a step away from all others. (Where it is zero, so is what is
    multiplied by the inverse.) A plain step halves an error that is large. Divided by the root of the largest error that it
    can leave, the next one starts in the middle again, and about six steps do what ten would.

    Args:
        count: number of values a row.
        center, statistic: as of `standardize`.
        small: float32 scalar, what is added to the variance.

    Returns:
        A float32 scalar, and a list of floats.
    """
    least, most = (1.0 - 1.0 / count, (_FARTHEST / 2) ** 2 * count) if center and count > 1 else (1.0, _FARTHEST**2 * count)
    if statistic == "mean":
        least, most = least / count, most / count
    factors, error = [], (most / least) ** 0.25
    while error - 1.0 > LARGEST_ERROR:
        error = math.sqrt((error + 1.0 / error) / 2.0)
        factors.append(0.5 / error)
    small = ops.cast(small, "float64")
    start = ops.sqrt(ops.sqrt((least + small) * (most + small)))
    return ops.cast(start, "float32"), [*factors, 0.5]


def root_by_heron(value, start, factors):
    """`r ← (value/r + r) · factor`, once for each of the factors."""
    root = start
    for factor in factors:
        root = float32_product(float32_ratio(value, root) + root, factor)
    return root
