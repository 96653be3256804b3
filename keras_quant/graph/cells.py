"""One step of recurrent layers, as Functional float models.

Keras's own cells are written for integers: what depends on a sequence alone has a layer of its own, apart from what depends
on the states, so that it can be computed for all steps at once; what the gates' sigmoids and the candidate's tanh read has a
grid each. Any other cell is called.
"""

import keras
import numpy as np
from keras import layers, tree
from keras.src.layers.rnn.conv_lstm import ConvLSTMCell

from keras_quant.layers.loop import StepDropout
from keras_quant.layers.state import StateUpdate

STEPS = {}
# A step's new state from its inputs, as `integer.state.Program` has it: f·c + i·a, and a + z·(h - a).
LSTM_STATE = [("multiply", 1, 0), ("multiply", 2, 3), ("add", 4, 5)]
GRU_STATE = [("subtract", 0, 2), ("multiply", 1, 3), ("add", 2, 4)]


def step_of(cell, x, states, exact=True, prefix=""):
    """One step of a built cell.

    Args:
        cell: Keras layer.
        x: symbolic step of the sequence.
        states: list of symbolic states, flat.
        exact: whether states that decay may be real numbers on a fixed-point grid.
        prefix: of the new layers' names.

    Returns:
        The symbolic output, and the flat list of new states.
    """
    make = STEPS.get(type(cell), _called)
    return make(cell, x, states, exact and _has_exact_state(cell), prefix)


def first_states(cell):
    """Zeros in the structure in which a cell takes its states, with a batch of one.

    Raises:
        ValueError: where they are no zeros.
    """
    own = getattr(cell, "get_initial_state", None)
    if own is not None:
        states = own(batch_size=1)
    else:
        shape = lambda size: (1, size) if isinstance(size, int) else (1, *size)
        states = tree.map_structure(lambda size: keras.ops.zeros(shape(size)), cell.state_size)
    arrays = [keras.ops.convert_to_numpy(x) for x in tree.flatten(states)]
    if any(np.any(array) for array in arrays):
        raise ValueError("The cell's first states are not zero.")
    return states if tree.is_nested(states) else [states]


def _has_exact_state(cell):
    """Whether a cell's gates have grids whose scales are powers of two, so that its state can be fixed-point numbers."""
    gates = keras.activations.sigmoid, keras.activations.tanh
    return (getattr(cell, "recurrent_activation", gates[0]), getattr(cell, "activation", gates[1])) == gates


def _steps_of(*cells):
    def decorate(function):
        STEPS.update(dict.fromkeys(cells, function))
        return function

    return decorate


@_steps_of(layers.LSTMCell, ConvLSTMCell)
def _lstm(cell, x, states, exact, prefix):
    h, c = states
    n = cell.filters if isinstance(cell, ConvLSTMCell) else cell.units
    # Keras's order is input, forget, candidate, output.
    gates, candidate = np.r_[: 2 * n, 3 * n : 4 * n], np.r_[2 * n : 3 * n]
    dropped = _dropped(cell, h, prefix)
    both = _sum(cell, prefix + "gates", gates, x, dropped)
    both = layers.Activation(cell.recurrent_activation, name=prefix + "gates")(both)
    i, f, o = (_channels(cell, both, k * n, (k + 1) * n) for k in range(3))
    a = _sum(cell, prefix + "candidate", candidate, x, dropped)
    a = layers.Activation(cell.activation, name=prefix + "candidate")(a)
    c = _update(LSTM_STATE, [c, f, i, a], exact, prefix + "cell")
    shown = layers.Activation(cell.activation, name=prefix + "cell_activation")(c)
    h = layers.Multiply(name=prefix + "output")([o, shown])
    return h, [h, c]


@_steps_of(layers.GRUCell)
def _gru(cell, x, states, exact, prefix):
    (h,) = states
    n = cell.units
    # Keras's order is update, reset, candidate.
    gates, last = np.r_[: 2 * n], np.r_[2 * n : 3 * n]
    dropped = _dropped(cell, h, prefix)
    both = _sum(cell, prefix + "gates", gates, x, dropped)
    both = layers.Activation(cell.recurrent_activation, name=prefix + "gates")(both)
    z, r = _channels(cell, both, 0, n), _channels(cell, both, n, 2 * n)
    of_input, of_state = _biases(cell)
    own = _product(cell, prefix + "candidate_input", last, x, cell.kernel, of_input)
    kernel, name = cell.recurrent_kernel, prefix + "candidate_recurrent"
    if cell.reset_after:
        inner = _product(cell, name, last, dropped, kernel, of_state)
        inner = layers.Multiply(name=prefix + "reset")([r, inner])
    else:
        inner = _product(cell, name, last, layers.Multiply(name=prefix + "reset")([r, dropped]), kernel)
    both = layers.Add(name=prefix + "candidate_sum")([own, inner])
    a = layers.Activation(cell.activation, name=prefix + "candidate")(both)
    h = _update(GRU_STATE, [h, z, a], exact, prefix + "state")
    return h, [h]


