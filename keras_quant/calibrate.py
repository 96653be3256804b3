"""The verb `calibrate`: activation ranges from data, without training."""

import keras
import numpy as np
from keras import ops

from keras_quant import backend
from keras_quant.data import input_batches, number_of_batches
from keras_quant.errors import CalibrationError
from keras_quant.graph import settle_halves, trace
from keras_quant.graph.graph import in_float
from keras_quant.integer.params import INT8
from keras_quant.layers import QuantLayer

# Values kept of one tensor in one batch: enough for a range, little enough for a thousand tensors.
SAMPLES = 8192
# Step between them, modulo the tensor's size. A prime: steps that divide the size would meet the same few channels only.
STEP = 2654435761
# How far the search for a range goes below the largest value, and in how many steps.
SMALLEST_SHARE, CANDIDATES = 0.4, 61


def calibrate(qmodel, data, steps=None, verbose="auto"):
    """Set the activation ranges of a quantized model from data, without training.

    The model runs in float; each tensor's range is the one that loses least (mean squared error on the int8 grid) on a
    sample of its values, between its full range and 40 % of it.

    Args:
        qmodel: quantized `keras.Model`, from `quantize` or built of `keras_quant.layers`.
        data: whatever `fit` takes: arrays, `tf.data.Dataset`, `keras.utils.PyDataset`, generator; labels are ignored.
        steps: number of batches to use; all by default.
        verbose: "auto" or 1 for a progress bar, 0 for none.

    Returns:
        `qmodel`.

    Raises:
        CalibrationError: if the data is empty, does not fit the model, or makes a layer's output NaN or infinite.
    """
    graph = trace(qmodel, keep_float=True)
    observed = _observed(graph)
    if not observed:
        raise CalibrationError(f"Model '{qmodel.name}' has no quantized layer. Pass it to `keras_quant.quantize` first.")
    step = _sampling_step(graph, observed)
    statistics = {id(node.operation): _Statistics(node) for node in observed}
    progress = keras.utils.Progbar(number_of_batches(data, steps), unit_name="batch") if verbose else None
    for arrays in input_batches(data, graph.inputs, steps):
        for node, (low, high, sample) in zip(observed, step(*map(ops.convert_to_tensor, arrays))):
            statistics[id(node.operation)].add(float(low), float(high), np.asarray(sample))
        if progress is not None:
            progress.add(1)
    if progress is not None and progress.target is None:
        progress.update(progress._seen_so_far, finalize=True)
    for entry in statistics.values():
        entry.set_range()
    for node in observed:
        if hasattr(node.operation, "follow_input"):
            node.operation.follow_input(node.inputs[0].note.quantizer.params())
    settle_halves(graph)
    return qmodel


def has_ranges(qmodel):
    """Whether there is anything to calibrate; in a model whose policies are all float there is not."""
    return any(isinstance(layer, QuantLayer) for layer in qmodel._flatten_layers())


def _observed(graph):
    """The nodes whose layer owns the grid of its output."""
    return [node for node in graph.nodes if _owns_grid(node)]


def _owns_grid(node):
    quantizer = getattr(node.operation, "output_quantizer", None)
    return quantizer is not None and node.output.note is not None and node.output.note.quantizer is quantizer


def _sampling_step(graph, observed):
    """A compiled function: inputs → (minimum, maximum, sample) of each observed tensor, computed in float."""

    def step(*inputs):
        values = graph.run(inputs, in_float)
        return [_summarize(values[node.output]) for node in observed]

    return backend.compiled(step)


def _summarize(x):
    flat = ops.reshape(x, (-1,))
    size = ops.cast(ops.size(flat), "int64")
    indices = ops.arange(ops.minimum(size, SAMPLES), dtype="int64") * STEP % size
    return ops.min(flat), ops.max(flat), ops.take(flat, indices)


class _Statistics:
    """What calibration has seen of one tensor."""

    def __init__(self, node):
        self.path, self.quantizer = node.path, node.operation.output_quantizer
        self.low, self.high, self.samples = np.inf, -np.inf, []

    def add(self, low, high, sample):
        if not np.isfinite([low, high]).all():
            raise CalibrationError(
                f"The output of layer '{self.path}' is NaN or infinite on the calibration data. Check its weights."
            )
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.samples.append(sample)

    def set_range(self):
        least, most = self.quantizer.bounds
        low = min(max(self.low, -np.inf if least is None else least), 0.0)
        high = max(min(self.high, np.inf if most is None else most), 0.0)
        self.quantizer.set_range(*best_range(np.concatenate(self.samples), low, high, self.quantizer.type.levels))


def best_range(values, low, high, levels=INT8.levels):
    """The range in `[low, high]` with the least mean squared error after quantization.

    Args:
        values: sample of the tensor, any shape.
        low, high: its extremes; `low <= 0 <= high`.
        levels: steps from one end of the grid to the other.

    Returns:
        `(low, high)`, both scaled down by the same share.
    """
    if high <= low:
        return low, high
    values = np.clip(values, low, high)

    def error(share):
        scale = (high - low) * share / levels
        zero_point = np.rint(-low * share / scale)
        quantized = np.clip(np.rint(values / scale) + zero_point, 0, levels)
        return np.mean(((quantized - zero_point) * scale - values) ** 2)

    shares = np.linspace(1.0, SMALLEST_SHARE, CANDIDATES)
    best = shares[np.argmin([error(share) for share in shares])]
    return low * best, high * best
