"""Rules for what turns integers into rows: GATHER of a table's, ONE_HOT."""

import keras
import numpy as np
from keras import ops

from keras_quant.integer.params import INT16
from keras_quant.layers import DynamicEmbedding, QuantEmbedding, QuantOneHot
from keras_quant.tflite.float_weighted import weights
from keras_quant.tflite.lower import lowers, lowers_float
from keras_quant.tflite.writer import TensorType


@lowers(QuantEmbedding)
def embedding(lowering, layer, x, output):
    y, table, index = lowering.activation(output), _table(lowering, layer, output), _index(lowering, x)
    if table.kind == TensorType.INT4 or table.scales is not None:
        return lowering.quantized(table.real_rows(lowering, index, output, "real_rows"), y)
    return table.pick(lowering, index, y)


@lowers_float(DynamicEmbedding)
def dynamic_embedding(lowering, layer, inputs, output):
    return _table(lowering, layer, output).real_rows(lowering, _index(lowering, *inputs), output)


@lowers_float(keras.layers.Embedding)
def float_embedding(lowering, layer, inputs, output):
    if (id(layer), "table") not in lowering.moved:
        table = weights(lowering, output, "table", ops.convert_to_numpy(layer.embeddings))
        lowering.moved[id(layer), "table"] = table
    y, table = lowering.activation(output), lowering.moved[id(layer), "table"]
    lowering.operator("GATHER", [table, _index(lowering, *inputs)], y, 1, (1, 5, 0), "GatherOptions", axis=0)
    return y


def _index(lowering, x):
    return x if x.kind == TensorType.INT64 else lowering.cast(x, TensorType.INT32)


def _table(lowering, layer, output):
    """The constants of a layer's table, once for all its calls."""
    key = id(layer), "table"
    if key not in lowering.moved:
        quantizer = layer.table_quantizer if isinstance(layer, DynamicEmbedding) else layer.output_quantizer
        lowering.moved[key] = _Table(lowering.writer, quantizer, layer.embeddings, f"{output.name}/table")
    return lowering.moved[key]


class _Table:
    """A table in the file.

    Attributes:
        index: of the constant.
        kind: `TensorType` of its integers; INT4 lies two a byte.
        scale: the one scale, or 1 where there is one a row.
        scales: index of the constant that holds a scale a row, `(rows, 1)`, or `None`.
        version: of the GATHER that picks from it, and the release of that.
    """

    def __init__(self, writer, quantizer, embeddings, name):
        values = ops.convert_to_tensor(embeddings)
        integers, scale = (ops.convert_to_numpy(x) for x in (quantizer.integers(values), quantizer.scale(values)))
        self.scale = np.float32(1.0 if quantizer.has_row_scales else scale)
        self.scales = writer.constant(f"{name}_scales", scale) if quantizer.has_row_scales else None
        if quantizer.table_type == INT16:
            self.kind, self.version = TensorType.INT16, (4, (2, 4, 0))
            self.index = writer.constant(name, integers.astype(np.int16), self.scale)
        elif quantizer.table_type.high < 8 and integers.shape[-1] % 2 == 0:
            self.kind, self.version = TensorType.INT4, (7, (2, 14, 0))
            self.index = writer.narrow_constant(name, integers.astype(np.int8), self.scale, 4)
        else:
            self.kind, self.version = TensorType.INT8, (2, (1, 14, 0))
            self.index = writer.constant(name, integers.astype(np.int8), self.scale)

    def pick(self, lowering, index, y):
        """GATHER of integers into the new tensor `y`."""
        lowering.operator("GATHER", [self.index, index], y, *self.version, "GatherOptions", axis=0)
        return y

    def real_rows(self, lowering, index, output, name=None):
        """What is picked as real numbers, in a tensor named like the output or, with `name`, beside it.

        GATHER picks rows of 4 bits as they are packed, whatever type its output is given; only DEQUANTIZE and CAST to float
        unpack them.
        """
        make, of = lowering.writer, lambda part: f"{output.name}/{part}"
        whole = output.name if name is None else of(name)
        rows = self.pick(lowering, index, make.activation(of("rows"), output.shape, self.scale, 0, self.kind, output.rows))
        real = make.real(whole if self.scales is None else of("unscaled"), output.shape, output.rows)
        versions = {TensorType.INT4: (6, (2, 16, 0)), TensorType.INT16: (3, (2, 1, 0)), TensorType.INT8: (2, (1, 14, 0))}
        lowering.operator("DEQUANTIZE", [rows], real, *versions[self.kind])
        if self.scales is None:
            return real
        scales = make.real(of("scales"), (*output.shape[:-1], 1), output.rows)
        lowering.operator("GATHER", [self.scales, index], scales, 1, (1, 5, 0), "GatherOptions", axis=0)
        scaled = make.real(whole, output.shape, output.rows)
        lowering.operator("MUL", [real, scales], scaled, 1, (1, 5, 0), "MulOptions")
        return scaled


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
