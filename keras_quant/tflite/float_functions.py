"""Functions of one value in float, as operators: what a table is on int8."""

import itertools
import math

import numpy as np

from keras_quant.tflite.writer import Tensor, TensorType

# Of operators of one tensor: version, the release that brought it, name of the options.
_UNARY = {
    "ABS": (1, (1, 13, 1)),
    "CEIL": (1, (1, 14, 0)),
    "COS": (1, (1, 14, 0)),
    "ELU": (1, (1, 14, 0)),
    "EXP": (1, (1, 7, 0)),
    "FLOOR": (1, (1, 9, 0)),
    "GELU": (1, (2, 9, 0), "GeluOptions"),
    "HARD_SWISH": (1, (1, 15, 0)),
    "LOG": (1, (1, 14, 0)),
    "LOGISTIC": (1, (1, 14, 0)),
    "RELU": (1, (1, 5, 0)),
    "RELU6": (1, (1, 5, 0)),
    "ROUND": (1, (1, 14, 0)),
    "RSQRT": (1, (1, 10, 0)),
    "SIGN": (1, (2, 12, 0)),
    "SIN": (1, (1, 9, 0)),
    "SQRT": (1, (1, 10, 0)),
    "TANH": (1, (1, 14, 0)),
}
# Of operators of two.
_BINARY = {
    "ADD": (1, (1, 5, 0), "AddOptions"),
    "ATAN2": (1, (2, 10, 0)),
    "DIV": (1, (1, 6, 0), "DivOptions"),
    "EQUAL": (1, (1, 14, 0)),
    "FLOOR_MOD": (1, (1, 13, 0)),
    "GREATER": (1, (1, 14, 0)),
    "MAXIMUM": (1, (1, 8, 0), "MaximumMinimumOptions"),
    "MINIMUM": (1, (1, 8, 0), "MaximumMinimumOptions"),
    "MUL": (1, (1, 5, 0), "MulOptions"),
    "POW": (1, (1, 10, 0)),
    "SUB": (1, (1, 6, 0), "SubOptions"),
}
_OPERATORS = {**_UNARY, **_BINARY, "SELECT_V2": (1, (2, 2, 0), "SelectV2Options")}


class Values:
    """A float tensor that arithmetic is written with; `emit` makes operators of what was written.

    Args:
        name: of the operator; `None` for a tensor or number that is there.
        *operands: `Values`, or what is there.
        **fields: of the operator's options.
    """

    def __init__(self, name, *operands, **fields):
        self.name, self.operands, self.fields = name, operands, fields

    def __getattr__(self, name):
        if name.upper() not in _UNARY:
            raise AttributeError(name)
        return lambda: Values(name.upper(), self)

    def _with(self, name, other, reversed_=False):
        other = other if isinstance(other, Values) else Values(None, float(other))
        return Values(name, *((other, self) if reversed_ else (self, other)))

    def __add__(self, other):
        return self if _is_number(other, 0.0) else self._with("ADD", other)

    def __mul__(self, other):
        return self if _is_number(other, 1.0) else self._with("MUL", other)

    def __sub__(self, other):
        return self._with("SUB", other)

    def __truediv__(self, other):
        return self._with("DIV", other)

    def __radd__(self, other):
        return self + other

    def __rmul__(self, other):
        return self * other

    def __rsub__(self, other):
        return self._with("SUB", other, True)

    def __rtruediv__(self, other):
        return self._with("DIV", other, True)

    def __neg__(self):
        return self * -1.0

    def max(self, other):
        return self._with("MAXIMUM", other)

    def min(self, other):
        return self._with("MINIMUM", other)

    def clip(self, low, high):
        return self.max(low).min(high)

    def to_the(self, power):
        return self._with("POW", power)

    def angle_over(self, other):
        """The angle whose sine is in the ratio of this to the cosine `other`."""
        return self._with("ATAN2", other)

    def equals(self, number):
        return self._with("EQUAL", number)

    def exceeds(self, number):
        return self._with("GREATER", number)

    def choose(self, if_so, if_not):
        """Of a comparison: `if_so` where it holds, `if_not` elsewhere."""
        sides = [x if isinstance(x, Values) else Values(None, float(x)) for x in (if_so, if_not)]
        return Values("SELECT_V2", self, *sides)

    def modulo(self, other):
        return self._with("FLOOR_MOD", other)

    def polynomial(self, *coefficients):
        """By Horner's rule, the highest power first."""
        total = coefficients[0]
        for coefficient in coefficients[1:]:
            total = self * total + coefficient
        return total


def _is_number(x, number):
    return not isinstance(x, Values) and x == number


