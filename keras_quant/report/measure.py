"""What a quantized model makes of data, beside the same model in float: noise, clipped values, histograms."""

import dataclasses
import functools
import math

import numpy as np
from keras import ops, tree

from keras_quant.calibrate import check_ranges
from keras_quant.data import input_batches
from keras_quant.errors import QuantizationError
from keras_quant.graph import trace
from keras_quant.graph.graph import in_float, in_integers
from keras_quant.graph.loops import everywhere, inner_graph, inner_path
from keras_quant.graph.sizes import at_size_of
from keras_quant.integer.params import to_grid
from keras_quant.layers.annotation import annotate, annotation
from keras_quant.policy import PolicyMap, policy_name
from keras_quant.quantize import quantize
from keras_quant.report.histogram import Histogram
from keras_quant.report.histogram import count as count_integers
from keras_quant.tables import decibels

# Values held at a time, 512 MiB: so many samples are computed at a time, whatever batches the data comes in.
LARGEST = 2**27


@dataclasses.dataclass
class Measured:
    """What was seen of one layer's output.

    Attributes:
        low, high: its extremes in float.
        values: their number.
        clipped: how many of them lie beyond the grid, in float.
        integers: `Histogram` of the exact integers, or `None` for a layer that computes in float.
        signal, local_noise: sums of squares of the float output, and of what the layer alone adds to it.
        reference, noise: sums of squares of the float model's output, and of all the noise accumulated up to here.
    """

    low: float = math.inf
    high: float = -math.inf
    values: int = 0
    clipped: int = 0
    integers: Histogram | None = None
    signal: float = 0.0
    local_noise: float = 0.0
    reference: float = 0.0
    noise: float | None = 0.0

    @property
    def clipped_share(self):
        """Share of the values that the grid clips; `None` without a grid."""
        return None if self.integers is None else self.clipped / self.values

    @property
    def local_sqnr(self):
        """Signal to quantization noise ratio of the layer alone, in dB."""
        return decibels(self.signal, self.local_noise)

    @property
    def sqnr(self):
        """The ratio at its output of the whole model up to it, in dB; `None` if the float model has no such layer."""
        return None if self.noise is None else decibels(self.reference, self.noise)


def measure(qmodel, data, steps=None, float_model=None, graph=None):
    """Run a quantized model on data three ways, layer by layer.

    * **in float**: each layer's float arithmetic with the model's own weights;
    * **alone**: each layer's exact integers, its input the float one, rounded onto its grid;
    * **exact**: each layer's exact integers on what the layers before it made: what `predict` and the device compute.

    Args:
        qmodel: quantized `keras.Model` with its ranges set.
        data: model inputs, whatever `fit` takes; labels are ignored.
        steps: number of batches to use; all by default.
        float_model: the model that the accumulated noise is measured against, by layers of the same path; by default
            `qmodel` in float.
        graph: `trace(qmodel, keep_float=True)`, if it is there already.

    Returns:
        The number of samples, and a dict from layer paths to `Measured`, in order of execution.

    Raises:
        CalibrationError: if a range was never set, or the data is empty or does not fit the model.
        QuantizationError: if no layer of `float_model` has a path of `qmodel`'s.
    """
    graph = trace(qmodel, keep_float=True) if graph is None else graph
    check_ranges(graph)
    reference = None if float_model is None else _Reference(float_model, graph)
    found, count, samples = {place.path: Measured() for place in everywhere(graph)}, _samples_at_a_time(graph), 0
    for arrays in input_batches(data, graph.inputs, steps):
        samples += len(arrays[0])
        for start in range(0, len(arrays[0]), count):
            inputs = [ops.convert_to_tensor(array[start : start + count]) for array in arrays]
            known = None if reference is None else reference.run(inputs)
            _run(graph, [_Ways(x, x) for x in inputs], functools.partial(_add, found, known))
    return samples, found


