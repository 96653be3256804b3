"""Does the file compute what Keras computes? ONNX Runtime answers."""

import keras

from keras_quant.data import input_batches, number_of_batches
from keras_quant.errors import ModelFileError, QuantizationError
from keras_quant.graph import settle_halves, trace
from keras_quant.graph.resized import Sizes
from keras_quant.onnx import places
from keras_quant.onnx.file import read_model
from keras_quant.onnx.runtime import Runtime
from keras_quant.tflite.parity import Comparison, ParityReport, keras_side, leaving_float


def verify_onnx(qmodel, path, data, steps=None, intermediates=False, verbose="auto", target="host"):
    """Compare a file with the model it was exported from; see `keras_quant.verify`."""
    if target != "host":
        raise QuantizationError(f"An `.onnx` file runs on ONNX Runtime on this machine. Received: target={target!r}")
    model = read_model(path)
    dims = {info.name: info.type.tensor_type.shape.dim for info in model.graph.input}
    models = qmodel if isinstance(qmodel, Sizes) else Sizes(qmodel)
    qmodel = models.of_file({name: tuple(dim.dim_value for dim in sizes)[1:] for name, sizes in dims.items()})
    graph = trace(qmodel, keep_float=True).with_calls_apart()
    settle_halves(graph)
    _check_ends(qmodel, graph, path, model)
    layers, ends = places.read(model)
    outputs = {name: ends[name] for name in graph.output_names if name in ends}
    edges = leaving_float(graph)
    given = {path: layers[path] for path in edges if path in layers}
    inside = {path: place for path, place in layers.items() if path not in given} if intermediates else {}
    # Integers where the file has them: an output of real numbers is what they stand for.
    compared = {name: outputs[name].value if name in outputs else name for name in graph.output_names}
    extra = [*outputs.values(), *inside.values(), *given.values()]
    progress = keras.utils.Progbar(number_of_batches(data, graph.inputs, steps), unit_name="batch") if verbose else None
    names = lambda chosen: {path: place.value for path, place in chosen.items()}
    side = keras_side(qmodel, graph, list(inside), list(given))
    compare = Comparison(compared, names(inside), names(given), side, Runtime(path, extra))
    compare.tolerate(graph)
    for arrays in input_batches(data, graph.inputs, steps):
        compare.add(dict(zip((value.name for value in graph.inputs), arrays)))
        if progress is not None:
            progress.add(1)
    return ParityReport(str(path), compare.samples, [report for _, report in compare.outputs], list(compare.inside.values()))


def _check_ends(qmodel, graph, path, model):
    """Refuse a file with other inputs or outputs than the model's."""
    inputs, outputs = ({info.name for info in ends} for ends in (model.graph.input, model.graph.output))
    wanted = {value.name for value in graph.inputs}
    if inputs != wanted or outputs != set(graph.output_names):
        raise ModelFileError(
            f"'{path}' was exported from another model than '{qmodel.name}': it has inputs {sorted(inputs)} and outputs "
            f"{sorted(outputs)}, the model {sorted(wanted)} and {sorted(graph.output_names)}. Export this model, or pass "
            "the other."
        )
