"""Rule for concatenation: CONCATENATION, with a QUANTIZE before each input that lies on another grid."""

import dataclasses

from keras_quant.layers import QuantConcatenate
from keras_quant.tflite.lower import lowers, params_of
from keras_quant.tflite.relu import requantize
from keras_quant.tflite.writer import TensorType

# XNNPACK joins at most this many tensors at once.
MOST_INPUTS = 5


@lowers(QuantConcatenate)
def concatenation(lowering, layer, inputs, output):
    y = lowering.activation(output)
    # By tensor: one that is joined twice is moved once.
    moved = {x.index: on_grid(lowering, x, y, output, index) for index, x in enumerate(inputs)}
    axis = layer.axis if layer.axis >= 0 else layer.axis + len(y.shape)
    return join(lowering, [moved[x.index] for x in inputs], y, output, axis)


def join(lowering, tensors, y, output, axis):
    """Concatenate any number of tensors on one grid into `y`, a few at a time."""
    while len(tensors) > MOST_INPUTS:
        groups = [tensors[i : i + MOST_INPUTS] for i in range(0, len(tensors), MOST_INPUTS)]
        tensors = [_part(lowering, group, y, output, axis) if len(group) > 1 else group[0] for group in groups]
    return _concatenate(lowering, tensors, y, axis)


def _part(lowering, tensors, y, output, axis):
    shape = list(tensors[0].shape[1:])
    shape[axis - 1] = sum(t.shape[axis] for t in tensors)
    part = lowering.activation(dataclasses.replace(output, params=params_of(y)), "part", shape)
    return _concatenate(lowering, tensors, part, axis)


def _concatenate(lowering, tensors, y, axis):
    version, since = (3, (2, 3, 0)) if y.kind == TensorType.INT16 else (2, (1, 14, 0))
    lowering.operator("CONCATENATION", tensors, y, version, since, "ConcatenationOptions", axis=axis)
    return y


def on_grid(lowering, x, y, output, index):
    """Operand number `index` of a rule, by QUANTIZE if it is not on the grid of `y` yet."""
    if (x.scale, x.zero_point, x.kind) == (y.scale, y.zero_point, y.kind):
        return x
    grid = y.scale, y.zero_point, y.kind
    target = lowering.writer.activation(f"{output.name}/input_{index}", x.shape[1:], *grid, lowering.rows_of(x))
    return requantize(lowering, x, target)
