"""Rule for functions of one value: a table of the file's own by CAST, ADD, GATHER."""

import numpy as np
from keras import ops

from keras_quant.layers import QuantPower, QuantTable
from keras_quant.tflite.lower import lowers, params_of
from keras_quant.tflite.writer import TensorType


@lowers(QuantTable, QuantPower)
def gather(lowering, layer, x, output):
    """`table[q + 128]`."""
    y = lowering.activation(output)
    entries = ops.convert_to_numpy(layer.table(params_of(x), output.params)).astype(np.int8)
    table = lowering.writer.constant(f"{output.name}/table", entries, y.scale, zero_point=y.zero_point)
    wide, index = (lowering.writer.integers(f"{output.name}/{name}", x.shape[1:]) for name in ("wide", "index"))
    lowering.operator(
        "CAST", [x], wide, 1, (1, 5, 0), "CastOptions", inDataType=TensorType.INT8, outDataType=TensorType.INT32
    )
    lowering.operator("ADD", [wide, lowering.ints(output, "first", [128])], index, 1, (1, 5, 0), "AddOptions")
    lowering.operator("GATHER", [table, index], y, 2, (1, 14, 0), "GatherOptions", axis=0)
    return y
