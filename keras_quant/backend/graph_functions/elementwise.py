"""Functions of each value, and of pairs of values."""

import keras
import numpy as np
from keras import ops

from keras_quant.backend.graph_functions.operator import is_symbolic, reads

# Operators whose operands and meaning are those of one function.
_FUNCTIONS = {
    "Abs": "absolute",
    "Acos": "arccos",
    "Acosh": "arccosh",
    "Add": "add",
    "AddV2": "add",
    "Asin": "arcsin",
    "Asinh": "arcsinh",
    "Atan": "arctan",
    "Atan2": "arctan2",
    "Atanh": "arctanh",
    "BitwiseAnd": "bitwise_and",
    "BitwiseOr": "bitwise_or",
    "BitwiseXor": "bitwise_xor",
    "Ceil": "ceil",
    "Cos": "cos",
    "Cosh": "cosh",
    "Div": "divide",
    "Elu": "elu",
    "Erf": "erf",
    "Erfinv": "erfinv",
    "Exp": "exp",
    "Expm1": "expm1",
    "Floor": "floor",
    "FloorDiv": "floor_divide",
    "FloorMod": "mod",
    "Greater": "greater",
    "GreaterEqual": "greater_equal",
    "Inv": "reciprocal",
    "IsFinite": "isfinite",
    "IsInf": "isinf",
    "IsNan": "isnan",
    "Less": "less",
    "LessEqual": "less_equal",
    "Log": "log",
    "Log1p": "log1p",
    "LogSoftmax": "log_softmax",
    "LogicalAnd": "logical_and",
    "LogicalNot": "logical_not",
    "LogicalOr": "logical_or",
    "Maximum": "maximum",
    "Minimum": "minimum",
    "MulNoNan": "multiply",
    "Neg": "negative",
    "Pow": "power",
    "RealDiv": "divide",
    "Reciprocal": "reciprocal",
    "Relu": "relu",
    "Relu6": "relu6",
    "Rint": "round",
    "Round": "round",
    "Rsqrt": "rsqrt",
    "Select": "where",
    "SelectV2": "where",
    "Selu": "selu",
    "Sigmoid": "sigmoid",
    "Sign": "sign",
    "Sin": "sin",
    "Sinh": "sinh",
    "Softmax": "softmax",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Sqrt": "sqrt",
    "Square": "square",
    "Sub": "subtract",
    "Tan": "tan",
    "Tanh": "tanh",
}


def _read_as(function):
    return lambda operator, *operands: function(*operands)


for _type, _name in _FUNCTIONS.items():
    if hasattr(ops, _name):
        reads(_type)(_read_as(getattr(ops, _name)))


@reads("Identity", "StopGradient", "PreventGradient", "Snapshot", "CheckNumerics", "EnsureShape", "PlaceholderWithDefault")
def _identity(operator, x, *_):
    return x


@reads("IdentityN")
def _identities(operator, *operands):
    return list(operands)


@reads("Mul")
def _multiply(operator, x, y):
    return ops.square(x) if x is y else ops.multiply(x, y)


@reads("Equal")
def _equal(operator, x, y):
    return ops.equal(x, y)


@reads("NotEqual")
def _not_equal(operator, x, y):
    return ops.not_equal(x, y)


@reads("AddN")
def _add_all(operator, first, *others):
    for x in others:
        first = ops.add(first, x)
    return first


@reads("BiasAdd")
def _add_bias(operator, x, bias):
    if operator.attribute("data_format") == "NCHW" and len(x.shape) > 2:
        operator.refuse("adds a bias to channels that come first. Let them come last, `data_format='NHWC'`.")
    return ops.add(x, bias)


@reads("SquaredDifference")
def _squared_difference(operator, x, y):
    return ops.square(ops.subtract(x, y))


@reads("Erfc")
def _complementary_error_function(operator, x):
    return ops.subtract(np.float32(1.0), ops.erf(x))


@reads("LeakyRelu")
def _leaky_relu(operator, x):
    return ops.leaky_relu(x, negative_slope=operator.attribute("alpha"))


@reads("ClipByValue")
def _clip(operator, x, low, high):
    return ops.minimum(ops.maximum(x, low), high)


@reads("DivNoNan")
def _divide_without_nan(operator, x, y):
    if is_symbolic(y):
        operator.refuse("gives 0 where it divides by 0. Add a small number to the divisor and divide by that.")
    safe = np.where(_array(y) == 0, 1, _array(y))
    return ops.multiply(x, np.where(_array(y) == 0, 0, 1 / safe).astype(_array(y).dtype))


@reads("Cast")
def _cast(operator, x):
    return x if keras.backend.standardize_dtype(x.dtype) == operator.output_dtype() else ops.cast(x, operator.output_dtype())


@reads("ZerosLike")
def _zeros_like(operator, x):
    return _filled(operator, 0)


@reads("OnesLike")
def _ones_like(operator, x):
    return _filled(operator, 1)


def _filled(operator, value):
    """An array for one sample; it is repeated beside the others."""
    shape = [1 if size is None else size for size in operator.output_shape]
    return np.full(shape, value, operator.output_dtype())


def _array(constant):
    return constant if isinstance(constant, np.ndarray) else ops.convert_to_numpy(constant)