def emit(lowering, output, values):
    """Operators that compute `values` into the rule's output; what is used twice is computed once."""
    made, count = {}, itertools.count()

    def operand(x):
        if x.name is not None:
            return tensor_of(x, f"{x.name.lower()}_{next(count)}")
        (given,) = x.operands
        return given if isinstance(given, Tensor) else lowering.writer.constant(f"{output.name}/number", np.float32(given))

    def tensor_of(x, name):
        if id(x) not in made:
            operands = [operand(y) for y in x.operands]
            y = lowering.activation(output, name, kind=TensorType.BOOL if x.name in ("EQUAL", "GREATER") else None)
            lowering.operator(x.name, operands, y, *_OPERATORS[x.name], **x.fields)
            made[id(x)] = y
        return made[id(x)]

    return operand(values) if values.name is None else tensor_of(values, None)


def _soft(x):
    """log(1 + exp(-|x|))."""
    return ((-x.abs()).exp() + 1.0).log()


def _elu(x, alpha=1.0):
    return x.elu() if alpha == 1 else x.relu() + x.min(0.0).elu() * alpha


def _celu(x, alpha=1.0):
    return x.relu() + (x.min(0.0) / alpha).elu() * alpha


def _selu(x):
    return _elu(x, 1.6732632423543772) * 1.0507009873554805


def _normal_distribution(x):
    """Its cumulative probability, GELU(x) / x; of 0 by a number that leaves any other as it is."""
    x = x + 1e-30
    return x.gelu() / x


def _erf(x):
    return _normal_distribution(x * math.sqrt(2)) * 2.0 - 1.0


def _erfc(x):
    return 2.0 - _normal_distribution(x * math.sqrt(2)) * 2.0


def _erfinv(x):
    """M. Giles, Approximating the erfinv function, 2012: two polynomials of w = -log(1 - x²)."""
    w = -((1.0 - x) * (1.0 + x)).log()
    near, far = w - 2.5, w.sqrt() - 3.0
    near = near.polynomial(
        *(2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087),
        *(-0.00125372503, -0.00417768164, 0.246640727, 1.50140941),
    )
    far = far.polynomial(
        *(-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773),
        *(-0.0076224613, 0.00943887047, 1.00167406, 2.83297682),
    )
    return x * w.exceeds(5.0).choose(far, near)


def _i0(x):
    """M. Abramowitz, I. Stegun, Handbook of Mathematical Functions, 9.8.1 and 9.8.2."""
    size, limit = x.abs(), 3.75
    ratio = size.min(limit) * (1 / limit)
    small = (ratio * ratio).polynomial(0.0045813, 0.0360768, 0.2659732, 1.2067492, 3.0899424, 3.5156229, 1.0)
    size = size.max(limit)
    large = (limit / size).polynomial(
        *(0.00392377, -0.01647633, 0.02635537, -0.02057706, 0.00916281, -0.00157565, 0.00225319, 0.01328592, 0.39894228)
    )
    return x.abs().exceeds(limit).choose(large * size.exp() / size.sqrt(), small)


def _arctan(x):
    return x.angle_over(x * 0.0 + 1.0)


def _arctan2(x, other, other_first=False):
    other = x * 0.0 + other
    return other.angle_over(x) if other_first else x.angle_over(other)


def _cosine_of(sine):
    return ((1.0 - sine) * (1.0 + sine)).sqrt()


def _ordered(x, other, other_first):
    return (Values(None, float(other)), x) if other_first else (x, Values(None, float(other)))


def _floor_divide(x, other, other_first=False):
    a, b = _ordered(x, other, other_first)
    return (a / b).floor()


def _mod(x, other, other_first=False):
    a, b = _ordered(x, other, other_first)
    return a.modulo(b)


def _fmod(x, other, other_first=False):
    a, b = _ordered(x, other, other_first)
    return a - b * _trunc(a / b)


def _heaviside(x, other, other_first=False):
    """Of x, with its value at 0; or the other way round, of a number."""
    if other_first:
        return x * 0.0 + float(other > 0) if other else x
    return x.equals(0.0).choose(other, x.sign().relu())


def _hypot(x, other, other_first=False):
    return (x * x + other * other).sqrt()


def _logaddexp(x, other, other_first=False):
    return x.max(other) + _soft(x - other)


def _logaddexp2(x, other, other_first=False):
    return x.max(other) + _soft((x - other) * math.log(2)) * (1 / math.log(2))


def _trunc(x):
    return x.sign() * x.abs().floor()


def _round(x, decimals=0):
    return x.round() if not decimals else (x * 10.0**decimals).round() * 10.0**-decimals