@_steps_of(layers.SimpleRNNCell)
def _simple(cell, x, states, exact, prefix):
    total = _sum(cell, prefix + "state", np.r_[: cell.units], x, _dropped(cell, states[0], prefix))
    h = layers.Activation(cell.activation, name=prefix + "state")(total)
    return h, [h]


@_steps_of(layers.StackedRNNCells)
def _stacked(cell, x, states, exact, prefix):
    made, rest = [], list(states)
    for index, inner in enumerate(cell.cells):
        count = len(tree.flatten(first_states(inner)))
        dropout = getattr(inner, "dropout", 0)
        x = layers.Dropout(dropout, name=f"{prefix}dropout_{index}")(x) if dropout and index else x
        x, new = step_of(inner, x, rest[:count], exact, f"{prefix}cell_{index}.")
        made, rest = made + new, rest[count:]
    return x, made


def _called(cell, x, states, exact, prefix):
    """What a cell's own `call` does."""
    outputs = _Called(cell, name=f"{prefix}step")([x, *states])
    return outputs[0], list(outputs[1:])


class _Called(keras.layers.Layer):
    """A cell as a layer of flat lists: `[x, *states]` → `[output, *states]`."""

    def __init__(self, cell, **kwargs):
        super().__init__(**kwargs)
        self.cell = cell
        self.structure = tree.map_structure(lambda _: 0, first_states(cell))

    def call(self, inputs):
        x, *states = inputs
        output, new = self.cell(x, tree.pack_sequence_as(self.structure, states))
        return [output, *tree.flatten(new)]


def _update(program, inputs, exact, name):
    if exact:
        return StateUpdate(len(inputs), program, name=name)(inputs)
    kinds = {"multiply": layers.Multiply, "add": layers.Add, "subtract": layers.Subtract}
    made = list(inputs)
    for index, (kind, *operands) in enumerate(program):
        made.append(kinds[kind](name=f"{name}_{index}")([made[i] for i in operands]))
    return made[-1]


def _dropped(cell, h, prefix):
    """The state with what training leaves out of it, the same in all steps."""
    rate = cell.recurrent_dropout
    return StepDropout(rate, seed=getattr(cell, "seed", None), name=prefix + "recurrent_dropout")(h) if rate else h


def _sum(cell, name, columns, x, h):
    """What some of a cell's gates read: one product for the sequence's step, and one for the state."""
    bias = None if cell.bias is None else sum(_biases(cell))
    own = _product(cell, name + "_input", columns, x, cell.kernel, bias)
    recurrent = _product(cell, name + "_recurrent", columns, h, cell.recurrent_kernel)
    return layers.Add(name=name + "_sum")([own, recurrent])


def _biases(cell):
    """Those of the input and of the state."""
    if cell.bias is None:
        return None, None
    bias = keras.ops.convert_to_numpy(cell.bias)
    return tuple(bias) if bias.ndim == 2 else (bias, np.zeros_like(bias))


def _channels(cell, x, begin, end):
    """Some channels of a tensor."""
    first = getattr(cell, "data_format", None) == "channels_first"
    return x[:, begin:end] if first else x[..., begin:end]


def _product(cell, name, columns, x, kernel, bias=None):
    """The layer of some columns of a cell's kernel, trained as the cell would train them."""
    of_state = kernel is cell.recurrent_kernel
    role = "recurrent" if of_state else "kernel"
    arguments = {
        "use_bias": bias is not None,
        "kernel_regularizer": getattr(cell, f"{role}_regularizer"),
        "kernel_constraint": getattr(cell, f"{role}_constraint"),
        "bias_regularizer": cell.bias_regularizer,
        "bias_constraint": cell.bias_constraint,
        "trainable": cell.trainable,
        "name": name,
    }
    if isinstance(cell, ConvLSTMCell):
        arguments |= {"kernel_size": cell.kernel_size, "data_format": cell.data_format}
        own = {"strides": cell.strides, "padding": cell.padding, "dilation_rate": cell.dilation_rate}
        arguments |= {"padding": "same"} if of_state else own
        layer = getattr(layers, f"Conv{cell.rank}D")(len(columns), **arguments)
    else:
        layer = layers.Dense(len(columns), **arguments)
    outputs = layer(x)
    layer.set_weights([keras.ops.convert_to_numpy(kernel)[..., columns], *([] if bias is None else [bias[columns]])])
    return outputs
