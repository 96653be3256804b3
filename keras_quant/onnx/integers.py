"""Rules for what picks places: ArgMax, ArgMin; for rows of tables: Gather."""

from keras import ops
from keras.src.ops import numpy as knp

from keras_quant.layers import QuantEmbedding
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
    integers = ops.convert_to_numpy(layer.integers(ops.convert_to_tensor(layer.embeddings)))
    storage = lowering.storage_of(output.params)
    zero = 128 if storage == "uint8" else 0
    table = lowering.constant("table", (integers + zero).astype(storage))
    index = lowering.node("Cast", [lowering.real(x, False)], "index", to=DTYPES["int64"])
    return Made(lowering.node("Gather", [table, index], axis=0), integers=True)
