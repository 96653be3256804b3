"""Does a file that takes a sequence a few steps a call compute what Keras computes of the whole sequence?"""

import keras
import numpy as np
from keras import ops

from keras_quant.data import input_batches, number_of_batches
from keras_quant.errors import ExportError, ModelFileError
from keras_quant.graph import settle_halves, trace
from keras_quant.graph.kept import from_zero, reset
from keras_quant.graph.picks import check_inputs
from keras_quant.graph.streaming import stream
from keras_quant.tflite.flatbuffer import SIGNATURE, signature_names, text
from keras_quant.tflite.runtime import Runtime, quantize_array
from keras_quant.tflite.streaming import RESET


def is_streaming(qmodel, model):
    """Whether a parsed file takes its inputs a few steps a call."""
    if RESET in signature_names(model):
        return True
    names = {text(entry.name) for s in model.signatureDefs or () for entry in s.inputs}
    graph = trace(qmodel, keep_float=True)
    if names <= {value.name for value in graph.inputs}:
        return False
    try:
        return names == {v.name for v in graph.inputs} | {state.before.name for state in stream(graph).states}
    except ExportError:
        return False


def verify_streaming(qmodel, path, content, model, data, options):
    """Compare step by step; a `ParityReport`.

    Each sequence begins with `reset`. What a step makes is compared with that step of `predict`; an output without steps,
    once the whole sequence was taken.

    Args:
        qmodel: the model that the file was exported from.
        path, content, model: of the file, its bytes and its `schema.ModelT`.
        data: whole sequences, whatever `fit` takes.
        options: `(steps, intermediates, verbose, target)` of `verify`.
    """
    from keras_quant.tflite.parity import ParityReport, TensorParity, keras_side

    steps, verbose = _simple(path, *options)
    graph = trace(qmodel, keep_float=True)
    settle_halves(graph)
    made = stream(graph)
    compute = keras_side(qmodel, graph, [], [])
    runner = _Runner(content, path, made, RESET in signature_names(model))
    reports, samples = [TensorParity(name) for name in graph.output_names], 0
    progress = keras.utils.Progbar(number_of_batches(data, graph.inputs, steps), unit_name="batch") if verbose else None
    for arrays in input_batches(data, graph.inputs, steps):
        check_inputs(graph, arrays)
        reset(graph)
        wanted, _ = compute({}, *map(ops.convert_to_tensor, arrays))
        samples += len(arrays[0])
        for sample in range(len(arrays[0])):
            got = runner.run([np.asarray(array[sample : sample + 1]) for array in arrays])
            for report, ours, theirs, name in zip(reports, wanted, got, graph.output_names):
                ours = quantize_array(np.asarray(ours[sample : sample + 1]), runner.grids[name])
                length = min(ours.shape[1], theirs.shape[1])
                report.add(ours[:, :length], theirs[:, :length])
        if progress is not None:
            progress.add(1)
    return ParityReport(str(path), samples, reports, [])


def verify_stateful(qmodel, graph, path, content, data, options):
    """Compare call by call, from states of zero on; a `ParityReport`.

    Args:
        qmodel: a model with `stateful` layers, whose own states stay as they are.
        graph: its `Graph`.
        path, content, data, options: as of `verify_streaming`; each batch is a call.
    """
    from keras_quant.tflite.parity import Comparison, ParityReport, keras_side

    steps, verbose = _simple(path, *options)
    runtime = Runtime(content, path, signature=SIGNATURE)
    outputs = {name: runtime.runner.get_output_details()[name]["name"] for name in graph.output_names}
    fed = [runtime.runner.get_input_details()[value.name]["name"] for value in graph.inputs]
    compare = Comparison(outputs, {}, {}, keras_side(qmodel, graph, [], []), runtime)
    compare.tolerate(graph)
    runtime.interpreter.get_signature_runner(RESET)(any=np.zeros(1, np.int32))
    progress = keras.utils.Progbar(number_of_batches(data, graph.inputs, steps), unit_name="batch") if verbose else None
    with from_zero(graph):
        for arrays in input_batches(data, graph.inputs, steps):
            check_inputs(graph, arrays)
            compare.add(dict(zip(fed, arrays)))
            if progress is not None:
                progress.add(1)
    return ParityReport(str(path), compare.samples, [report for _, report in compare.outputs], [])


def _simple(path, steps, intermediates, verbose, target):
    """What is left of the options of `verify`, where only outputs on this machine are compared."""
    if intermediates or target != "host":
        raise ModelFileError(
            f"'{path}' keeps states between calls. It is run on this machine, call by call, and compared by its outputs: "
            "leave `intermediates` and `target` out. A file of the same model for whole sequences takes them."
        )
    return steps, verbose


class _Runner:
    """Runs whole sequences through a file of steps.

    Args:
        content, path: of the file.
        made: `Stream` of the model.
        in_variables: whether the file keeps what is kept itself.
    """

    def __init__(self, content, path, made, in_variables):
        self.made, self.in_variables = made, in_variables
        self.runtime = Runtime(content, path, signature=SIGNATURE)
        self.runner = self.runtime.runner
        self.fed, self.grids = self.runner.get_input_details(), self.runner.get_output_details()
        self.kept = [] if in_variables else [(s.before.name, s.after.name) for s in made.states]

    def run(self, arrays):
        """The outputs of one sequence, in order: all steps, or the last where there are none."""
        if self.in_variables:
            self.runtime.interpreter.get_signature_runner(RESET)(any=np.zeros(1, np.int32))
        kept = {name: self._zeros(self.fed[name]) for name, _ in self.kept}
        made, names, frames = [], [value.name for value in self.made.graph.inputs], self.made.frames
        for begin in range(0, arrays[0].shape[1] // frames * frames, frames):
            part = {name: x[:, begin : begin + frames] for name, x in zip(names, arrays)}
            given = {name: quantize_array(x, self.fed[name]) for name, x in part.items()}
            made.append(self.runner(**given, **kept))
            kept = {before: made[-1][after] for before, after in self.kept}
        outputs = []
        for name, warm in zip(self.made.graph.output_names, self.made.warm):
            steps = [call[name] for call in made]
            outputs.append(steps[-1] if warm is None else np.concatenate(steps, 1)[:, warm:])
        return outputs

    @staticmethod
    def _zeros(detail):
        return np.full(detail["shape"], detail["quantization"][1], detail["dtype"])
