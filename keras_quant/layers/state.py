"""The state of a recurrent layer, in float32 on a fixed-point grid."""

import functools

import keras
import numpy as np
from keras import ops

from keras_quant import backend
from keras_quant.errors import QuantizationError
from keras_quant.integer.params import INT8
from keras_quant.integer.state import Program, state_bits
from keras_quant.layers.activation import QuantSigmoid, QuantTanh
from keras_quant.layers.annotation import annotation
from keras_quant.quantizers import FixedGrid, StateRange, in_steps
from keras_quant.settings import InFloat32


@keras.saving.register_keras_serializable(package="keras_quant")
class StateUpdate(InFloat32, keras.layers.Layer):
    """A recurrent state after a step, from the state before it and from gates: `f·c + i·a`, `a + z·(h - a)`.

    In training it is plain float arithmetic. In inference the gates are integers whose scales are powers of two, and the
    state is rounded to multiples of `2**-k`, with `k` as large as float32 computes exactly: LiteRT has the same numbers in
    whatever order it adds. An 8-bit state could not decay slowly: steps below half a level would be rounded away. Lowered to
    float MUL, ADD and SUB.

    Inputs: the state, and the gates.

    Args:
        count: number of inputs.
        program: `steps` of `integer.state.Program`.
    """

    is_exact = True
    measures_output = True

    def __init__(self, count, program, **kwargs):
        super().__init__(**kwargs)
        self.count, self.program, self._gates = count, [list(step) for step in program], ()
        self.output_quantizer = StateRange(name="range")
        self.built = True

    @property
    def steps(self):
        """The `Program`."""
        return Program(self.count, self.program)

    def call(self, inputs, training=None):
        state = self.steps.results(inputs)[-1]
        if training and not backend.is_symbolic(state):
            self.output_quantizer.observe(state)
            return state
        in_integers = all(annotation(x) is not None for x in inputs[1:])
        return self.on_grid(state) if in_integers and not backend.is_symbolic(state) else state

    @property
    def has_grid(self):
        """Whether the gates are integers, so that the state has a grid."""
        return bool(self._gates) and None not in self._gates

    def on_grid(self, state):
        """A state rounded to the grid, and kept within its reach."""
        scale, reach = self.grid()
        return ops.clip(backend.round_half_even(state / scale) * scale, -reach, reach)

    def grid(self):
        """The step of the state's grid, a power of two, and how far it reaches, float32 scalars."""
        return in_steps.remembered(self, "grid", self._grid)

    def _grid(self):
        reaches, table = _table(self.count, tuple(map(tuple, self.program)), self._gates)
        place = ops.sum(ops.cast(backend.read(self.output_quantizer.reach) > reaches[:-1], "int32"))
        return ops.take(table, place), ops.take(reaches, place)

    def fixed_grid(self):
        """`grid` as floats, and whether what the program makes may lie outside the reach."""
        scale, reach = (float(ops.convert_to_numpy(x)) for x in self.grid())
        ranges = [(-reach, reach), *(_range(*gate) for gate in self._gates)]
        return scale, reach, self.steps.bounds(ranges)[-1] > reach

    def compute_output_spec(self, inputs, training=None):
        notes = [annotation(x) for x in inputs[1:]]
        self._gates = tuple(None if note is None else _fixed_grid(note.quantizer) for note in notes)
        return keras.KerasTensor(inputs[0].shape, "float32")

    def compute_output_shape(self, input_shape):
        return input_shape[0]

    def get_config(self):
        return {**super().get_config(), "count": self.count, "program": self.program}


# The grids that the format prescribes for what functions make.
FIXED_GRIDS = {keras.activations.sigmoid: QuantSigmoid.fixed_grid, keras.activations.tanh: QuantTanh.fixed_grid}
# Powers of two that a state may reach.
REACHES = 2.0 ** np.arange(-10, 17)


def _fixed_grid(quantizer):
    """Scale and zero point of a gate's grid, which the format prescribes."""
    if not isinstance(quantizer, FixedGrid):
        raise QuantizationError(
            "A state on a fixed-point grid takes gates whose grid the format prescribes, such as those of a sigmoid. "
            f"Received: {type(quantizer).__name__}"
        )
    return quantizer.scale, quantizer.zero_point


def _range(scale, zero_point):
    return scale * (INT8.low - zero_point), scale * (INT8.high - zero_point)


def has_table(count, program, gates):
    """Whether a state with this update has a grid beside gates on grids of these scales and zero points."""
    return bool(_grids(count, tuple(map(tuple, program)), tuple(gates)))


def _table(count, program, gates):
    """Reaches and the grid's step at each, float32 arrays."""
    return tuple(np.float32(column) for column in zip(*_grids(count, program, gates)))


@functools.cache
def _grids(count, program, gates):
    """Pairs of a reach and the grid's step, of those reaches that have a grid."""
    exponents = [-int(np.log2(scale)) for scale, _ in gates]
    ranges = [_range(*gate) for gate in gates]
    found = [(reach, state_bits(Program(count, program), reach, exponents, ranges)) for reach in REACHES]
    return [(reach, 2.0**-bits) for reach, bits in found if bits is not None]
