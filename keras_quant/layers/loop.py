"""Recurrent layers: a quantized model of one step, applied to one step of a sequence after the other."""

import keras
from keras import ops, tree

from keras_quant import backend
from keras_quant.integer import Quantized, to_grid
from keras_quant.layers.annotation import annotate, annotation
from keras_quant.layers.base import KernelCall, QuantLayer
from keras_quant.layers.state import StateUpdate
from keras_quant.layers.step_dropout import StepDropout
from keras_quant.quantizers import ActivationQuantizer, WeightQuantizer, in_steps
from keras_quant.settings import InFloat32


@keras.saving.register_keras_serializable(package="keras_quant")
class StepInput(QuantLayer, keras.layers.Layer):
    """An input of a step: integers on the grid that they have outside of the step, or have left it on.

    Args:
        slot: index among the step's inputs.
    """

    activation_types = (*QuantLayer.activation_types, "int16")
    keeps_grid = True

    def __init__(self, slot, **kwargs):
        super().__init__(**kwargs)
        self.slot = slot
        # A quantizer of another layer, which Keras is not to track here.
        self._held = _Held(self.policy.new_output_quantizer())

    @property
    def grid(self):
        """The quantizer whose grid the values lie on."""
        return self._held.quantizer

    def __dir__(self):
        # Keras saves what it finds here; the grid is another layer's.
        return [name for name in super().__dir__() if name != "grid"]

    def lie_on(self, quantizer):
        """Take another quantizer's grid, without making it a part of this layer."""
        self._held.quantizer = quantizer

    def _add_input_layers(self, slots):
        pass

    def quantize_inputs(self, inputs, training=None):
        return inputs

    def grid_of_output(self, inputs):
        return self.grid

    def main_call(self, inputs, training=None):
        if training:
            return annotate(inputs, self.grid)
        y = self.grid.params()
        integers = to_grid(inputs, y)
        return annotate(integers * y.scale, self.grid, Quantized(integers, y))

    def call(self, inputs, training=None):
        return KernelCall(self)(inputs) if backend.is_symbolic(inputs) else self.main_call(inputs, training)

    def float_call(self, inputs):
        return inputs

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "slot": self.slot}


class _Held:
    def __init__(self, quantizer):
        self.quantizer = quantizer


