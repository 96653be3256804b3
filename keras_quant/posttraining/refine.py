"""The verb `refine`: post-training methods, one after the other, with what each brings."""

import contextlib

import keras
import numpy as np
from keras import ops, tree

from keras_quant import backend
from keras_quant.calibrate import calibrate, check_ranges, has_ranges
from keras_quant.data import input_batches
from keras_quant.errors import CalibrationError
from keras_quant.graph import trace
from keras_quant.graph.graph import in_float, in_integers
from keras_quant.graph.loops import loops_of
from keras_quant.posttraining import method as methods_by_name
from keras_quant.posttraining.report import MethodReport, RefineReport
from keras_quant.posttraining.walk import Reference, largest_share, visited_layers
from keras_quant.settings import float32

# Values held at a time, 1 GiB: of larger models fewer samples are used.
LARGEST = 2**28
METHODS = ("equalization", "gptq", "adaround", "bias_correction")


@float32()
def refine(qmodel, data, methods=METHODS, steps=None, calibration_method="mse", verbose="auto"):
    """Improve a quantized model with post-training methods.

    Weights and batch statistics are changed in place; quantizers, layers and the exported operators stay what they are, so
    `fit` may go on from there. Layers are taken one after the other, each with the inputs that those before it make by then.

    Args:
        qmodel: quantized `keras.Model` with its ranges set, as `quantize(model, policy, calibration_data=data)` gives it.
        data: whatever `fit` takes; labels are ignored. 500 to 2,000 training images are enough. Held in memory.
        methods: names or objects of `keras_quant.posttraining`, in the order in which they are applied: "equalization",
            "gptq", "adaround", "bias_correction", "batch_norm". A layer that "gptq" has rounded is left to it by "adaround",
            and the other way round.
        steps: number of batches to use; all by default.
        calibration_method: `method` of `calibrate`, which follows on "equalization".
        verbose: "auto" or 1 for a progress bar, 0 for none.

    Returns:
        `RefineReport`: what each method did to the model's outputs, and to each layer.

    Raises:
        CalibrationError: if a range was never set, or the data is empty or does not fit the model.
        QuantizationError: for an unknown method.
    """
    methods = [methods_by_name.get(each) for each in ([methods] if isinstance(methods, str) else methods)]
    graph = trace(qmodel, keep_float=True)
    _check(qmodel, graph)
    batches = _batches(data, graph, steps)

    def recalibrate():
        if has_ranges(qmodel):
            calibrate(qmodel, _as_data(batches, graph), verbose=0, method=calibration_method)

    task = methods_by_name.Task(graph, batches, recalibrate, Reference(graph))
    exact = _outputs(graph, batches, in_float)
    sqnr, reports = _sqnr(graph, batches, exact), []
    with _restored_on_error(qmodel):
        for each in methods:
            with _progress(each, graph, verbose) as task.progress:
                changes = each.apply(task)
            if each.keeps_function:
                task.reference = Reference(graph)
            before, sqnr = sqnr, _sqnr(graph, batches, exact)
            reports.append(MethodReport(each.name, before, sqnr, changes))
    return RefineReport(qmodel.name, sum(len(batch[0]) for batch in batches), tuple(reports))


def _check(qmodel, graph):
    if not visited_layers(graph):
        raise CalibrationError(f"Model '{qmodel.name}' has no quantized layer with weights. Pass it to `quantize` first.")
    check_ranges(graph)


def _batches(data, graph, steps):
    """Batches of inputs, as many as fit into memory."""
    room, kept = max(1, LARGEST // largest_share(graph)), []
    for arrays in input_batches(data, graph.inputs, steps):
        kept.append([array[:room] for array in arrays])
        room -= len(kept[-1][0])
        if room <= 0:
            break
    return kept


def _as_data(batches, graph):
    if len(graph.inputs) == 1:
        return np.concatenate([batch[0] for batch in batches])
    return {value.name: np.concatenate([batch[i] for batch in batches]) for i, value in enumerate(graph.inputs)}


def _outputs(graph, batches, compute):
    """The model's outputs, flat, of each batch."""

    def run(*inputs):
        values = graph.run(list(inputs), compute, release=True)
        return [values[value] for value in tree.flatten(graph.outputs)]

    # A loop takes its time where it is no graph.
    run = backend.compiled_for_batches(run) if loops_of(graph) else run
    made = [run(*map(ops.convert_to_tensor, batch)) for batch in batches]
    return [[np.float64(ops.convert_to_numpy(x)) for x in outputs] for outputs in made]


def _sqnr(graph, batches, exact):
    """Dict from the outputs' names to the signal to quantization noise ratio in dB."""
    found = _outputs(graph, batches, in_integers)
    ratios = {}
    for i, name in enumerate(graph.output_names):
        noise = sum(float(np.sum((y[i] - wanted[i]) ** 2)) for y, wanted in zip(found, exact))
        power = sum(float(np.sum(wanted[i] ** 2)) for wanted in exact)
        ratios[name] = float(10 * np.log10(max(power, 1e-30) / noise)) if noise > 0 else float("inf")
    return ratios


@contextlib.contextmanager
def _restored_on_error(qmodel):
    """Give the model its weights back if anything goes wrong."""
    weights = qmodel.get_weights()
    try:
        yield
    except BaseException:
        qmodel.set_weights(weights)
        raise


@contextlib.contextmanager
def _progress(method, graph, verbose):
    """A function that is called with each layer that is done."""
    if not verbose:
        yield lambda path: None
        return
    bar = keras.utils.Progbar(len(visited_layers(graph)), unit_name=f"layer ({method.name})")
    yield lambda path: bar.add(1)
    bar.update(bar.target, finalize=True)