def _samples_at_a_time(graph):
    # What a layer makes alone, and its inputs on their grids, beside both ways.
    return max(1, LARGEST // graph.most_held(ways=2, making=4))


@dataclasses.dataclass(frozen=True)
class _Ways:
    """A tensor in float, and exact."""

    real: object
    exact: object


def _run(graph, inputs, add, path_of=lambda path: path):
    """Compute a graph; `add(path, value, real, alone, exact)` gets each output.

    Args:
        graph: `Graph`.
        inputs: list of `_Ways`.
        add: the function.
        path_of: path of a node → that which `add` gets.
    """

    def compute(node, args, kwargs):
        pick = lambda way: tree.map_structure(lambda x: getattr(x, way) if isinstance(x, _Ways) else x, (args, kwargs))
        (real_args, real_kwargs), (exact_args, exact_kwargs) = pick("real"), pick("exact")
        if inner_graph(node) is not None:
            steps = map(_Ways, node.operation.float_steps(*real_args), node.operation.integer_steps(*exact_args))
            inside = lambda path: inner_path(path_of(node.path), path, node.operation.name)
            _run(inner_graph(node), list(steps), add, inside)
        real = float_arithmetic(node, real_args, real_kwargs)
        gridded = tree.map_structure(on_grid, (node.args, node.kwargs), (real_args, real_kwargs))
        alone = in_integers(node, *gridded)
        exact = in_integers(node, exact_args, exact_kwargs)
        for outputs in zip(*map(tree.flatten, (node.outputs, real, alone, exact))):
            add(path_of(node.path), *outputs)
        return tree.map_structure(_Ways, real, exact)

    graph.run(inputs, compute, release=True)


def float_arithmetic(node, args, kwargs):
    """What a node computes in float32, whatever its policy."""
    if getattr(node.operation, "compute_dtype", "float32") == "float16":
        return node.operation.call(*args, **kwargs)  # `__call__` is what casts to float16
    return in_float(node, args, kwargs)


def on_grid(value, x):
    """A tensor rounded to the grid of the `Value` that it belongs to; as it is where there is none."""
    note = getattr(value, "note", None)
    if note is None:
        return x
    params = note.quantizer.params()
    return annotate(to_grid(x, params) * params.scale, note.quantizer)


def _add(found, known, path, value, real, alone, exact):
    if path not in found:  # what a step is given
        return
    entry, note = found[path], annotation(exact)
    real, alone, exact = (_numpy(x) for x in (real, alone, exact))
    entry.low, entry.high = min(entry.low, float(real.min())), max(entry.high, float(real.max()))
    entry.values += real.size
    entry.signal += _power(real)
    entry.local_noise += _power(real - alone)
    if note is not None:
        _add_integers(entry, note, real)
    wanted = real if known is None else known.get(path)
    if wanted is None or wanted.shape != exact.shape:
        entry.noise = None
    elif entry.noise is not None:
        entry.reference += _power(wanted)
        entry.noise += _power(wanted - exact)


def _add_integers(entry, note, real):
    params, kind = note.quantizer.params(), note.quantizer.type
    scale, zero_point = (float(ops.convert_to_numpy(v)) for v in (params.scale, params.zero_point))
    # Values within half a step of the last integer are rounded to it; those further out are clipped.
    least, most = ((bound - zero_point) * scale for bound in (kind.low - 0.5, kind.high + 0.5))
    entry.clipped += int(np.count_nonzero((real < least) | (real > most)))
    integers = count_integers(_numpy(note.quantized.integers) + zero_point, kind.low, kind.high)
    entry.integers = integers if entry.integers is None else entry.integers + integers


def _numpy(x):
    return np.asarray(ops.convert_to_numpy(x), np.float32)


def _power(x):
    return float(np.sum(np.square(x, dtype=np.float64)))


class _Reference:
    """A float model, cut into the layers of a quantized one.

    It is quantized by the same policies, so that the same batch normalizations and activations join the same layers, and
    run in float.

    Args:
        float_model: a built `keras.Model`.
        graph: `Graph` of the quantized model.
    """

    def __init__(self, float_model, graph):
        float_model = at_size_of(float_model, graph)
        policies = {node.path: policy_name(node.operation) for node in graph.nodes}
        dotted = {node.path.replace("/", "."): node.path for node in trace(float_model, keep_float=True).nodes}
        named = {dotted[path]: policy for path, policy in policies.items() if policy is not None and path in dotted}
        self.graph = trace(quantize(float_model, PolicyMap(named), fallback="float"), keep_float=True)
        if not any(node.path in policies for node in self.graph.nodes):
            raise QuantizationError(
                f"No layer of `float_model` '{float_model.name}' has the path of a quantized one. Pass the model that was "
                "given to `quantize`."
            )
        if len(self.graph.inputs) != len(graph.inputs):
            raise QuantizationError(
                f"`float_model` '{float_model.name}' takes the inputs {[x.name for x in self.graph.inputs]}, the quantized "
                f"model {[x.name for x in graph.inputs]}. Pass the model that was given to `quantize`."
            )

    def run(self, inputs):
        """Dict from paths to outputs, as arrays."""
        return _outputs_in_float(self.graph, inputs)


def _outputs_in_float(graph, inputs, path_of=lambda path: path):
    """Dict from paths to outputs, as arrays, those of the layers in loops for all steps; args as of `_run`."""
    made = {}

    def compute(node, args, kwargs):
        if inner_graph(node) is not None:
            inside = lambda path: inner_path(path_of(node.path), path, node.operation.name)
            made.update(_outputs_in_float(inner_graph(node), node.operation.float_steps(*args), inside))
        outputs = float_arithmetic(node, args, kwargs)
        made[path_of(node.path)] = _numpy(tree.flatten(outputs)[0])
        return outputs

    graph.run(inputs, compute, release=True)
    return made
