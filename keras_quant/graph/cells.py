"""One step of Keras's recurrent layers, written for integers, as Functional float models.

What depends on a sequence alone has a layer of its own, apart from what depends on the states, so that it can be computed
for all steps at once; and what the gates' sigmoids and the candidate's tanh read has a grid each.
"""

import keras
import numpy as np
from keras import layers as L

from keras_quant.layers.state import StateUpdate

STEPS = {}


def steps_of(*cells):
    """Decorator: the function `(cell, x, states, exact)` makes a step of these cells: `(output, [states])`."""

    def decorate(function):
        STEPS.update(dict.fromkeys(cells, function))
        return function

    return decorate


def has_exact_state(cell):
    """Whether a cell's gates have grids whose scales are powers of two, so that its state can be fixed-point numbers."""
    gates = keras.activations.sigmoid, keras.activations.tanh
    return (getattr(cell, "recurrent_activation", gates[0]), getattr(cell, "activation", gates[1])) == gates


@steps_of(L.LSTMCell)
def _lstm(cell, x, states, exact):
    h, c = states
    n = cell.units
    # Keras's order is input, forget, candidate, output.
    order = np.r_[: 2 * n, 3 * n : 4 * n], np.r_[2 * n : 3 * n]
    sums = [_sum(cell, name, columns, x, h) for name, columns in zip(("gates", "candidate"), order)]
    gates = L.Activation(cell.recurrent_activation, name="gates")(sums[0])
    i, f, o = (gates[..., k * n : (k + 1) * n] for k in range(3))
    a = L.Activation(cell.activation, name="candidate")(sums[1])
    program = [("multiply", 1, 0), ("multiply", 2, 3), ("add", 4, 5)]
    c = _update(program, [c, f, i, a], exact, "cell")
    h = L.Multiply(name="output")([o, L.Activation(cell.activation, name="cell_activation")(c)])
    return h, [h, c]


@steps_of(L.GRUCell)
def _gru(cell, x, states, exact):
    (h,) = states
    n = cell.units
    # Keras's order is update, reset, candidate.
    gates, last = np.r_[: 2 * n], np.r_[2 * n : 3 * n]
    both = L.Activation(cell.recurrent_activation, name="gates")(_sum(cell, "gates", gates, x, h))
    z, r = both[..., :n], both[..., n:]
    own = _dense(cell, "candidate", last, x, cell.kernel, _biases(cell)[0])
    if cell.reset_after:
        inner = _dense(cell, "recurrent_candidate", last, h, cell.recurrent_kernel, _biases(cell)[1])
        inner = L.Multiply(name="reset")([r, inner])
    else:
        inner = L.Multiply(name="reset")([r, h])
        inner = _dense(cell, "recurrent_candidate", last, inner, cell.recurrent_kernel)
    a = L.Activation(cell.activation, name="candidate_activation")(L.Add(name="candidate_sum")([own, inner]))
    program = [("subtract", 0, 2), ("multiply", 1, 3), ("add", 2, 4)]
    h = _update(program, [h, z, a], exact, "state")
    return h, [h]


@steps_of(L.SimpleRNNCell)
def _simple(cell, x, states, exact):
    h = L.Activation(cell.activation, name="state")(_sum(cell, "state", np.r_[: cell.units], x, states[0]))
    return h, [h]


def _update(program, inputs, exact, name):
    if exact:
        return StateUpdate(len(inputs), program, name=name)(inputs)
    layers = {"multiply": L.Multiply, "add": L.Add, "subtract": L.Subtract}
    made = list(inputs)
    for index, (kind, *operands) in enumerate(program):
        made.append(layers[kind](name=f"{name}_{index}")([made[i] for i in operands]))
    return made[-1]


def _sum(cell, name, columns, x, h):
    """What some of a cell's gates read: one product for the sequence's step, and one for the state."""
    bias = None if cell.bias is None else sum(_biases(cell))
    own = _dense(cell, name + "_input", columns, x, cell.kernel, bias)
    recurrent = _dense(cell, name + "_recurrent", columns, h, cell.recurrent_kernel)
    return L.Add(name=name + "_sum")([own, recurrent])


def _biases(cell):
    """Those of the input and of the state."""
    if cell.bias is None:
        return None, None
    bias = keras.ops.convert_to_numpy(cell.bias)
    return tuple(bias) if bias.ndim == 2 else (bias, np.zeros_like(bias))


def _dense(cell, name, columns, x, kernel, bias=None):
    of_state = kernel is cell.recurrent_kernel
    role = "recurrent" if of_state else "kernel"
    layer = L.Dense(
        len(columns),
        use_bias=bias is not None,
        kernel_regularizer=getattr(cell, f"{role}_regularizer"),
        kernel_constraint=getattr(cell, f"{role}_constraint"),
        bias_regularizer=cell.bias_regularizer,
        bias_constraint=cell.bias_constraint,
        name=name,
    )
    outputs = layer(x)
    values = [keras.ops.convert_to_numpy(kernel)[:, columns]] + ([] if bias is None else [bias[columns]])
    layer.set_weights(values)
    return outputs
