"""Rule for functions of one value, by the table that `layer.table` gives: in steps on XNNPACK, or by GATHER."""

import math

import numpy as np
from keras import ops

from keras_quant.integer import FoldedWeights
from keras_quant.integer.params import INT8_MIN
from keras_quant.layers import QuantPower, QuantTable
from keras_quant.tflite.conv import convolution
from keras_quant.tflite.lower import lowers, params_of
from keras_quant.tflite.writer import TensorType

# Up to so many values a sample; built-in kernels take less than half the time for each, and split the graph.
MOST_VALUES_IN_STEPS = 4096


@lowers(QuantTable, QuantPower)
def table(lowering, layer, x, output):
    entries = ops.convert_to_numpy(layer.table(params_of(x), output.params)).astype(np.int8)
    in_steps = math.prod(x.shape[1:]) <= MOST_VALUES_IN_STEPS and not lowering.resizable
    return (steps if in_steps else _gather)(lowering, entries, x, output)


def steps(lowering, entries, x, output):
    """Two pointwise CONV_2D: units that jump at one input each, and the sum of the table's changes at those inputs.

    The first clamps `4 · 127 · (q - t)` to 0…255 over its zero point, which is `255 · [q > t]` for integers q. The second
    weighs each unit with `table[t + 1] - table[t]`, a 255th of a step each, on top of `table[first]`. Nothing is rounded
    anywhere: any table, exact on every kernel.
    """
    y_scale, y_zero = np.float32(output.params.scale), int(output.params.zero_point)
    at, changes = _changes(entries)
    units, unit_scale = len(at), np.float32(1.0)
    pixels = (math.prod(x.shape[1:]), 1)
    jump = FoldedWeights(
        kernel=np.full((1, 1, 1, units), 127.0),
        bias=-127.0 * (at - x.zero_point),
        scale=np.full(units, 4.0 * unit_scale / x.scale, np.float32),
        multiplier=None,
    )
    total = FoldedWeights(
        kernel=changes.reshape(1, 1, units, 1),
        bias=255.0 * (entries[:1].astype(float) - y_zero),
        scale=np.array([y_scale / (255.0 * unit_scale)], np.float32),
        multiplier=None,
    )
    x = lowering.reshape(x, output, (*pixels, 1), "values")
    jumps = lowering.writer.activation(f"{output.name}/steps", (*pixels, units), unit_scale, INT8_MIN, rows=output.rows)
    lowering.layers[jumps.name] = lowering.path
    convolution(lowering, output, x, jump, jumps)
    shape = (*pixels, 1)
    y = lowering.activation(output, None if shape == output.shape else "sums", shape)
    return lowering.reshape(convolution(lowering, output, jumps, total, y), output, output.shape)


def _changes(entries):
    """Where a table of 256 int8 changes from one input to the next, and by how much, in parts that int8 weights hold."""
    at, changes = [], []
    for place, change in enumerate(np.diff(entries.astype(int)), INT8_MIN):
        while change:
            part = int(np.clip(change, -127, 127))
            at.append(place)
            changes.append(part)
            change -= part
    return np.array(at or [0]), np.array(changes or [0])


def _gather(lowering, entries, x, output):
    """CAST, ADD, GATHER: `table[q + 128]`."""
    y = lowering.activation(output)
    table = lowering.writer.constant(f"{output.name}/table", entries, y.scale, zero_point=y.zero_point)
    make = lambda name: lowering.writer.integers(f"{output.name}/{name}", x.shape[1:], rows=output.rows)
    wide, index = map(make, ("wide", "index"))
    lowering.operator(
        "CAST", [x], wide, 1, (1, 5, 0), "CastOptions", inDataType=TensorType.INT8, outDataType=TensorType.INT32
    )
    lowering.operator("ADD", [wide, lowering.ints(output, "first", [128])], index, 1, (1, 5, 0), "AddOptions")
    lowering.operator("GATHER", [table, index], y, 2, (1, 14, 0), "GatherOptions", axis=0)
    return y
