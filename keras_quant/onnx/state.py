"""Rules for states on a fixed-point grid: float Mul, Add and Sub, and Round."""

import numpy as np

from keras_quant.layers.state import StateUpdate
from keras_quant.onnx.lower import lowers_float
from keras_quant.onnx.lowering import Made

_OPERATORS = {"multiply": "Mul", "add": "Add", "subtract": "Sub"}


@lowers_float(StateUpdate)
def update(lowering, layer, inputs, output):
    names, first = lowering.alike(inputs)
    for name, *pair in layer.steps.steps:
        operands = [lowering.constant("constant", np.float32(x)) if isinstance(x, float) else names[x] for x in pair]
        names.append(lowering.node(_OPERATORS[name], operands))
    return Made(on_grid(lowering, layer, names[-1]) if layer.has_grid else names[-1], first)


def on_grid(lowering, layer, x, is_free=None):
    """A state rounded to the grid of a `StateUpdate`, and kept within its reach, if it `is_free` to leave it.

    The grid's step is a power of two, so nothing but Round rounds.
    """
    scale, reach, may_leave = layer.fixed_grid()
    number = lambda name, value: lowering.constant(name, np.float32(value))
    steps = lowering.node("Round", [lowering.node("Mul", [x, number("steps", 1 / scale)])])
    x = lowering.node("Mul", [steps, number("step", scale)], "rounded")
    if may_leave if is_free is None else is_free:
        x = lowering.node("Clip", [x, number("lowest", -reach), number("highest", reach)], "clipped")
    return x
