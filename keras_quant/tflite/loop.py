"""Rule for loops over the steps of a sequence: WHILE, with the step's operators in its body, or one step after the other.

XNNPACK takes the operators of the body, too. A round takes several steps where the weights of all of them stay in the
cache; short sequences are written out, which needs no loop, but packs the weights for each step anew.
"""

import dataclasses
import math

import numpy as np
from keras import tree

from keras_quant.errors import ExportError
from keras_quant.graph.loops import inner_path
from keras_quant.layers.loop import Loop, StepInput
from keras_quant.tflite import state as states_rule
from keras_quant.tflite.lower import Lowering, lower_nodes, lowers, lowers_float
from keras_quant.tflite.writer import Tensor, TensorType

# As measured: up to how many steps are written out, how many make up a round, and how large their weights may be then.
MOST_WRITTEN_OUT, MOST_IN_ROUND, CACHED_BYTES = 16, 8, 500_000


@lowers(StepInput)
def step_input(lowering, layer, x, output):
    return x


@lowers_float(Loop)
def loop(lowering, layer, inputs, outputs):
    if lowering.writer.batch_size is None:
        raise ExportError(
            f"Layer '{lowering.path}' is recurrent, and its states have the size of the batch. Export with a fixed "
            "`batch_size`."
        )
    sequences, first = inputs[: layer.sequences], inputs[layer.sequences :]
    length = sequences[0].shape[1]
    form = _Unrolled if layer.unroll or length <= MOST_WRITTEN_OUT else _While
    return form(lowering, layer, sequences, first, outputs).made()


class _Form:
    """What both forms share.

    Args:
        lowering: `Lowering`.
        layer: `Loop`.
        sequences, first: `Tensor`s that the loop reads, and of first states.
        outputs: list of `Output`: of all steps or the last one, and of the last states if the layer returns them.

    Attributes:
        batch: the first dimension of states: of all samples, and all rows of each.
    """

    def __init__(self, lowering, layer, sequences, first, outputs):
        self.lowering, self.layer, self.outputs = lowering, layer, outputs
        self.sequences, self.length = sequences, sequences[0].shape[1]
        self.graph, self.path = layer.traced.graph, lowering.path
        self.batch = lowering.writer.batch_size * outputs[0].rows
        self.first = [self._first_state(index, x) for index, x in enumerate(first or [None] * layer.states)]

    def named(self, name):
        """The first `Output`, for tensors of real numbers beside it."""
        return dataclasses.replace(self.outputs[0], name=f"{self.path}/{name}", params=None)

    def _first_state(self, index, given):
        value = self.graph.inputs[self.layer.sequences + index]
        entrance, update = self.layer.entrances.get(self.layer.sequences + index), self.layer.update_of(index)
        shape = (self.batch, *value.shape[1:])
        if given is None:
            return self._zeros(f"state_{index}", shape, None if entrance is None else entrance.grid.params().stored)
        if entrance is not None or self.layer.is_continued:
            return given
        given = self.lowering.real(given)
        if update is None or not update.has_grid:
            return given
        output = dataclasses.replace(self.named(f"first_{index}"), shape=value.shape[1:])
        return states_rule.on_grid(self.lowering, update, given, output, is_free=True)

    def _zeros(self, name, shape, params):
        """A constant tensor of zeros, real for `None` or on a grid."""
        writer, name = self.lowering.writer, f"{self.path}/{name}"
        if params is None:
            return Tensor(writer.constant(name, np.zeros(shape, np.float32)), name, shape, kind=TensorType.FLOAT32)
        return zeros_on(writer, name, shape, params)

    def step(self, lowering, inputs):
        """Write the operators of one step; returns what it gives: the output, and the states."""
        lowering.tensors = dict(zip(self.graph.inputs, inputs))
        lowering.moved, outside = {}, (lowering.path_of, lowering.writer.batch_size)
        lowering.path_of = lambda path: inner_path(self.path, path, self.layer.name)
        lowering.writer.batch_size = self.batch  # the step's graph knows nothing of rows
        lower_nodes(lowering, self.graph.nodes)
        lowering.path_of, lowering.writer.batch_size = outside
        return [lowering.tensors[v] for v in tree.flatten(self.graph.outputs)]

    def cut(self, lowering, x, place, name, shape):
        """One step of a sequence `(batch, length, ...)`, as `(batch, ...)`."""
        if x.shape[1] == 1:
            return reshaped(lowering, x, f"{self.path}/{name}_step", (x.shape[0], *shape))
        begin, end = [0] * len(x.shape), list(x.shape)
        begin[1], end[1] = place, place + 1
        y = like(lowering.writer, f"{self.path}/{name}", (x.shape[0], 1, *shape), x)
        ints = lambda values: lowering.writer.constant(f"{self.path}/{name}_cut", np.asarray(values, np.int32))
        ends = ints(begin), ints(end), ints([1] * len(begin))
        lowering.operator("STRIDED_SLICE", [x, *ends], y, 2, (1, 14, 0), "StridedSliceOptions")
        return reshaped(lowering, y, f"{self.path}/{name}_step", (x.shape[0], *shape))


