"""A state that a recurrent layer hands on, in float32 on a fixed-point grid: what keeps its arithmetic exact.

A state `s = S·2**-k` is updated by products and sums of it with integers whose scales are powers of two. As long as no
result has more than 24 binary digits, float32 rounds nothing, in whatever order, fused or not, and the one rounding to a
multiple of `2**-k` is written out: `s + M - M` with `M = 1.5·2**(23-k)`, to nearest, halves to even.
"""

import itertools
import math

DIGITS = 24
# Finer steps than any gate's products have.
MOST_BITS = 20


class Program:
    """Products, sums and differences, one after the other.

    Args:
        count: number of inputs.
        steps: list of `(name, left, right)`: "multiply", "add" or "subtract" of two operands, each an input by its index, a
            result before by the inputs' number and its own, or a constant, a float.
    """

    NAMES = {"multiply": lambda a, b: a * b, "add": lambda a, b: a + b, "subtract": lambda a, b: a - b}

    def __init__(self, count, steps):
        self.count, self.steps = count, [tuple(step) for step in steps]

    def results(self, inputs, functions=NAMES):
        """What each step makes of the inputs, by functions of two operands under the steps' names."""
        made = list(inputs)
        of = lambda operand: operand if isinstance(operand, float) else made[operand]
        for name, left, right in self.steps:
            made.append(functions[name](of(left), of(right)))
        return made[self.count :]

    def bounds(self, ranges):
        """The largest absolute value of each step's result.

        Args:
            ranges: `(low, high)` of each input.
        """
        # Sums of products of different inputs are extreme where all inputs are.
        corners = [self.results(corner) for corner in itertools.product(*ranges)]
        if all(degree <= 1 for degrees in self._degrees() for degree in degrees.values()):
            return [max(abs(corner[i]) for corner in corners) for i in range(len(self.steps))]
        most = {"multiply": lambda a, b: abs(a) * abs(b)}
        widest = [max(map(abs, pair)) for pair in ranges]
        add = lambda a, b: abs(a) + abs(b)
        return self.results(widest, {**most, "add": add, "subtract": add})

    def _degrees(self):
        """Of each step's result, in what power each input is there."""
        one = lambda operand: {} if isinstance(operand, float) else made[operand]
        made = [{i: 1} for i in range(self.count)]
        for name, left, right in self.steps:
            a, b = one(left), one(right)
            join = (lambda p, q: p + q) if name == "multiply" else max
            made.append({i: join(a.get(i, 0), b.get(i, 0)) for i in {*a, *b}})
        return made[self.count :]

    def exponents(self, exponents):
        """The `e` for which each step's result is a multiple of `2**-e`; args likewise, one an input."""
        of_float = lambda x: 0 if x == 0 else max(0, -math.frexp(_lowest_digit(x))[1] + 1)
        as_number = [(name, *(float(x) if isinstance(x, float) else x for x in pair)) for name, *pair in self.steps]
        made = list(exponents)
        of = lambda operand: of_float(operand) if isinstance(operand, float) else made[operand]
        for name, left, right in as_number:
            made.append(of(left) + of(right) if name == "multiply" else max(of(left), of(right)))
        return made[self.count :]

    def is_exact(self, exponents, ranges):
        """Whether float32 rounds none of the results, but the last one where it is a sum of exact ones."""
        digits = [math.log2(bound) + e if bound else 0 for bound, e in zip(self.bounds(ranges), self.exponents(exponents))]
        last = digits.pop() if self.steps[-1][0] != "multiply" else 0
        return all(d <= DIGITS for d in digits) and last <= DIGITS + 1


def _lowest_digit(x):
    """The place value of a float's lowest binary digit."""
    numerator, denominator = abs(x).as_integer_ratio()
    return (numerator & -numerator) / denominator


def state_bits(program, reach, exponents, ranges):
    """The most `k` for which a state on a grid of `2**-k` that stays within `±reach` is exact.

    Args:
        program: `Program` that makes the new state, the old one its first input.
        reach: the largest absolute value of the state, a power of two.
        exponents, ranges: of the other inputs: `e` of scales `2**-e`, and `(low, high)` real bounds.

    Returns:
        Integer; `None` where no grid is exact.
    """
    for bits in range(MOST_BITS, -4, -1):
        # Rounding by a sum and a difference wants the state to have fewer digits than a number.
        fits = math.log2(reach) + bits <= DIGITS - 3
        if fits and program.is_exact([bits, *exponents], [(-reach, reach), *ranges]):
            return bits
    return None
