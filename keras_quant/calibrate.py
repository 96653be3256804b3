"""The verb `calibrate`: activation ranges from data, without training."""

import gc

import keras
import numpy as np
from keras import ops, tree

from keras_quant import backend
from keras_quant.data import input_batches, number_of_batches
from keras_quant.errors import CalibrationError
from keras_quant.graph import settle_halves, trace, warn_of_ranges_apart
from keras_quant.graph.gaps import check_masks, warn_of_gaps
from keras_quant.graph.graph import in_float
from keras_quant.graph.kept import reset
from keras_quant.graph.loops import everywhere
from keras_quant.graph.picks import check_picked, picking_safely
from keras_quant.layers import QuantLayer
from keras_quant.layers.loop import Loop
from keras_quant.layers.weighted import fit_weight_ranges
from keras_quant.quantizers import Distribution, ranges
from keras_quant.quantizers.activation import WIDEST
from keras_quant.settings import float32

# Values taken of one tensor in one batch: enough for a range, little enough for a thousand tensors.
SAMPLES = 32768
# Step between them, modulo the tensor's size. A prime: steps that divide the size would meet the same few channels only.
STEP = 2654435761
# Up to how many batches are measured sooner than what measures them is compiled.
FEW_BATCHES = 2


@float32()
def calibrate(qmodel, data, steps=None, verbose="auto", method="mse"):
    """Set the activation ranges of a quantized model from data, without training.

    The model runs in float. Of each tensor a histogram of fixed size is kept, from a sample of each batch, and the extremes
    of all values; `method` chooses the range from them. Scales of weights that are measured, not learned, are measured anew.

    Args:
        qmodel: quantized `keras.Model`, from `quantize` or built of `keras_quant.layers`.
        data: whatever `fit` takes: arrays, `tf.data.Dataset`, `keras.utils.PyDataset`, generator; labels are ignored.
        steps: number of batches to use; all by default.
        verbose: "auto" or 1 for a progress bar, 0 for none.
        method: "mse" for the least mean squared error on the quantizer's own grid, "min_max", "moving_average",
            "percentile", "mean_std", "entropy", "fixed", or an object such as `quantizers.Percentile(99.9)`.

    Returns:
        `qmodel`.

    Raises:
        CalibrationError: if the data is empty, does not fit the model, makes a layer's output NaN or infinite, or leaves it
            without a range; if an input holds a mask of large negative numbers, beside which nothing is left of scores.
        QuantizationError: for an unknown method.
    """
    graph, seen = set_ranges(qmodel, data, steps, verbose, ranges.get(method))
    warn_of_ranges_apart(graph)
    warn_of_gaps(seen)
    return qmodel


def set_ranges(qmodel, data, steps, verbose, method):
    """What `calibrate` does, without its warnings; args as there, `method` an object.

    Returns:
        `Graph` of the model, and a dict from nodes to the `Distribution` of their outputs.
    """
    graph = trace(qmodel, keep_float=True)
    observed = _observed(graph)
    if not observed:
        raise CalibrationError(f"Model '{qmodel.name}' has no quantized layer. Pass it to `keras_quant.quantize` first.")
    count = number_of_batches(data, graph.inputs, steps)
    compiles = count is None or count > FEW_BATCHES
    step = _sampling_step(graph, observed)
    step = backend.compiled_for_batches(step) if compiles else step
    statistics = {id(node.operation): _Statistics(node) for node in observed}
    progress = keras.utils.Progbar(count, unit_name="batch") if verbose else None
    reset(graph)
    for arrays in input_batches(data, graph.inputs, steps):
        summaries, picked = step(*map(ops.convert_to_tensor, arrays))
        check_picked(graph, picked)
        for node, (low, high, sample) in zip(observed, summaries):
            statistics[id(node.operation)].add(float(low), float(high), np.asarray(sample))
        if progress is not None:
            progress.add(1)
    reset(graph)
    if progress is not None and progress.target is None:
        progress.update(progress._seen_so_far, finalize=True)
    if compiles:
        # What was compiled holds itself by cycles. The training step, which is traced next, is to have its memory.
        del step
        gc.collect()
    _merge_workers(qmodel, list(statistics.values()))
    seen = {node: statistics[id(node.operation)].seen for node in observed}
    check_masks(graph, seen)
    for entry in statistics.values():
        entry.set_range(method)
    for node in observed:
        if hasattr(node.operation, "follow_input"):
            node.operation.follow_input(node.inputs[0].note.quantizer.params())
    fit_weight_ranges(qmodel)
    settle_halves(graph)
    return graph, seen


