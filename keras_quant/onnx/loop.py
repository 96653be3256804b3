"""Rule for loops over the steps of a sequence: Scan, with the step's nodes in its body.

Sequences and outputs keep the batch in front: Scan goes along their second axis. The body holds pairs of QuantizeLinear and
DequantizeLinear like any other graph, and ONNX Runtime fuses them there, too.
"""

import dataclasses

import numpy as np
from keras import ops, tree

from keras_quant.integer import QuantParams
from keras_quant.layers.loop import Loop, StepInput
from keras_quant.onnx import state as states_rule
from keras_quant.onnx.lower import lower_nodes, lowers, lowers_float
from keras_quant.onnx.lowering import Made, Tensor


@lowers(StepInput)
def step_input(lowering, layer, x, output):
    """Real numbers are what a step that is exported alone gets."""
    return x if x.params is not None else Made(lowering.real(x), x.first)


@lowers_float(Loop)
def loop(lowering, layer, inputs, outputs):
    return _Scan(lowering, layer, inputs, outputs).made()


@dataclasses.dataclass(frozen=True)
class _Carried:
    """What a step hands on to the next.

    Attributes:
        name: of it.
        shape: without the batch.
        params: `QuantParams`; `None` for real numbers.
        first: name of what the first step gets.
    """

    name: str
    shape: tuple
    params: QuantParams | None
    first: str


class _Scan:
    """A loop being written.

    Args:
        lowering: `Lowering`.
        layer: `Loop`.
        inputs: `Tensor`s: sequences, and first states if the layer takes them.
        outputs: list of `Output`: of all steps or the last one, and of the last states if the layer returns them.
    """

    def __init__(self, lowering, layer, inputs, outputs):
        self.lowering, self.layer, self.outputs = lowering, layer, outputs
        self.graph = layer.traced.graph
        self.sequences, given = inputs[: layer.sequences], inputs[layer.sequences :]
        self.carried = [self._state(index, x) for index, x in enumerate(given or [None] * layer.states)]
        output, *states = tree.flatten(self.graph.outputs)
        self.place = next((i for i, v in enumerate(states) if v is output), None)
        if not layer.return_sequences and self.place is None:
            self.carried.append(self._zero("last", outputs[0].shape, outputs[0].params))
            self.place = len(states)

    def made(self):
        """Write it; returns a `Tensor` for each of `outputs`."""
        lowering, layer, ends = self.lowering, self.layer, self.outputs
        count = len(self.sequences)
        scanned = [_held(lowering, x, x.params is not None) for x in self.sequences]
        names = [f"{ends[0].name}/{x.name}/last" for x in self.carried]
        names += [f"{ends[0].name}/all"] * layer.return_sequences
        body = self._body()
        made = lowering.builder.node_of_many(
            "Scan",
            [*(x.first for x in self.carried), *scanned],
            lowering.path,
            names,
            body=body,
            num_scan_inputs=count,
            scan_input_axes=[1] * count,
            scan_input_directions=[int(layer.go_backwards)] * count,
            **({"scan_output_axes": [1]} if layer.return_sequences else {}),
        )
        output = made[-1] if layer.return_sequences else made[self.place]
        results = zip(ends, [output, *made[: layer.states]])
        return [Tensor(y.name, y.shape, y.params, False, {(y.params is not None, False): name}) for y, name in results]

    def _body(self):
        """The graph of one step."""
        inner = self.lowering.inside(self.lowering.builder.batch_size if self.outputs[0].rows == 1 else None)
        count, path = len(self.sequences), self.outputs[0].name
        enters = [_Carried(f"sequence_{i}", x.shape[1:], x.params, "") for i, x in enumerate(self.sequences)]
        tensors = [self._entered(inner, x) for x in [*self.carried, *enters]]
        states, xs = tensors[: self.layer.states], tensors[-count:]
        for x, outside in zip(xs, self.sequences):
            x.grid = outside.grid
        inner.tensors.update(zip(self.graph.inputs, [*xs, *states]))
        lower_nodes(inner, self.graph)
        inner.path = path
        output, *after = [inner.tensors[v] for v in tree.flatten(self.graph.outputs)]
        after += [output] * (len(self.carried) - len(after))
        grids = [x.params for x in self.carried] + [self.outputs[0].params] * self.layer.return_sequences
        for x, params in zip([*after, output], grids):
            name = inner.builder.unique(f"{path}/step/{len(inner.builder.outputs)}")
            inner.builder.output(name, _held(inner, x, params is not None), x.shape, _dtype(inner, params))
        return inner.builder.body(f"{path}/step")

    def _entered(self, inner, x):
        """An input of the body."""
        name = inner.builder.unique(f"{self.outputs[0].name}/step/{x.name}")
        inner.builder.input(name, x.shape, _dtype(inner, x.params))
        return Tensor(name, tuple(x.shape), x.params, False, {(x.params is not None, False): name})

    def _state(self, index, given):
        """A state, and what it is first."""
        place = self.layer.sequences + index
        entrance, update = self.layer.entrances.get(place), self.layer.update_of(index)
        shape, params = self.graph.inputs[place].shape[1:], None if entrance is None else entrance.grid.params().stored
        if given is None:
            return self._zero(f"state_{index}", shape, params)
        value = _held(self.lowering, given, params is not None)
        if update is not None and update.has_grid and not self.layer.is_continued:
            value = states_rule.on_grid(self.lowering, update, value, is_free=True)
        return _Carried(f"state_{index}", shape, params, value)

    def _zero(self, name, shape, params):
        """A state that is zero first, for as many sequences as there are."""
        lowering = self.lowering
        zero = np.float32(0)
        if params is not None:
            storage = lowering.storage_of(params)
            zero = int(ops.convert_to_numpy(params.zero_point)) + (128 if storage == "uint8" else 0)
            zero = np.asarray(zero, storage)
        held = lowering.constant(f"{name}/zero", np.full((1, *shape), zero))
        return _Carried(name, shape, params, lowering.node("Expand", [held, self._batch(len(shape))], f"{name}/first"))

    def _batch(self, rank):
        """The number of sequences, as a shape with `rank` ones behind it."""
        lowering, x = self.lowering, self.sequences[0]
        whole = lowering.node("Shape", [_held(lowering, x, x.params is not None)])
        batch = lowering.node("Slice", [whole, *(lowering.ints(n, [v]) for n, v in (("start", 0), ("end", 1)))])
        return lowering.node("Concat", [batch, lowering.ints("ones", [1] * rank)], axis=0)


def _held(lowering, x, integers):
    """The name of a tensor's integers or real numbers, channels last."""
    return lowering.integers(x, False) if integers else lowering.real(x, False)


def _dtype(lowering, params):
    return "float32" if params is None else lowering.storage_of(params)
