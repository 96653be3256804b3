"""Activation functions that TensorFlow spells out, told by their values however they are spelled."""

import math

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_quant.backend.graph_functions.operator import Plan, recognizes

# What such functions are made of, beside constants.
_PARTS = {
    "AddV2": np.add,
    "Erf": np.vectorize(math.erf, otypes="d"),
    "Erfc": np.vectorize(math.erfc, otypes="d"),
    "Exp": np.exp,
    "Identity": lambda x: x,
    "Log1p": np.log1p,
    "Mul": np.multiply,
    "Neg": np.negative,
    "Pow": np.power,
    "RealDiv": np.divide,
    "Relu6": lambda x: np.clip(x, 0, 6),
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Softplus": lambda x: np.log1p(np.exp(x)),
    "Sqrt": np.sqrt,
    "Square": np.square,
    "Sub": np.subtract,
    "Tanh": np.tanh,
}
_POINTS = np.linspace(-5.0, 5.0, 101)
_MOST_PARTS, _DEEPEST = 16, 12


def _erf_gelu(x):
    return x * 0.5 * (1 + _PARTS["Erf"](x / math.sqrt(2)))


def _tanh_gelu(x):
    return x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


_KNOWN = [
    (_erf_gelu, lambda operator, x: ops.gelu(x, approximate=False)),
    (_tanh_gelu, lambda operator, x: ops.gelu(x, approximate=True)),
    (lambda x: x / (1 + np.exp(-x)), lambda operator, x: ops.silu(x)),
    (lambda x: x * np.tanh(np.log1p(np.exp(x))), lambda operator, x: keras.layers.Activation("mish")(x)),
    (lambda x: x * np.clip(x + 3, 0, 6) / 6, lambda operator, x: ops.hard_silu(x)),
]


@recognizes("Mul", "RealDiv")
def _spelled_out(operation):
    """A product that ends, of one tensor and numbers, what is one of the known functions."""
    parts = _cone(operation)
    for tensor in _sources(parts):
        values = _values(operation.outputs[0], {tensor.name: _POINTS}, _DEEPEST)
        for function, rule in _KNOWN if values is not None else ():
            if np.max(np.abs(values - function(_POINTS))) < 1e-5:
                return Plan([tensor], rule)
    return None


def _cone(operation):
    """The operations behind this one that functions are made of."""
    found, stack = [], [operation]
    while stack and len(found) < _MOST_PARTS:
        part = stack.pop()
        if part.type in _PARTS and not any(part is known for known in found):
            found.append(part)
            stack.extend(x.op for x in part.inputs)
    return found


def _sources(parts):
    """Tensors of the full shape that two of the parts read: what the function may be one of."""
    shape = parts[0].outputs[0].shape
    readers = {}
    for part in parts:
        for x in part.inputs:
            readers.setdefault(x.name, []).append(x)
    return [xs[0] for xs in readers.values() if len(xs) > 1 and xs[0].shape == shape]


def _values(tensor, known, depth):
    """The values of a tensor, from `known` ones by name; `None` where it depends on more than those and numbers."""
    if tensor.name not in known:
        known[tensor.name] = _computed(tensor, known, depth)
    return known[tensor.name]


def _computed(tensor, known, depth):
    if tensor.op.type == "Const":
        return np.float64(tf.make_ndarray(tensor.op.get_attr("value"))) if tensor.shape.rank == 0 else None
    if tensor.op.type not in _PARTS or depth == 0:
        return None
    operands = [_values(x, known, depth - 1) for x in tensor.op.inputs]
    if any(x is None for x in operands):
        return None
    with np.errstate(all="ignore"):
        return _PARTS[tensor.op.type](*operands)
