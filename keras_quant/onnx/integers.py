"""Rules for what picks places: ArgMax, ArgMin; for rows of tables: Gather."""

from keras import ops
from keras.src.ops import numpy as knp

from keras_quant.layers import DynamicEmbedding, QuantEmbedding
from keras_quant.layers.reshape import axes_of
from keras_quant.onnx.builder import DTYPES
from keras_quant.onnx.lower import lowers, lowers_float
from keras_quant.onnx.lowering import Made

_ARGUMENTS = {knp.Argmax: "ArgMax", knp.Argmin: "ArgMin"}


@lowers_float(*_ARGUMENTS)
def argument(lowering, operation, inputs, output):
    (x,) = inputs
    (axis,) = axes_of(operation.axis, x.rank, output.name)
    name = _ARGUMENTS[type(operation)]
    place = lowering.node(name, [lowering.real(x, False)], axis=axis, keepdims=int(operation.keepdims))
    return Made(lowering.node("Cast", [place], to=DTYPES["float32"]))


@lowers(QuantEmbedding)
def embedding(lowering, layer, x, output):
    index = _index(lowering, x)
    if layer.output_quantizer.has_row_scales:
        return Made(_real_rows(lowering, layer, layer.output_quantizer, index))
    integers = ops.convert_to_numpy(layer.output_quantizer.integers(ops.convert_to_tensor(layer.embeddings)))
    storage = lowering.storage_of(output.params)
    zero = 128 if storage == "uint8" else 0
    table = lowering.constant("table", (integers + zero).astype(storage))
    return Made(lowering.node("Gather", [table, index], axis=0), integers=True)


@lowers_float(DynamicEmbedding)
def dynamic_embedding(lowering, layer, inputs, output):
    (x,) = inputs
    return Made(_real_rows(lowering, layer, layer.table_quantizer, _index(lowering, x)))


def _index(lowering, x):
    return lowering.node("Cast", [lowering.real(x, False)], "index", to=DTYPES["int64"])


def _real_rows(lowering, layer, quantizer, index):
    """Picked rows of integers, times the one scale or each row's own."""
    values = ops.convert_to_tensor(layer.embeddings)
    integers, scale = (ops.convert_to_numpy(x) for x in (quantizer.integers(values), quantizer.scale(values)))
    rows = lowering.node("Gather", [lowering.constant("table", integers.astype("int8")), index], axis=0)
    scales = lowering.constant("table_scales", scale)
    if quantizer.has_row_scales:
        scales = lowering.node("Gather", [scales, index], axis=0)
    return lowering.node("Mul", [lowering.node("Cast", [rows], to=DTYPES["float32"]), scales])
