"""The graph of a model that takes a sequence a few steps at a time, and keeps what the next ones need.

A model that was trained on whole sequences computes the same integers step by step: a recurrent layer keeps its states; a
convolution along the steps, or pooling, keeps the last steps that its window reaches back to; what joins all steps of a
window, such as a mean over them, keeps the window.

    conv1d (causal) → gru → dense      ⟹      joined(kept_0, frame) → conv1d (valid) → gru(·, state_0) → dense
"""

import dataclasses
import math

import keras
import numpy as np
from keras import ops, tree

from keras_quant.errors import ExportError
from keras_quant.graph.graph import Node, Value, in_integers
from keras_quant.graph.kept import State, Stream, carried_on
from keras_quant.graph.kinds import is_real
from keras_quant.graph.rebuild import changed
from keras_quant.integer import Quantized
from keras_quant.layers import QuantZeroPadding2D, annotate, annotation
from keras_quant.layers.loop import Loop
from keras_quant.layers.standardize import QuantExactStandardize


@dataclasses.dataclass(frozen=True)
class Steps:
    """Where a tensor has the steps of a sequence.

    Attributes:
        axis: of the steps; 0 where they lie in the batch.
        count: how many a call makes.
        warm: how many of the first ones are made of what was there before the sequence.
        lead: how many zeros padding has put before the sequence, which the next window is to take.
    """

    axis: int
    count: int
    warm: int = 0
    lead: int = 0


class Keep(keras.Operation):
    """What is kept joined with the steps of a call, along an axis; or its last steps."""

    def __init__(self, axis, count=None, name=None):
        super().__init__(name=name)
        self.axis, self.count = axis, count

    def call(self, *args):
        raise NotImplementedError

    def get_config(self):
        return {"axis": self.axis, "count": self.count, "name": self.name}


def stream(graph):
    """The `Stream` of a model.

    Args:
        graph: `Graph` of a quantized model. Its inputs of two or more axes besides the batch are sequences along the first
            one; so are those of whole numbers.

    Raises:
        ExportError: for a layer that needs steps which are still to come, with its path and how many they are.
    """
    frames = 1
    while True:
        try:
            return _Streaming(graph, frames).made()
        except _MoreFrames as more:
            frames *= more.factor


class _MoreFrames(Exception):  # noqa: N818  a signal, no error
    """A call has to take more steps."""

    def __init__(self, factor):
        super().__init__(factor)
        self.factor = factor


