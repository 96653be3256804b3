"""Arithmetic with constants and variables, `x * 2 + 1`, becomes layers."""

import dataclasses

import keras
import numpy as np
from keras.src.ops import numpy as knp

from keras_quant import layers
from keras_quant.errors import UnsupportedLayerError
from keras_quant.graph.explain import location
from keras_quant.graph.expressions import array_of, expression_of, hold, is_expression, is_weight, mapped, trains
from keras_quant.graph.graph import Value

ARITHMETIC = {}


def _arithmetic(*names):
    def decorate(function):
        ARITHMETIC.update({getattr(knp, name): function for name in names if hasattr(knp, name)})
        return function

    return decorate


def is_arithmetic(operation):
    """Whether the operation, with a constant, becomes a layer here."""
    return type(operation) in ARITHMETIC


def lift_constants(graph):
    """An operation between a tensor and a constant becomes a layer that holds the constant.

        multiply(x, 2.0) → add(·, bias)      ⟹      rescaling(2, 0) → scale_shift(offset=bias)

    A keras variable stays trainable. What no layer computes stays as it is; `layers_with_constant` says why.
    """
    nodes = []
    for node in graph.nodes:
        try:
            made = [] if node.policy.computes_in_float else layers_with_constant(node)
        except UnsupportedLayerError:
            made = []
        if not made:
            nodes.append(node)
            continue
        *first, last = made
        (value,) = node.inputs
        for index, layer in enumerate(first):
            shape = tuple(layer.compute_output_shape(value.shape))
            between = Value(shape, value.dtype, f"{node.path}_{index}", rows=value.rows)
            nodes.append(dataclasses.replace(node, operation=layer, path=between.name, args=(value,), outputs=between))
            value = between
        nodes.append(dataclasses.replace(node, operation=last, args=(value,), kwargs={}))
    return dataclasses.replace(graph, nodes=nodes)


def layers_with_constant(node):
    """The layers that an operation between a tensor and a constant becomes; none for any other node.

    Raises:
        UnsupportedLayerError: if there are none for this constant.
    """
    lifted = ARITHMETIC.get(type(node.operation))
    constants = [x for x in node.args if not _holds_values(x)]
    if lifted is None or not constants or not node.inputs:
        return []
    (value,) = node.inputs
    try:
        return lifted(value.shape, constants[0], constant_first=node.args[0] is not value)
    except UnsupportedLayerError as error:
        what = f"Operation '{node.path}' ({type(node.operation).__name__}){location(node)}"
        raise UnsupportedLayerError(f"{what}: {error}") from None


def _holds_values(x):
    return any(isinstance(leaf, Value) for leaf in keras.tree.flatten(x))


@_arithmetic("Add")
def _add(shape, constant, constant_first):
    return _sum(shape, constant)


@_arithmetic("Subtract")
def _subtract(shape, constant, constant_first):
    if constant_first:
        return [layers.QuantRescaling(-1.0), *_sum(shape, constant)]
    return _sum(shape, mapped(constant, lambda x: -x))


@_arithmetic("Multiply")
def _multiply(shape, constant, constant_first):
    return _product(shape, constant)


@_arithmetic("Divide", "TrueDivide")
def _divide(shape, constant, constant_first):
    if constant_first:
        return [layers.QuantTable("reciprocal"), *_product(shape, constant)]
    return _product(shape, mapped(constant, lambda x: 1.0 / x))


@_arithmetic("Maximum")
def _maximum(shape, constant, constant_first):
    array = array_of(constant)
    clips = array.size == 1 and array.max() <= 0 and not trains(constant)
    return [layers.QuantClip(low=float(array.max()))] if clips else _beyond(1.0, shape, constant)


@_arithmetic("Minimum")
def _minimum(shape, constant, constant_first):
    array = array_of(constant)
    clips = array.size == 1 and array.min() >= 0 and not trains(constant)
    return [layers.QuantClip(high=float(array.min()))] if clips else _beyond(-1.0, shape, constant)


