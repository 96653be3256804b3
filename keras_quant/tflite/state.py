"""Rule for states on a fixed-point grid: float MUL, ADD and SUB, and the sum and difference that round."""

import dataclasses

import numpy as np

from keras_quant.layers.state import StateUpdate
from keras_quant.tflite.lower import lowers_float

_OPERATORS = {"multiply": "MUL", "add": "ADD", "subtract": "SUB"}
_OPTIONS = {"MUL": "MulOptions", "ADD": "AddOptions", "SUB": "SubOptions"}


@lowers_float(StateUpdate)
def update(lowering, layer, inputs, output):
    values = list(inputs)
    steps = layer.steps.steps
    for index, (name, left, right) in enumerate(steps):
        last = index == len(steps) - 1 and not layer.has_grid
        operands = [_operand(lowering, values, x, output) for x in (left, right)]
        values.append(_elementwise(lowering, _OPERATORS[name], operands, output, None if last else name))
    return on_grid(lowering, layer, values[-1], output) if layer.has_grid else values[-1]


def on_grid(lowering, layer, x, output, is_free=None):
    """A state rounded to the grid of a `StateUpdate`, and kept within its reach, if it `is_free` to leave it."""
    scale, reach, may_leave = layer.fixed_grid()
    is_free = may_leave if is_free is None else is_free
    number = _number(lowering, output, "rounding", 1.5 * 2.0**23 * scale)
    x = _elementwise(lowering, "ADD", [x, number], output, "shifted")
    x = _elementwise(lowering, "SUB", [x, number], output, "rounded" if is_free else None)
    if not is_free:
        return x
    for name, bound, last in (("MINIMUM", reach, "clipped"), ("MAXIMUM", -reach, None)):
        y = lowering.activation(output, last)
        bound = _number(lowering, output, "bound", bound)
        lowering.operator(name, [x, bound], y, 1, (1, 9, 0), "MaximumMinimumOptions")
        x = y
    return x


def _operand(lowering, values, x, output):
    return _number(lowering, output, "constant", x) if isinstance(x, float) else values[x]


def _number(lowering, output, name, value):
    shape = (1,) * (1 + len(output.shape))
    return lowering.writer.constant(f"{output.name}/{name}", np.full(shape, value, np.float32))


def _elementwise(lowering, operator, operands, output, name):
    y = lowering.activation(dataclasses.replace(output, params=None), name)
    lowering.operator(operator, operands, y, 1, (1, 5, 0), _OPTIONS[operator])
    return y
