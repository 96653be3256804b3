"""Functions of one value: any of them has 256 results on int8, and those are a table."""

import math
import re

import keras
from keras import ops

from keras_quant import backend, integer
from keras_quant.errors import QuantizationError
from keras_quant.layers.annotation import annotation
from keras_quant.layers.base import QuantLayer
from keras_quant.layers.functions import computes_activation
from keras_quant.layers.registry import computes

_ACTIVATIONS = (
    "celu",
    "exponential",
    "hard_shrink",
    "log_sigmoid",
    "mish",
    "soft_shrink",
    "softplus",
    "softsign",
    "sparse_plus",
    "sparse_sigmoid",
    "squareplus",
    "tanh_shrink",
    "threshold",
)
# Operations of one value, by the names of their classes.
_OPERATIONS = {
    "math": "Erf Erfc Erfinv Rsqrt",
    "nn": "Celu HardShrink LogSigmoid SoftShrink Softplus Softsign SparsePlus SparseSigmoid Squareplus TanhShrink Threshold",
    "numpy": "Arccos Arccosh Arcsin Arcsinh Arctan Arctanh Cbrt Ceil Cos Cosh Deg2rad Exp Exp2 Expm1 Floor I0 Log Log10 "
    "Log1p Log2 Rad2deg Reciprocal Round Sign Sin Sinc Sinh Sqrt Tan Trunc",
}
# What an operation is called here, where that is not its function in `keras.ops`; and what holds its parameters.
_NAMES = {"Exp": "exponential"}
_PARAMETERS = {
    "Celu": {"alpha": "alpha"},
    "HardShrink": {"threshold": "threshold"},
    "SoftShrink": {"threshold": "threshold"},
    "Squareplus": {"b": "b"},
    "Threshold": {"threshold": "threshold", "default_value": "default_value"},
    "Round": {"decimals": "decimals"},
}
# Operations of two values, one of which is a number.
_BINARY = ("arctan2", "floor_divide", "fmod", "heaviside", "hypot", "logaddexp", "logaddexp2", "mod")


def _snake(name):
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


def _with_number(function):
    """A function of two values as one of the first, or, with `other_first`, of the second."""

    def of_one(x, other, other_first=False):
        other = ops.cast(ops.full_like(x, other), x.dtype)
        return function(other, x) if other_first else function(x, other)

    return of_one


def _functions():
    names = [_snake(name) for text in _OPERATIONS.values() for name in text.split()]
    return {
        **{name: getattr(ops, name) for name in names if hasattr(ops, name)},
        **{name: getattr(keras.activations, name) for name in _ACTIVATIONS if hasattr(keras.activations, name)},
        **{name: _with_number(getattr(ops, name)) for name in _BINARY if hasattr(ops, name)},
        "exp2": lambda x: ops.power(ops.cast(2.0, x.dtype), x),
        "reciprocal": lambda x: 1.0 / x,
        "reciprocal_no_nan": lambda x: ops.where(x == 0, ops.zeros_like(x), 1.0 / x),
    }


_FUNCTIONS = _functions()
_NUMBERS = (-math.inf, math.inf)
# Of functions that do not take all numbers, the least and the greatest one.
_DOMAINS = {
    **dict.fromkeys(("log", "log10", "log2", "rsqrt", "sqrt"), (0.0, math.inf)),
    **dict.fromkeys(("arccos", "arcsin", "arctanh", "erfinv"), (-1.0, 1.0)),
    **{"log1p": (-1.0, math.inf), "arccosh": (1.0, math.inf)},
}
# Functions that are infinite, or whose slopes alone are, at zero; and those that are at the ends of their domains.
_AT_ZERO = ("cbrt", "reciprocal", "reciprocal_no_nan")
_INFINITE = ("arctanh", "erfinv", "log", "log10", "log1p", "log2", "reciprocal", "rsqrt")