@keras.saving.register_keras_serializable(package="keras_quant")
class Loop(InFloat32, keras.layers.Layer):
    """A recurrent layer: `step` for each step of sequences, its states handed on.

    Inputs: a list of sequences `(batch, length, ...)`, and of first states; without these they are zero.

    Args:
        step: quantized `keras.Model` of one step: `[*inputs, *states]` → `[output, *states]`.
        sequences: how many of its inputs are sequences.
        return_sequences, return_state, go_backwards, unroll, stateful: as of `keras.layers.RNN`.
        hidden_states: how many of the last states stay inside.
        batch_size: of a `stateful` one, whose states are kept for so many sequences.
    """

    # Whether the first states are those of an earlier call, which lie on their grids already.
    is_continued = False

    def __init__(
        self,
        step,
        sequences=1,
        return_sequences=False,
        return_state=False,
        go_backwards=False,
        unroll=False,
        hidden_states=0,
        stateful=False,
        batch_size=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.step = keras.saving.deserialize_keras_object(step) if isinstance(step, dict) else step
        self.sequences, self.hidden_states = sequences, hidden_states
        self.return_sequences, self.return_state = return_sequences, return_state
        self.go_backwards, self.unroll = go_backwards, unroll
        self.stateful, self.batch_size = stateful, batch_size
        self.entrances = {layer.slot: layer for layer in self.step.layers if isinstance(layer, StepInput)}
        self.supports_masking = True
        # The step's graph, which tracing notes down here.
        self.traced = None
        self._tie_states()
        options = {"initializer": "zeros", "trainable": False, "dtype": "float32"}
        shapes = [(batch_size, *x.shape[1:]) for x in self.step.inputs[sequences:]] if stateful else []
        self.kept = [self.add_weight(name=f"state_{i}", shape=shape, **options) for i, shape in enumerate(shapes)]
        self.built = True

    @property
    def states(self):
        """How many states there are."""
        return len(self.step.inputs) - self.sequences

    @property
    def is_exact(self):
        """Whether the states are integers, or real numbers of which no order of sums changes a digit."""
        real = [i for i in range(self.states) if self.sequences + i not in self.entrances]
        return all(update is not None and update.has_grid for update in map(self.update_of, real))

    def _tie_states(self):
        """A state comes back on the grid that it was left on."""
        for index in range(self.states):
            entrance, note = self.entrances.get(self.sequences + index), annotation(self.step.outputs[1 + index])
            if entrance is not None:
                entrance.lie_on(note.quantizer)

    def update_of(self, index):
        """The `StateUpdate` that makes a state, or `None` where it is integers."""
        pending = [x for x in [self.step.outputs[1 + index]] if annotation(x) is None]
        while pending:
            history = pending.pop()._keras_history
            if isinstance(history.operation, StateUpdate):
                return history.operation
            pending += history.operation._inbound_nodes[history.node_index].input_tensors if history.operation else []
        return None

    def connect(self, inputs):
        """Take over the grids of the sequences, and tie those of first states to the states'."""
        for slot, x in enumerate(inputs):
            entrance, note = self.entrances.get(slot), annotation(x)
            if entrance is None or note is None:
                continue
            if slot < self.sequences:
                entrance.lie_on(note.quantizer)
            elif note.quantizer.tieable and entrance.grid.tieable:
                entrance.grid.tie(note.quantizer)

    def call(self, inputs, training=None):
        outputs, states = self._computed(inputs, training)
        self._keep(states)
        return self._annotated(self._chosen(outputs, states), annotate if training else _put)

    def main_call(self, inputs, training=None):
        """The loop, whose states are not kept; inputs lie on grids, where the step wants that."""
        return self._annotated(self._chosen(*self._computed(inputs, training)), annotate if training else _put)

    def _computed(self, inputs, training):
        """All outputs and the last states."""
        inputs = tree.flatten(inputs)
        self.connect(inputs)
        sequences, states = inputs[: self.sequences], self._first_states(inputs)
        if training:
            outputs, states = self._train(sequences, states)
        else:
            states = [self._on_grid(index, state) for index, state in enumerate(states)]
            step = self._step_in_inference(sequences, states)
            outputs, states = self.unfolded(sequences, states, step, hoists=True)
        return outputs, states

    def reset_state(self):
        """Set the states that a `stateful` layer keeps to zero, as of `keras.layers.RNN`."""
        for variable in self.kept:
            variable.assign(ops.zeros(variable.shape))

    reset_states = reset_state

    def _keep(self, states):
        for variable, state in zip(self.kept, states):
            variable.assign(state)

    def advance(self, inputs):
        """Keep the states that the float layer has after `inputs`."""
        if self.stateful:
            inputs = tree.flatten(inputs)
            self._keep(self.unfolded(inputs[: self.sequences], self._first_states(inputs), self.traced.in_float)[1])

    def _step_in_inference(self, sequences, states):
        """The step, with what is computed of weights and ranges alone taken out of the loop."""
        if not backend.is_eager():
            # `unfold` sees to that.
            return lambda flat: self.step(flat, training=False)
        memory = {}
        with in_steps.recalling(memory):
            self.step([*(x[:, 0] for x in sequences), *states], training=False)

        def step(flat):
            with in_steps.recalling(in_steps.Closed(memory)):
                return self.step(flat, training=False)

        return step

    def unfolded(self, sequences, states, step, hoists=False):
        """All outputs and the last states, with a function that takes and gives what the step does, in one list."""

        def of_lists(xs, states):
            outputs = _in_float32(step([*xs, *states]))
            return outputs[:1], outputs[1:]

        outputs, states = backend.unfold(
            of_lists, sequences, states, self._shapes, self._length(sequences), self.go_backwards, hoists
        )
        return outputs[0], states

    def _train(self, sequences, states):
        parts = self.step._flatten_layers()
        quantizers = [x for x in parts if isinstance(x, ActivationQuantizer)]
        observing = [x for x in quantizers if x.observes]
        memory = self._memory([*quantizers, *(entrance.grid for entrance in self.entrances.values())])
        for layer in parts:
            if isinstance(getattr(layer, "kernel_quantizer", None), WeightQuantizer):
                kernel = layer.kernel_quantizer.in_training(layer.kernel, layer.kernel_axes)
                memory[id(layer.kernel_quantizer), "in_training"] = kernel
            if isinstance(layer, StepDropout):
                layer.draw((ops.shape(sequences[0])[0], *layer.output.shape[1:]))
        noted = []

        def step(flat):
            *flat, most = flat
            with in_steps.steps(observing) as notes, in_steps.recalling(in_steps.Closed(memory)):
                outputs = tree.flatten(self.step(flat, training=True))
            noted[:] = [notes]
            return [*outputs, ops.stop_gradient(ops.maximum(most, notes.numbers()))]

        seen = ops.full((in_steps.MOST * len(observing),), -float("inf"))
        outputs, (*states, seen) = self.unfolded(sequences, [*states, seen], step)
        noted[0].take(seen)
        return outputs, states

    @staticmethod
    def _memory(quantizers):
        """What all steps have in common of the ranges, computed once."""
        memory = {}
        with in_steps.recalling(memory):
            for quantizer in quantizers:
                quantizer.params()
                quantizer.ends_in_training()
        return memory

    def float_call(self, inputs, step=None):
        """The loop in float, its steps computed by the function `step` of a flat list, if there is one."""
        inputs = tree.flatten(inputs)
        sequences, states = inputs[: self.sequences], self._first_states(inputs)
        return self._chosen(*self.unfolded(sequences, states, step or self.traced.in_float))

    def float_steps(self, inputs):
        """What the step is called with in float, all steps of all sequences as one batch."""
        inputs = tree.flatten(inputs)
        return self._steps(inputs[: self.sequences], self._first_states(inputs), self.traced.in_float)

    def integer_steps(self, inputs):
        """What the step is called with in inference: as `float_steps`, on the grids that the step wants."""
        inputs = tree.flatten(inputs)
        self.connect(inputs)
        sequences = inputs[: self.sequences]
        states = [self._on_grid(index, state) for index, state in enumerate(self._first_states(inputs))]
        return self._steps(sequences, states, self._step_in_inference(sequences, states), hoists=True)

    def _steps(self, sequences, states, compute, hoists=False):
        """All steps as one batch, in the order of the computation, with the states that `compute` makes."""

        def step(xs, states):
            return states, _in_float32(compute([*xs, *states]))[1:]

        shapes = [tuple(x.shape[1:]) for x in self.step.inputs[self.sequences :]]
        before, _ = backend.unfold(step, sequences, states, shapes, self._length(sequences), self.go_backwards, hoists)
        sequences = [ops.flip(x, 1) for x in sequences] if self.go_backwards else sequences
        return [ops.reshape(x, (-1, *x.shape[2:])) for x in (*sequences, *before)]

    @property
    def _shapes(self):
        return [tuple(self.step.outputs[0].shape[1:])]

    def _length(self, sequences):
        return sequences[0].shape[1]

    def _first_states(self, inputs):
        given, first = list(inputs[self.sequences :]), self.step.inputs[self.sequences :]
        batch, own = ops.shape(inputs[0])[0], range(len(given), len(first))
        if self.stateful:
            self._check_batch(inputs[0].shape[0])
            return given + [backend.read(self.kept[i]) for i in own]
        return given + [ops.zeros((batch, *first[i].shape[1:])) for i in own]

    def _check_batch(self, size):
        if size not in (None, self.batch_size):
            raise ValueError(
                f"Layer '{self.name}' is stateful and keeps the states of {self.batch_size} sequences. Pass batches of "
                f"{self.batch_size}. Received: {size}"
            )

    def _on_grid(self, index, state):
        """A first state on the grid of those that follow."""
        update = self.update_of(index)
        if update is None or not update.has_grid:
            return state
        return update.on_grid(state)

    def _chosen(self, outputs, states):
        """What the layer returns of all outputs and the last states."""
        outputs = outputs if self.return_sequences else outputs[:, -1]
        return [outputs, *self._shown(states)] if self.return_state else outputs

    def _shown(self, states):
        return states[: len(states) - self.hidden_states]

    def _annotated(self, flat, put):
        notes = [annotation(x) for x in [self.step.outputs[0], *self._shown(self.step.outputs[1:])]]
        made = [x if note is None else put(x, note.quantizer) for x, note in zip(tree.flatten(flat), notes)]
        return made if self.return_state else made[0]

    def compute_output_spec(self, inputs, training=None):
        inputs = tree.flatten(inputs)
        self._check_shapes(inputs)
        self.connect(inputs)
        batch, length = inputs[0].shape[:2]
        shape = self._shapes[0]
        outputs = keras.KerasTensor((batch, *([length] if self.return_sequences else []), *shape), "float32")
        states = [keras.KerasTensor((batch, *x.shape[1:]), "float32") for x in self._shown(self.step.outputs[1:])]
        return self._annotated([outputs, *states] if self.return_state else outputs, annotate)

    def _check_shapes(self, inputs):
        """Refuse sequences and states of another size than the step's; their length is free."""
        for slot, (x, taken) in enumerate(zip(inputs, self.step.inputs)):
            own = tuple(x.shape[2 if slot < self.sequences else 1 :])
            if own != tuple(taken.shape[1:]):
                raise ValueError(
                    f"Layer '{self.name}' takes steps and states of shape {tuple(taken.shape[1:])} here. Received: {own}"
                )

    def compute_mask(self, inputs, mask=None):
        # Masks are tensors of their own in a quantized model.
        return None

    def get_config(self):
        own = (
            "sequences",
            "return_sequences",
            "return_state",
            "go_backwards",
            "unroll",
            "hidden_states",
            "stateful",
            "batch_size",
        )
        config = {**super().get_config(), **{name: getattr(self, name) for name in own}}
        return {**config, "step": keras.saving.serialize_keras_object(self.step)}


def _put(x, quantizer):
    """Annotate what lies on a grid with its integers."""
    return annotate(x, quantizer, Quantized(to_grid(x, quantizer.params()), quantizer.params()))


def _in_float32(outputs):
    """A flat list of what a step gives; where it computes in half precision, states are kept in single."""
    return [ops.cast(x, "float32") for x in tree.flatten(outputs)]
