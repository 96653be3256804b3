"""Rules for what turns integers into rows: GATHER of a table's, ONE_HOT."""

import keras
import numpy as np
from keras import ops

from keras_quant.integer.params import INT16
from keras_quant.layers import QuantEmbedding, QuantOneHot
from keras_quant.tflite.lower import lowers, lowers_float
from keras_quant.tflite.writer import TensorType


@lowers(QuantEmbedding)
def embedding(lowering, layer, x, output):
    y, table = lowering.activation(output), _table(lowering, layer, output)
    index = x if x.kind == TensorType.INT64 else lowering.cast(x, TensorType.INT32)
    if not table.packed:
        lowering.operator("GATHER", [table.index, index], y, *table.version, "GatherOptions", axis=0)
        return y
    # GATHER picks rows as they are packed, whatever type its output is given; only DEQUANTIZE and CAST to float unpack them.
    rows = lowering.activation(output, "rows", kind=TensorType.INT4)
    lowering.operator("GATHER", [table.index, index], rows, *table.version, "GatherOptions", axis=0)
    real = lowering.writer.real(f"{output.name}/real_rows", output.shape)
    lowering.operator("DEQUANTIZE", [rows], real, 6, (2, 16, 0))
    return lowering.quantized(real, y)


def _table(lowering, layer, output):
    """The constant of a layer's table, once for all its calls."""
    key = id(layer), "table"
    if key not in lowering.moved:
        lowering.moved[key] = _Table(lowering, layer, output)
    return lowering.moved[key]


class _Table:
    """A table in the file: `index` of the constant, whether it is `packed`, GATHER's `version` and the release of that."""

    def __init__(self, lowering, layer, output):
        params = layer.output_quantizer.rows()
        integers = ops.convert_to_numpy(layer.integers(ops.convert_to_tensor(layer.embeddings)))
        scale, name = np.float32(ops.convert_to_numpy(params.scale)), f"{output.name}/table"
        self.version, self.packed = (2, (1, 14, 0)), False
        if params.type == INT16:
            self.index, self.version = lowering.writer.constant(name, integers.astype(np.int16), scale), (4, (2, 4, 0))
        elif params.type.high < 8 and integers.shape[-1] % 2 == 0:
            self.index = lowering.writer.narrow_constant(name, integers.astype(np.int8), scale, 4)
            self.version, self.packed = (7, (2, 14, 0)), True
        else:
            self.index = lowering.writer.constant(name, integers.astype(np.int8), scale)


@lowers_float(keras.layers.Embedding)
def float_embedding(lowering, layer, inputs, output):
    y = lowering.activation(output)
    table = ops.convert_to_numpy(layer.embeddings).astype(np.float32)
    constant = lowering.writer.constant(f"{output.name}/table", table)
    index = lowering.cast(*inputs, TensorType.INT32)
    lowering.operator("GATHER", [constant, index], y, 1, (1, 5, 0), "GatherOptions", axis=0)
    return y


@lowers(QuantOneHot)
def one_hot(lowering, layer, x, output):
    y = lowering.activation(output)
    constant = lambda name, value, dtype: lowering.writer.constant(f"{output.name}/{name}", np.asarray(value, dtype))
    operands = [
        x if x.kind == TensorType.INT64 else lowering.cast(x, TensorType.INT32),
        constant("classes", layer.num_classes, np.int32),
        constant("one", 1, np.int8),
        constant("zero", 0, np.int8),
    ]
    axis = layer.axis % len(y.shape)
    axis = -1 if axis == len(y.shape) - 1 else axis
    lowering.operator("ONE_HOT", operands, y, 1, (1, 11, 0), "OneHotOptions", axis=axis)
    return y