def _sinc(x):
    x = x * math.pi + 1e-30
    return x.sin() / x


def _sparse_plus(x):
    rising = x.clip(-1.0, 1.0) + 1.0
    return rising * rising * 0.25 + (x - 1.0).relu()


_FORMS = {
    "arccos": lambda x: _cosine_of(x).angle_over(x),
    "arccosh": lambda x: (x + ((x - 1.0) * (x + 1.0)).sqrt()).log(),
    "arcsin": lambda x: x.angle_over(_cosine_of(x)),
    "arcsinh": lambda x: x.sign() * (x.abs() + (x * x + 1.0).sqrt()).log(),
    "arctan": _arctan,
    "arctan2": _arctan2,
    "arctanh": lambda x: ((1.0 + x) / (1.0 - x)).log() * 0.5,
    "cbrt": lambda x: x.sign() * x.abs().to_the(1 / 3),
    "ceil": lambda x: x.ceil(),
    "celu": _celu,
    "cos": lambda x: x.cos(),
    "cosh": lambda x: (x.exp() + (-x).exp()) * 0.5,
    "deg2rad": lambda x: x * (math.pi / 180),
    "elu": _elu,
    "erf": _erf,
    "erfc": _erfc,
    "erfinv": _erfinv,
    "exp2": lambda x: (x * math.log(2)).exp(),
    "expm1": lambda x: x.exp() - 1.0,
    "exponential": lambda x: x.exp(),
    "floor": lambda x: x.floor(),
    "floor_divide": _floor_divide,
    "fmod": _fmod,
    "gelu": lambda x, approximate=False: Values("GELU", x, approximate=approximate),
    "hard_shrink": lambda x, threshold=0.5: x.abs().exceeds(threshold).choose(x, 0.0),
    "hard_sigmoid": lambda x: (x + 3.0).relu6() * (1 / 6),
    "hard_silu": lambda x: x.hard_swish(),
    "hard_tanh": lambda x: x.clip(-1.0, 1.0),
    "heaviside": _heaviside,
    "hypot": _hypot,
    "i0": _i0,
    "log": lambda x: x.log(),
    "log10": lambda x: x.log() * (1 / math.log(10)),
    "log1p": lambda x: (x + 1.0).log(),
    "log2": lambda x: x.log() * (1 / math.log(2)),
    "log_sigmoid": lambda x: x.min(0.0) - _soft(x),
    "logaddexp": _logaddexp,
    "logaddexp2": _logaddexp2,
    "mish": lambda x: x * (x.relu() + _soft(x)).tanh(),
    "mod": _mod,
    "rad2deg": lambda x: x * (180 / math.pi),
    "reciprocal": lambda x: 1.0 / x,
    "reciprocal_no_nan": lambda x: x.equals(0.0).choose(0.0, 1.0 / x),
    "relu": lambda x: x.relu(),
    "relu6": lambda x: x.relu6(),
    "round": _round,
    "rsqrt": lambda x: x.rsqrt(),
    "selu": _selu,
    "sigmoid": lambda x: x.logistic(),
    "sign": lambda x: x.sign(),
    "silu": lambda x: x * x.logistic(),
    "sin": lambda x: x.sin(),
    "sinc": _sinc,
    "sinh": lambda x: (x.exp() - (-x).exp()) * 0.5,
    "soft_shrink": lambda x, threshold=0.5: x - x.clip(-threshold, threshold),
    "softplus": lambda x: x.relu() + _soft(x),
    "softsign": lambda x: x / (x.abs() + 1.0),
    "sparse_plus": _sparse_plus,
    "sparse_sigmoid": lambda x: (x.clip(-1.0, 1.0) + 1.0) * 0.5,
    "sqrt": lambda x: x.sqrt(),
    "squareplus": lambda x, b=4: (x + (x * x + b).sqrt()) * 0.5,
    "tan": lambda x: x.sin() / x.cos(),
    "tanh": lambda x: x.tanh(),
    "tanh_shrink": lambda x: x - x.tanh(),
    "threshold": lambda x, threshold, default_value: x.exceeds(threshold).choose(x, default_value),
    "trunc": _trunc,
}


def has_form(name):
    """Whether a function of Keras, of one value and by name, has operators here."""
    return name in _FORMS


def compute(lowering, x, output, name, **arguments):
    """Operators of a function of one value.

    Args:
        lowering: `Lowering`.
        x: `Tensor`, real.
        output: `Output`.
        name: of the function in `keras.ops` or `keras.activations`.
        **arguments: of the function, besides the value.
    """
    return emit(lowering, output, _FORMS[name](Values(None, x), **arguments))