class _Unrolled(_Form):
    def made(self):
        lowering, states, made = self.lowering, self.first, []
        own = lowering.tensors, lowering.moved, lowering.writer.shares_weights
        lowering.writer.shares_weights = True
        order = range(self.length)[::-1] if self.layer.go_backwards else range(self.length)
        for place in order:
            xs = [self.cut(lowering, x, place, f"sequence_{i}", x.shape[2:]) for i, x in enumerate(self.sequences)]
            output, *states = self.step(lowering, [*xs, *states])
            made.append(output)
        lowering.tensors, lowering.moved, lowering.writer.shares_weights = own
        lowering.path = self.path
        output = made[-1]
        if self.layer.return_sequences:
            output = self._joined(made)
        return [output, *states][: len(self.outputs)]

    def _joined(self, made):
        """All outputs, side by side along the length."""
        lowering, shape = self.lowering, made[0].shape
        made = [reshaped(lowering, x, f"{self.path}/step_{i}", (shape[0], 1, *shape[1:])) for i, x in enumerate(made)]
        if len(made) == 1:
            return made[0]
        y = like(lowering.writer, self.path, (shape[0], len(made), *shape[1:]), made[0])
        return joined(lowering, made, y, 1)


class _While(_Form):
    @property
    def steps(self):
        """How many steps a round takes."""
        weights = sum(math.prod(v.shape) for v in self.layer.step.trainable_variables)
        fits = [n for n in range(1, MOST_IN_ROUND + 1) if self.length % n == 0 and (n == 1 or n * weights < CACHED_BYTES)]
        return max(fits)

    def made(self):
        steps, lowering = self.steps, self.lowering
        rounds = self.length // steps
        writer = lowering.writer
        buffers = [self._by_rounds(x, i, rounds) for i, x in enumerate(self.sequences)]
        count = Tensor(writer.constant(f"{self.path}/count", np.zeros(1, np.int32)), "count", (1,), kind=TensorType.INT32)
        first = [count, *buffers, *self.first]
        if self.layer.return_sequences:
            first.append(self._room(rounds, steps))
        elif self._place_of_output is None:
            first.append(self._room_for_last())
        enter = lambda to: [like(to, f"{self.path}/carried_{i}", x.shape, x) for i, x in enumerate(first)]
        test, body = self._test(enter, rounds), self._body(enter, steps, len(buffers))
        last = enter(writer)
        lowering.path = self.path
        writer.loop(first, last, test, body)
        lowering.layers.update({x.name: self.path for x in last})
        states = last[1 + len(buffers) : 1 + len(buffers) + self.layer.states]
        place = self._place_of_output
        output = self._all(last[-1]) if self.layer.return_sequences else last[-1] if place is None else states[place]
        return [output, *states][: len(self.outputs)]

    def _by_rounds(self, x, index, rounds):
        """A sequence as one row for each round."""
        lowering = self.lowering
        if x.shape[0] > 1:
            x = swapped(lowering, x, f"{self.path}/sequence_{index}")
        return reshaped(lowering, x, f"{self.path}/rounds_{index}", (rounds, math.prod(x.shape) // rounds))

    def _room(self, rounds, steps):
        """What outputs are written into."""
        output = self.outputs[0]
        size = steps * self.batch * math.prod(output.shape[1:])
        return self._zeros("room", (rounds, size), output.params)

    def _room_for_last(self):
        output = self.outputs[0]
        return self._zeros("room", (self.batch, *output.shape), output.params)

    def _test(self, enter, rounds):
        lowering = Lowering(self.batch)
        carried = enter(lowering.writer)
        y = Tensor(*lowering.writer._tensor("goes_on", (1,), TensorType.BOOL, 0, None, None), (1,), kind=TensorType.BOOL)
        most = lowering.writer.constant("rounds", np.int32([rounds]))
        lowering.operator("LESS", [carried[0], most], y, 1, (1, 14, 0), "LessOptions")
        return lowering.writer, carried, [y]

    def _body(self, enter, steps, count):
        lowering = Lowering(self.batch)
        lowering.writer.shares_weights = True
        carried = enter(lowering.writer)
        at, buffers, states = carried[0], carried[1 : 1 + count], carried[1 + count : 1 + count + self.layer.states]
        place = self._place(lowering, at)
        rows = [self._row(lowering, x, place, i) for i, x in enumerate(buffers)]
        made = []
        for step in range(steps):
            inside = steps - 1 - step if self.layer.go_backwards else step
            xs = [self._part(lowering, x, inside, steps, i) for i, x in enumerate(rows)]
            output, *states = self.step(lowering, [*xs, *states])
            made.append(output)
        lowering.path = self.path
        after = integers(lowering, "after", (1,))
        one = lowering.writer.constant("one", np.int32([1]))
        lowering.operator("ADD", [at, one], after, 1, (1, 5, 0), "AddOptions")
        ends = [after, *buffers, *states]
        if self.layer.return_sequences:
            ends.append(self._written(lowering, carried[-1], made, at))
        elif self._place_of_output is None:
            ends.append(made[-1])
        return lowering.writer, carried, ends

    def _place(self, lowering, at):
        """The round's row in the sequences."""
        if not self.layer.go_backwards:
            return at
        place = integers(lowering, "place", (1,))
        last = lowering.writer.constant("last", np.int32([self.length // self.steps - 1]))
        lowering.operator("SUB", [last, at], place, 1, (1, 6, 0), "SubOptions")
        return place

    def _row(self, lowering, x, place, index):
        y = like(lowering.writer, f"row_{index}", (1, x.shape[1]), x)
        lowering.operator("GATHER", [x, place], y, *_gather_version(x), "GatherOptions", axis=0)
        return y

    def _part(self, lowering, row, step, steps, index):
        """One step's share of a round's row, as `(batch, ...)`."""
        size, shape = row.shape[1] // steps, self.graph.inputs[index].shape[1:]
        if steps > 1:
            y = like(lowering.writer, f"part_{index}", (1, size), row)
            ints = lambda values: lowering.writer.constant("cut", np.asarray(values, np.int32))
            ends = ints([0, step * size]), ints([1, (step + 1) * size]), ints([1, 1])
            lowering.operator("STRIDED_SLICE", [row, *ends], y, 2, (1, 14, 0), "StridedSliceOptions")
            row = y
        return reshaped(lowering, row, f"step_{index}", (size // math.prod(shape), *shape))

    def _written(self, lowering, room, made, at):
        made = [reshaped(lowering, x, "output_row", (1, math.prod(x.shape))) for x in made]
        row = (
            made[0] if len(made) == 1 else joined(lowering, made, like(lowering.writer, "row", (1, room.shape[1]), room), 1)
        )
        start, zero = integers(lowering, "start", (2,)), lowering.writer.constant("zero", np.int32([0]))
        lowering.operator("CONCATENATION", [at, zero], start, 1, (1, 5, 0), "ConcatenationOptions", axis=0)
        y = like(lowering.writer, "written", room.shape, room)
        lowering.operator("DYNAMIC_UPDATE_SLICE", [room, row, start], y, 1, (2, 9, 0))
        return y

    def _all(self, room):
        """The outputs of all steps, `(batch, length, ...)`."""
        output, lowering, batch = self.outputs[0], self.lowering, self.batch
        y = reshaped(lowering, room, f"{self.path}/all", (self.length, batch, *output.shape[1:]))
        if batch > 1:
            return swapped(lowering, y, self.path)
        return reshaped(lowering, y, self.path, (batch, self.length, *output.shape[1:]))

    @property
    def _place_of_output(self):
        """Which state the output is, if it is one."""
        output, *states = tree.flatten(self.graph.outputs)
        return next((i for i, v in enumerate(states) if v is output), None)


def zeros_on(writer, name, shape, params):
    """A constant of zeros on a grid."""
    scale, zero_point = np.float32(params.scale), int(params.zero_point)
    kind, dtype = (TensorType.INT16, np.int16) if params.type.storage == "int16" else (TensorType.INT8, np.int8)
    index = writer.constant(name, np.full(shape, zero_point, dtype), scale, zero_point=zero_point)
    return Tensor(index, name, tuple(shape), scale, zero_point, kind)


def like(writer, name, shape, x):
    """A new tensor of any shape on the grid, or of the kind, of another one."""
    scales, zeros = (None, None) if x.scale is None else ([x.scale], [x.zero_point])
    index, name = writer._tensor(name, shape, x.kind, 0, scales, zeros)
    return Tensor(index, name, tuple(shape), x.scale, x.zero_point, x.kind)


def integers(lowering, name, shape):
    """A new tensor of int32."""
    index, name = lowering.writer._tensor(name, shape, TensorType.INT32, 0, None, None)
    return Tensor(index, name, shape, kind=TensorType.INT32)


def reshaped(lowering, x, name, shape):
    """RESHAPE, where the shape is another one."""
    if tuple(x.shape) == tuple(shape):
        return x
    y = like(lowering.writer, name, shape, x)
    wanted = lowering.writer.constant(f"{name}_shape", np.asarray(shape, np.int32))
    lowering.operator("RESHAPE", [x, wanted], y, 1, (1, 5, 0), "ReshapeOptions", newShape=list(shape))
    return y


def swapped(lowering, x, name):
    """TRANSPOSE of the first two axes."""
    shape = (x.shape[1], x.shape[0], *x.shape[2:])
    y = like(lowering.writer, name, shape, x)
    order = lowering.writer.constant(f"{name}_order", np.int32([1, 0, *range(2, len(shape))]))
    lowering.operator("TRANSPOSE", [x, order], y, 2, (1, 14, 0), "TransposeOptions")
    return y


def joined(lowering, tensors, y, axis, most=5):
    """CONCATENATION of tensors on one grid, as many at a time as XNNPACK joins."""
    while len(tensors) > most:
        groups = [tensors[i : i + most] for i in range(0, len(tensors), most)]
        tensors = [_joined_once(lowering, g, axis, y) if len(g) > 1 else g[0] for g in groups]
    lowering.operator("CONCATENATION", tensors, y, 2, (1, 14, 0), "ConcatenationOptions", axis=axis)
    return y


def _joined_once(lowering, tensors, axis, y):
    shape = list(tensors[0].shape)
    shape[axis] = sum(t.shape[axis] for t in tensors)
    part = like(lowering.writer, f"{y.name}/part", shape, y)
    lowering.operator("CONCATENATION", tensors, part, 2, (1, 14, 0), "ConcatenationOptions", axis=axis)
    return part


def _gather_version(x):
    return {TensorType.BOOL: (1, (1, 5, 0)), TensorType.FLOAT32: (1, (1, 5, 0))}.get(x.kind, (2, (1, 14, 0)))
