"""Rule for concatenation: CONCATENATION, with a QUANTIZE before each input that lies on another grid."""

from keras_quant.layers import QuantConcatenate
from keras_quant.tflite.lower import lowers
from keras_quant.tflite.relu import requantize

# XNNPACK joins at most this many tensors at once.
MOST_INPUTS = 5


@lowers(QuantConcatenate)
def concatenation(lowering, layer, inputs, output):
    y = lowering.activation(output)
    moved = [on_grid(lowering, x, y, output, index) for index, x in enumerate(inputs)]
    axis = layer.axis if layer.axis >= 0 else layer.axis + len(y.shape)
    return join(lowering, moved, y, output, axis)


def join(lowering, tensors, y, output, axis):
    """Concatenate any number of tensors on one grid into `y`, a few at a time."""
    while len(tensors) > MOST_INPUTS:
        head, rest = tensors[:MOST_INPUTS], tensors[MOST_INPUTS:]
        shape = list(head[0].shape[1:])
        shape[axis - 1] = sum(t.shape[axis] for t in head)
        part = lowering.writer.activation(f"{output.name}/part", shape, y.scale, y.zero_point)
        tensors = [_concatenate(lowering, head, part, axis), *rest]
    return _concatenate(lowering, tensors, y, axis)


def _concatenate(lowering, tensors, y, axis):
    lowering.operator("CONCATENATION", tensors, y, 2, (1, 14, 0), "ConcatenationOptions", axis=axis)
    return y


def on_grid(lowering, x, y, output, index):
    """Operand number `index` of a rule, by QUANTIZE if it is not on the grid of `y` yet."""
    if (x.scale, x.zero_point) == (y.scale, y.zero_point):
        return x
    target = lowering.writer.activation(f"{output.name}/input_{index}", x.shape[1:], y.scale, y.zero_point)
    return requantize(lowering, x, target)