class _Tabulated(QuantLayer):
    """Mixin: a function of one value; lowered to two CONV_2D that add up a table step by step, on XNNPACK.

    On tensors of thousands of values it is lowered to CAST, ADD and GATHER, which are built-in kernels.

    A subclass gives `function`, and, of one that does not take all numbers, the rest.
    """

    # The least and the greatest number that the function takes.
    domain = _NUMBERS
    # Whether it, or its slope, is infinite at zero in between.
    breaks_at_zero = False
    # Whether it is the function that is infinite there or at the ends, rather than its slope.
    is_infinite = False

    def function(self, x):
        """The real function, of a tensor of any float dtype."""
        raise NotImplementedError

    def on_grid(self, x):
        """The function of numbers on a grid, some of which may have been rounded to where it is not defined."""
        least, most = (ops.cast(end, x.dtype) for end in self.domain)
        if self.breaks_at_zero:
            # Not -0, of which 1/x is another infinity.
            x = ops.where(x == 0, ops.zeros_like(x), x)
        return self.function(ops.where(x <= least, least, ops.where(x >= most, most, x)))

    def table(self, x, y):
        """The 256 int8 outputs for these `QuantParams` of input and output."""
        return integer.tabulate(x, y, self.on_grid)

    def float_call(self, inputs):
        return self.function(inputs)

    def train_arithmetic(self, inputs):
        """The function, with the slopes of half a step further on where a number was rounded to where they are infinite.

        Where the function itself is infinite there, or nearly so, as 1/√(x + 1e-12) at 0, it gives the end of the output's
        grid, as the table does, without a gradient. So the range keeps to what the other numbers come to.
        """
        quantizer = annotation(inputs).quantizer
        is_whole = self.domain == _NUMBERS and not self.breaks_at_zero
        if is_whole or not quantizer.fake_quant_enabled:
            return self.function(inputs)
        near, exact = self._beside(inputs, 0.5 * quantizer.params().scale), ops.stop_gradient(self.on_grid(inputs))
        smooth = self.function(inputs + ops.stop_gradient(near - inputs))
        if not self.is_infinite:
            return smooth + (exact - ops.stop_gradient(smooth))
        return ops.where(near != inputs, backend.clip(exact, *self.output_quantizer.training_ends()), smooth)

    def _beside(self, x, half):
        """The numbers, or, in place of those where the function breaks, others half a step beside them."""
        x = ops.where(x == 0, half, x) if self.breaks_at_zero else x
        least, most = self.domain
        return ops.minimum(ops.maximum(x, least + half), most - half)

    def integer_call(self, x, y):
        return integer.look_up(x, y, self.on_grid)

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantTable(_Tabulated, keras.layers.Layer):
    """A function of one value on int8, by a table in the file; exact.

    Args:
        function: the name of a function of one value in `keras.ops` or `keras.activations`, such as "cos", "erf",
            "exponential", "log", "softplus"; or "arctan2", "floor_divide", "fmod", "heaviside", "hypot",
            "logaddexp", "logaddexp2", "mod",
            with `other` and `other_first` among the arguments.
        offset: added to the input first, as in `rsqrt(x + epsilon)`.
        arguments: dict of the function's further arguments.
        output_quantizer: name, config or object, see `quantizers.get`.
    """

    def __init__(self, function, offset=0.0, arguments=None, **kwargs):
        super().__init__(**kwargs)
        if function not in _FUNCTIONS:
            raise QuantizationError(f"`function` is one of {sorted(_FUNCTIONS)}. Received: function={function!r}")
        self.function_name, self.offset, self.arguments = function, offset, dict(arguments or {})
        self.domain = tuple(end - offset + 0.0 for end in _DOMAINS.get(function, _NUMBERS))
        self.breaks_at_zero, self.is_infinite = function in _AT_ZERO, function in _INFINITE

    def function(self, x):
        return _FUNCTIONS[self.function_name](x + self.offset, **self.arguments)

    def get_config(self):
        own = {"function": self.function_name, "offset": self.offset, "arguments": self.arguments}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantPower(_Tabulated, keras.layers.Layer):
    """`x ** exponent` on int8, by a table in the file; exact.

    Args:
        exponent: float.
        output_quantizer: name, config or object, see `quantizers.get`.
    """

    def __init__(self, exponent, **kwargs):
        super().__init__(**kwargs)
        self.exponent = exponent
        is_integer = float(exponent).is_integer()
        self.domain = _NUMBERS if is_integer else (0.0, math.inf)
        self.breaks_at_zero, self.is_infinite = is_integer and exponent < 0, exponent < 0

    def function(self, x):
        return ops.power(x, ops.cast(self.exponent, x.dtype))

    def get_config(self):
        return {**super().get_config(), "exponent": self.exponent}


def _tabulate(name, **parameters):
    computes_activation(_FUNCTIONS[name], function=name, **parameters)(QuantTable)


# Keras's `threshold` has no defaults, so no name of an activation stands for it.
for _name in _ACTIVATIONS:
    if _name in _FUNCTIONS and _name != "threshold":
        _tabulate(_name)


def _by_table(operation, args, **arguments):
    kind = type(operation).__name__
    given = {name: getattr(operation, attribute) for name, attribute in _PARAMETERS.get(kind, {}).items()}
    return QuantTable(_NAMES.get(kind, _snake(kind)), arguments=given, **arguments)


for _module, _text in _OPERATIONS.items():
    computes(*(f"{_module}.{_name}" for _name in _text.split()))(_by_table)


@keras.saving.register_keras_serializable(package="keras_quant")
class ReciprocalNoNan(keras.Operation):
    """`1 / x`, and 0 of 0."""

    def call(self, x):
        return _FUNCTIONS["reciprocal_no_nan"](x)

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, dtype=x.dtype)

    def get_config(self):
        return {"name": self.name}


computes(ReciprocalNoNan)(_by_table)