def _beyond(sign, shape, constant):
    """`c + sign · relu(sign · (x - c))`: the larger of the two, or, with -1.0, the smaller one."""
    constant = expression_of(constant)
    if is_expression(constant) or not per_channel(array_of(constant), shape):
        below = mapped(constant, lambda x: -x)
        turned = _sum(shape, below) if sign > 0 else [layers.QuantRescaling(-1.0), *_sum(shape, constant)]
        back = [layers.QuantRescaling(-1.0)] if sign < 0 else []
        return [*turned, keras.layers.ReLU(), *back, *_sum(shape, constant)]
    limits = _flat(array_of(constant))
    return [layers.QuantRescaling(sign, -sign * limits), keras.layers.ReLU(), layers.QuantRescaling(sign, limits)]


@_arithmetic("Power")
def _power(shape, constant, constant_first):
    if constant_first:
        return [*_product(shape, mapped(constant, np.log, keras.ops.log)), layers.QuantTable("exponential")]
    exponent = _scalar(constant)
    return [layers.QuantSquare() if exponent == 2 else layers.QuantPower(exponent)]


@_arithmetic("DivideNoNan")
def _divide_no_nan(shape, constant, constant_first):
    if constant_first:
        return [layers.QuantTable("reciprocal_no_nan"), *_product(shape, constant)]
    array = array_of(constant)
    return _product(shape, np.divide(1.0, array, out=np.zeros_like(array), where=array != 0))


@_arithmetic("Ldexp")
def _load_exponent(shape, constant, constant_first):
    if constant_first:
        return [layers.QuantTable("exp2"), *_product(shape, constant)]
    return _product(shape, mapped(constant, lambda x: 2.0**x))


def _by_table(name):
    """A function of two values, one of which is a number: a table."""

    def lifted(shape, constant, constant_first):
        return [layers.QuantTable(name, arguments={"other": _scalar(constant), "other_first": constant_first})]

    return lifted


for _class, _name in {
    "Arctan2": "arctan2",
    "FloorDivide": "floor_divide",
    "Fmod": "fmod",
    "Heaviside": "heaviside",
    "Hypot": "hypot",
    "Logaddexp": "logaddexp",
    "Logaddexp2": "logaddexp2",
    "Mod": "mod",
}.items():
    _arithmetic(_class)(_by_table(_name))


def _sum(shape, constant):
    array = array_of(constant)
    if not per_channel(array, shape):
        return [_with_constant(layers.QuantAddConstant, shape, constant)]
    if not is_weight(constant):
        return [layers.QuantRescaling(1.0, _flat(array))]
    return [_holding(layers.QuantScaleShift(use_scale=False), "offset", constant, shape)]


def _product(shape, constant):
    array = array_of(constant)
    if not per_channel(array, shape):
        return [_with_constant(layers.QuantMultiplyConstant, shape, constant)]
    if not is_weight(constant):
        return [layers.QuantRescaling(_flat(array))]
    return [_holding(layers.QuantScaleShift(use_offset=False), "scale", constant, shape)]


def _with_constant(cls, shape, constant):
    array = array_of(constant)
    full = (1,) * (len(shape) - array.ndim) + array.shape
    if len(full) > len(shape) or full[0] != 1:
        raise UnsupportedLayerError(
            f"its constant of shape {array.shape} puts other dimensions before, or in, the batch of a tensor of shape "
            f"{shape}. Give the constant as many dimensions as the tensor, the first of them 1."
        )
    return _holding(cls(full), "constant", constant, shape)


def _holding(layer, name, constant, shape):
    """The layer, built, with a constant in its weight of that name."""
    layer.build(shape)
    hold(layer, name, constant)
    layer.trainable = trains(constant)
    return layer


def per_channel(array, shape):
    """Whether an array is one value, or one a channel, beside tensors of this shape."""
    full = (1,) * (len(shape) - array.ndim) + array.shape
    return len(full) == len(shape) and full[-1] in (1, shape[-1]) and all(size == 1 for size in full[:-1])


def _flat(array):
    return array.reshape(-1) if array.size > 1 else float(array.reshape(()))


def _scalar(constant):
    array = array_of(constant)
    if array.size != 1:
        raise UnsupportedLayerError(f"on int8 it takes a tensor and one number. Received: shape {array.shape}")
    return float(array.reshape(()))