class _Streaming:
    def __init__(self, graph, frames):
        self.graph, self.frames = graph, frames
        self.values, self.steps = {}, {}
        self.nodes, self.states = [], []

    def made(self):
        inputs = [self._input(value) for value in self.graph.inputs]
        if not any(value in self.steps for value in self.graph.inputs):
            raise ExportError("The model has no sequence among its inputs, so that it cannot take one step by step.")
        for node in self.graph.nodes:
            self._add(node)
        outputs = tree.map_structure(lambda v: self.values[v], self.graph.outputs)
        flat = tree.flatten(self.graph.outputs)
        warm = [self.steps[v].warm if v in self.steps else None for v in flat]
        made = dataclasses.replace(self.graph, inputs=inputs, nodes=self.nodes, outputs=outputs, output_masks=[], paths={})
        return Stream(made, self.states, self.frames, warm)

    def _input(self, value):
        is_sequence = len(value.shape) > 2 or (len(value.shape) == 2 and not is_real(value))
        if is_sequence:
            self.steps[value] = Steps(1, self.frames)
        return self._put(value, value.name)

    def _put(self, value, name=None):
        """The new value of an old one, whose `Steps` are known."""
        known, shape, rows = self.steps.get(value), list(value.shape), value.rows
        if known is not None and known.axis:
            shape[known.axis] = known.count
        elif known is not None:
            rows = known.count
        made = Value(tuple(shape), value.dtype, name or value.name, value.note, rows, value.batch_axis)
        self.values[value] = made
        return made

    def _add(self, node):
        given = [v for v in node.inputs if v in self.steps]
        if not given:
            self._copy(node, node.operation)
        elif isinstance(node.operation, Loop):
            self._add_loop(node)
        elif not any(add(node) for add in (self._add_moved, self._add_pointwise, self._add_padding, self._add_window)):
            self._add_whole(node)

    def _copy(self, node, operation, swapped=()):
        """A node of the new graph; `swapped` are pairs of an old value and what is read instead."""
        known = {**self.values, **dict(swapped)}
        fill = lambda x: known[x] if isinstance(x, Value) else x
        args, kwargs = tree.map_structure(fill, (node.args, node.kwargs))
        outputs = tree.map_structure(self._put, node.outputs)
        self.nodes.append(dataclasses.replace(node, operation=operation, args=args, kwargs=kwargs, outputs=outputs))

    # What a node does with the steps.

    def _add_loop(self, node):
        layer = node.operation
        sequences, first = node.args[0][: layer.sequences], node.args[0][layer.sequences :]
        known = self._common(node, [v for v in sequences if v in self.steps])
        if layer.go_backwards:
            raise _needs(node, _length(sequences[0]) - 1)
        if first:
            raise ExportError(
                f"Layer '{node.path}' takes its first states from another layer. Export the model behind that layer alone, "
                "or without `streaming`."
            )
        if known.warm:
            raise ExportError(
                f"Layer '{node.path}' is recurrent and reads convolutions or pooling without zeros before the sequence, "
                'whose first steps would go into its states. Use `padding="causal"` before it.'
            )
        outputs = tree.flatten(node.outputs)
        if layer.return_sequences:
            self.steps[outputs[0]] = Steps(1, known.count)
        made, states = carried_on(node, [self.values[v] for v in sequences], [self._put(outputs[0])])
        self.nodes.append(made)
        self.states += states
        self.values.update(zip(outputs[1:], (state.after for state in states)))

    def _add_moved(self, node):
        """A reshape, which leaves the steps an axis, or moves them into the batch and back."""
        (old,) = node.inputs if len(node.inputs) == 1 else (None,)
        new = node.outputs if isinstance(node.outputs, Value) else None
        if old is None or new is None or not (_reshapes(node.operation) or isinstance(node.operation, keras.layers.Permute)):
            return False
        known, length = self.steps[old], self._length_of(old)
        moves = isinstance(node.operation, keras.layers.Permute) and known.axis
        axis = node.operation.dims.index(known.axis) + 1 if moves else _axis_after(known.axis, length, old, new)
        if axis is None:
            return False
        self.steps[new] = dataclasses.replace(known, axis=axis)
        self._copy(node, node.operation)
        return True

    def _add_pointwise(self, node):
        """What makes each step of that step alone, as tried out."""
        given = [v for v in node.inputs if v in self.steps]
        known = self._common(node, given)
        if known.lead:
            return False
        if not known.axis:
            return all(v.rows == given[0].rows for v in tree.flatten(node.outputs)) and self._add_by_step(node, known)
        return _is_pointwise(node, {v: self.steps[v].axis for v in given}) and self._add_by_step(node, known)

    def _add_by_step(self, node, known):
        for value in tree.flatten(node.outputs):
            self.steps[value] = known
        self._copy(node, _at_count(node.operation, known))
        return True

    def _add_padding(self, node):
        """Zeros before the sequence, which are there already where the next window keeps steps: nothing is kept at first."""
        layer, (value,) = node.operation, node.inputs if len(node.inputs) == 1 else (None,)
        known = None if value is None else self.steps[value]
        if not isinstance(layer, QuantZeroPadding2D) or not 1 <= known.axis <= 2 or known.lead:
            return False
        widths = [tuple(pair) for pair in layer.padding]
        before, after = widths[known.axis - 1]
        if after:
            raise _needs(node, after)
        widths[known.axis - 1] = 0, 0
        self.steps[node.output] = dataclasses.replace(known, lead=before)
        self._copy(node, changed(layer, padding=tuple(widths)))
        return True

    def _add_window(self, node):
        """A convolution or pooling along the steps."""
        window = _window(node, self.steps[node.inputs[0]].axis) if len(node.inputs) == 1 else None
        if window is None:
            return False
        (value,) = node.inputs
        known = self.steps[value]
        if known.count % window.stride:
            raise _MoreFrames(window.stride)
        if window.after:
            raise _needs(node, window.after)
        leads = window.leads or known.lead == window.size - 1 > 0
        if known.lead and not leads and (window.stride > 1 or known.lead > window.size - 1 or window.leads):
            return False
        reach = window.size - (1 if leads else window.stride)
        kept = max(0, reach if leads else window.stride * math.ceil(reach / window.stride))
        joined = self._joined(node, value, kept)
        warm = 0 if leads else kept // window.stride - known.lead
        made = Steps(known.axis, known.count // window.stride, math.ceil(known.warm / window.stride) + warm)
        self.steps[node.output] = made
        self._copy(node, window.operation, [(value, joined)])
        return True

    def _add_whole(self, node):
        """What joins all steps of a window: the window is kept."""
        given = [v for v in dict.fromkeys(node.inputs) if v in self.steps]
        known = self._common(node, given)
        lengths = {self._length_of(v) for v in given}
        remains = [v for v in tree.flatten(node.outputs) if len(v.shape) > 2 and v.shape[known.axis] in lengths]
        if not known.axis or remains:
            raise _needs(node, max(lengths) - 1)
        swapped = [(value, self._joined(node, value, self._length_of(value) - known.count)) for value in given]
        self._copy(node, node.operation, swapped)

    def _joined(self, node, value, kept):
        """A value with the steps that are kept before it, and the state that keeps them."""
        new, axis = self.values[value], self.steps[value].axis
        if not kept:
            return new
        at = lambda count: tuple(count if place == axis else size for place, size in enumerate(new.shape))
        index, path = len(self.states), node.path.replace("/", ".")
        before, after, joined = (
            Value(at(count), new.dtype, f"{path}_{name}_{index}", new.note, new.rows)
            for name, count in (("kept", kept), ("kept_after", kept), ("joined", kept + new.shape[axis]))
        )
        self.nodes.append(Node(Keep(axis), joined.name, (before, new), {}, joined))
        self.nodes.append(Node(Keep(axis, kept), after.name, (joined,), {}, after))
        self.states.append(State(before, after, None if new.note is None else new.note.quantizer))
        return joined

    def _length_of(self, value):
        """How many steps the whole sequence has there."""
        axis = self.steps[value].axis
        return value.shape[axis] if axis else value.rows

    def _common(self, node, values):
        """The `Steps` that several tensors have in common."""
        known = [self.steps[v] for v in values]
        if len({(k.axis, k.count, k.warm) for k in known}) > 1:
            raise ExportError(
                f"Layer '{node.path}' joins sequences that do not keep step: one of them lies behind more layers without "
                "zeros before the sequence, or behind a stride. Use causal padding in both, or leave `streaming` out."
            )
        return dataclasses.replace(known[0], lead=max(k.lead for k in known))


@dataclasses.dataclass(frozen=True)
class _Window:
    """How a layer's window goes along the steps.

    Attributes:
        size, stride: in steps.
        leads: whether there are zeros before the sequence for all but one step of it.
        after: how many steps that are to come it needs.
        operation: the layer without those zeros.
    """

    size: int
    stride: int
    leads: bool
    after: int
    operation: object


def _window(node, axis):
    """The `_Window` of a convolution or pooling along an axis, or `None` for another layer."""
    layer, rank = node.operation, len(node.inputs[0].shape) - 2
    sizes = getattr(layer, "kernel_size", None) or getattr(layer, "pool_size", None)
    if sizes is None or len(sizes) != rank or not 1 <= axis <= rank or hasattr(layer, "output_padding"):
        return None
    dilation = getattr(layer, "dilation_rate", (1,) * rank)
    size, stride = (sizes[axis - 1] - 1) * dilation[axis - 1] + 1, layer.strides[axis - 1]
    if layer.padding != "same":
        leads = layer.padding == "causal"
        return _Window(size, stride, leads, 0, changed(layer, padding="valid") if leads else layer)
    length = node.inputs[0].shape[axis]
    padded = max((math.ceil(length / stride) - 1) * stride + size - length, 0)
    return _Window(size, stride, False, padded - padded // 2, layer) if padded else _Window(size, stride, False, 0, layer)


def _needs(node, steps):
    return ExportError(
        f"Layer '{node.path}' ({type(node.operation).__name__}) needs {steps} steps that are still to come, so that the "
        "model cannot run step by step. Use causal padding and recurrent layers that go forwards, or leave `streaming` out."
    )


def _length(value):
    return value.shape[1]


def _at_count(operation, steps):
    """A normalization knows the shape that it takes means in; others go by their inputs."""
    if not isinstance(operation, QuantExactStandardize) or operation.groups is not None or not steps.axis:
        return operation
    whole = list(operation.whole)
    whole[steps.axis - 1] = steps.count
    return changed(operation, whole=tuple(whole))


def _reshapes(operation):
    return type(operation).__name__ in ("QuantReshape", "QuantRegroup", "QuantFlatten", "Reshape", "ExpandDims", "Squeeze")


def _axis_after(axis, length, old, new):
    """Where a reshape leaves the steps, or `None` where it joins them with something else."""
    size = lambda value: value.rows * math.prod(value.shape[1:])
    if size(old) != size(new):
        return None
    if axis == 0:
        joins_again = new.rows == 1 and len(new.shape) > 1 and new.shape[1] == length
        return 1 if joins_again else 0 if new.rows == length else None
    if (axis, old.rows, new.rows) == (1, 1, length) and length > 1:
        return 0
    before, count = math.prod(old.shape[1:axis]), 1
    for place, n in enumerate(new.shape[1:], 1):
        if (new.rows, count, n) == (old.rows, before, length):
            return place
        count *= n
    return None


def _is_pointwise(node, axes):
    """Whether each step of what a node makes depends on that step alone: tried out on random numbers."""
    axis, rng = next(iter(axes.values())), np.random.default_rng(0)
    tensors = {v: _random(v, rng) for v in dict.fromkeys(node.inputs)}
    length = next(iter(axes)).shape[axis]

    def outputs(cut):
        fill = lambda x: cut(x) if isinstance(x, Value) else x
        made = in_integers(node, *tree.map_structure(fill, (node.args, node.kwargs)))
        return [np.asarray(ops.convert_to_numpy(x)) for x in tree.flatten(made)]

    whole = outputs(tensors.__getitem__)
    if any(x.ndim <= axis or x.shape[axis] != length for x in whole):
        return False
    for step in {0, length // 2, length - 1}:
        cut = lambda v, step=step: _at(tensors[v], axis, step) if v in axes else tensors[v]
        try:
            parts = outputs(cut)
        except Exception:  # it wants the size that it was built for
            return False
        whole_step = [np.take(x, [step], axis) for x in whole]
        if any(a.shape != b.shape or not np.allclose(a, b, atol=1e-6) for a, b in zip(parts, whole_step)):
            return False
    return True


def _random(value, rng):
    """A tensor as a node may be given, of one sample."""
    shape = (value.rows, *value.shape[1:])
    if value.note is None:
        kind = keras.backend.standardize_dtype(value.dtype)
        return ops.cast(
            rng.integers(0, 2, shape) if kind in ("bool",) or "int" in kind else rng.standard_normal(shape), kind
        )
    y = value.note.quantizer.params()
    low, high = (int(ops.convert_to_numpy(bound)) for bound in (y.low, y.high))
    integers = ops.convert_to_tensor(rng.integers(low, high + 1, shape).astype("float32"))
    return annotate(integers * y.scale, value.note.quantizer, Quantized(integers, y))


def _at(x, axis, step):
    part = ops.take(x, [step], axis=axis)
    note = annotation(x)
    if note is None:
        return part
    integers = ops.take(note.quantized.integers, [step], axis=axis)
    return annotate(part, note.quantizer, Quantized(integers, note.quantized.params))
