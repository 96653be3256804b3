"""A quantized model → an `.onnx` file of QuantizeLinear/DequantizeLinear; a float model → a float one."""

import keras
from keras import tree

from keras_quant.errors import ExportError
from keras_quant.graph import settle_halves, trace
from keras_quant.graph.sizes import Sized
from keras_quant.layers import is_quantized
from keras_quant.onnx import (
    places,
    rules,  # noqa: F401  registers the lowering rules
)
from keras_quant.onnx.file import LARGEST, data_name, write_model
from keras_quant.onnx.lower import lower
from keras_quant.onnx.opset import OLDEST_OPSET, newest_opset
from keras_quant.onnx.report import describe
from keras_quant.tflite.ends import check_end_types

STORAGES = ("uint8", "int8")


def export_onnx(
    qmodel, path, batch_size=None, input_type=None, output_type=None, opset=None, storage="uint8", largest=LARGEST
):
    """Write a model as `.onnx`; see `keras_quant.export`.

    Args:
        qmodel, path, batch_size, input_type, output_type, opset, storage: as of `keras_quant.export`.
        largest: bytes of a file beyond which weights go into one of their own.

    Returns:
        `OnnxReport`.
    """
    _check(batch_size, opset, storage, input_type, output_type)
    opset = newest_opset() if opset is None else opset
    if is_quantized(qmodel):
        settle_halves(trace(qmodel, keep_float=True))
    elif not isinstance(qmodel, (keras.Model, Sized)) or not qmodel.built:
        raise ExportError("A built `keras.Model` is needed. Call it once on a batch, or `build` it, before exporting.")
    # What was made is let go before ONNX Runtime loads it: weights may be large.
    return describe(path, *_written(qmodel, path, opset, batch_size, storage, input_type, output_type, largest))


def _written(qmodel, path, opset, batch_size, storage, input_type, output_type, largest):
    """Write the file; returns its bytes, and the layer paths of its nodes."""
    lowering, graph = lower(qmodel, opset, batch_size, storage, input_type, largest)
    outputs = {n: lowering.tensors[v] for n, v in zip(graph.output_names, tree.flatten(graph.outputs))}
    for name, tensor in outputs.items():
        _output(name, tensor, lowering, output_type)
    builder = lowering.builder
    model, apart = builder.finish(qmodel.name, data_name(path) if builder.bytes > largest else None)
    made = {path: value for node in graph.with_calls_apart().nodes for path, value in node.named_outputs().items()}
    layers = {path: lowering.tensors[value] for path, value in made.items() if value.note is not None}
    places.note(model, layers, {**outputs, **lowering.given})
    return write_model(path, model, apart), builder.paths


def _check(batch_size, opset, storage, input_type, output_type):
    if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
        raise ExportError(f"`batch_size` is a positive integer, or None for open. Received: batch_size={batch_size!r}")
    if opset is not None and (type(opset) is not int or not OLDEST_OPSET <= opset <= newest_opset()):
        raise ExportError(
            f"`opset` is an integer from {OLDEST_OPSET}, the first with a scale for each channel, to {newest_opset()}, the "
            f"newest that the installed ONNX Runtime runs. Received: opset={opset!r}"
        )
    if storage not in STORAGES:
        raise ExportError(f"`storage` is one of {list(STORAGES)}. Received: storage={storage!r}")
    check_end_types(input_type=input_type, output_type=output_type)


def _output(name, x, lowering, wanted):
    """A model's output: real numbers, or the integers that they are made of."""
    lowering.path = name
    if wanted in (None, "float32"):
        lowering.builder.output(name, lowering.real(x, False), x.shape, "float32")
        return
    kind = None if x.params is None else x.params.type.storage
    if kind is None or (kind == "int16") != (wanted == "int16"):
        raise ExportError(
            f"Output '{name}' is {'real numbers' if kind is None else kind} in the model and cannot be {wanted}. "
            f'Export with `output_type="float32"`. Received: output_type={wanted!r}'
        )
    if wanted in (lowering.storage, "int16"):
        value = lowering.integers(x, False)
    else:
        grid = lowering.grid(f"{name}/{wanted}", x.params, wanted)
        value = lowering.node("QuantizeLinear", [lowering.real(x, False), *grid], wanted)
    lowering.builder.output(name, value, x.shape, wanted)