def _merge_workers(qmodel, statistics):
    """Under a strategy of several workers, each has seen its own data: all go by what all have seen."""
    if backend.is_multi_worker(qmodel):
        shares = backend.from_all_workers(qmodel, np.stack([entry.seen.packed() for entry in statistics]))
        for entry, *seen in zip(statistics, *shares):
            entry.seen = Distribution.merge(seen)


def has_ranges(qmodel):
    """Whether there is anything to calibrate; in a model whose policies are all float there is not."""
    return any(isinstance(layer, QuantLayer) for layer in qmodel._flatten_layers())


def check_ranges(graph):
    """Refuse a graph with a range that was never set.

    Raises:
        CalibrationError: with its path.
    """
    for place in everywhere(graph):
        if any(value.note is not None and not value.note.quantizer.is_set for value in tree.flatten(place.node.outputs)):
            raise CalibrationError(
                f"The range of layer '{place.path}' was never set, so nobody knows what its integers stand for. Call "
                "`keras_quant.calibrate` with data, or `fit`, first."
            )


def _observed(graph):
    """The nodes whose layer owns the grid of its output."""
    found = []
    for node in graph.nodes:
        if isinstance(node.operation, Loop):
            found += _observed(node.operation.traced.graph)
        elif _owns_grid(node):
            found.append(node)
    return found


def _owns_grid(node):
    if getattr(node.operation, "measures_output", False):
        return True
    quantizer = getattr(node.operation, "output_quantizer", None)
    return quantizer is not None and node.output.note is not None and node.output.note.quantizer is quantizer


def _sampling_step(graph, observed):
    """A function: inputs → (minimum, maximum, sample) of each observed tensor, computed in float, and what rows of tables
    the data picks, see `check_picked`."""
    wanted = {id(node) for node in observed}

    def step(*inputs):
        picked, summaries = [], []

        def compute(node, args, kwargs):
            outputs = in_float(*picking_safely(node, args, kwargs, picked))
            if isinstance(node.operation, Loop):
                node.operation.traced.graph.run(node.operation.float_steps(*args), compute, release=True)
                node.operation.advance(*args)
            if id(node) in wanted:
                summaries.append(_summarize(_measured(node, outputs)))
            return outputs

        graph.run(inputs, compute, release=True)
        return summaries, picked

    return step


def _measured(node, outputs):
    """The values that a node's range is to hold: its outputs, or what they are picked from."""
    return node.operation.calibrated_values(outputs) if hasattr(node.operation, "calibrated_values") else outputs


def _summarize(x):
    flat = ops.reshape(x, (-1,))
    size = ops.cast(ops.size(flat), "int64")
    indices = ops.arange(ops.minimum(size, SAMPLES), dtype="int64") * STEP % size
    return ops.min(flat), ops.max(flat), ops.take(flat, indices)


class _Statistics:
    """What calibration has seen of one tensor."""

    def __init__(self, node):
        self.path, self.quantizer = node.path, node.operation.output_quantizer
        self.seen = Distribution()

    def add(self, low, high, sample):
        if not np.isfinite([low, high]).all():
            raise CalibrationError(
                f"The output of layer '{self.path}' is NaN or infinite on the calibration data. Check its weights."
            )
        self.seen.add(sample, low, high)

    def set_range(self, method):
        seen = self.seen.within(*self.quantizer.bounds)
        low, high = method.range_of(seen, self.quantizer)
        low, high = min(low, 0.0), max(high, 0.0)
        if high <= low < seen.high - seen.low:
            raise CalibrationError(
                f"{type(method).__name__} leaves no range for the output of layer '{self.path}', whose values reach from "
                f"{seen.low:g} to {seen.high:g}. Take another method, or milder arguments."
            )
        if high - low > WIDEST:
            raise CalibrationError(
                f"The output of layer '{self.path}' reaches from {low:g} to {high:g}, more than a scale holds. Check its "
                "weights."
            )
        self.quantizer.set_range(low, high)
