"""Rules for what a mask chooses: SELECT_V2, and means of what it keeps."""

import numpy as np
from keras import ops
from keras.src.ops import numpy as knp

from keras_quant.layers import QuantMaskedMean, QuantWhere
from keras_quant.tflite.concatenate import on_grid
from keras_quant.tflite.float_elementwise import classes
from keras_quant.tflite.lower import lowers, lowers_float
from keras_quant.tflite.writer import KINDS, Tensor, TensorType

_DTYPES = {kind: np.dtype(name) for name, kind in KINDS.items()}
_SINCE = 1, (2, 2, 0)


@lowers(QuantWhere)
def where(lowering, layer, inputs, output):
    y = lowering.activation(output)
    mask, operands = layer.parted(inputs)
    if layer.mask is not None:
        mask = lowering.writer.constant(f"{output.name}/mask", ops.convert_to_numpy(mask))
    moved = {x.index: on_grid(lowering, x, y, output, i) for i, x in enumerate(operands) if isinstance(x, Tensor)}
    chosen = [
        moved[x.index] if isinstance(x, Tensor) else _number(lowering, layer.fill(x, output.params), y, output)
        for x in operands
    ]
    lowering.operator("SELECT_V2", [mask, *chosen], y, *_SINCE, "SelectV2Options")
    return y


def _number(lowering, centred, y, output):
    values = (np.atleast_1d(ops.convert_to_numpy(centred)) + y.zero_point).astype(_DTYPES[y.kind])
    return lowering.writer.constant(f"{output.name}/number", values, y.scale, 0, y.zero_point)


@lowers_float(*classes(knp, Where=None))
def float_where(lowering, operation, inputs, output):
    mask, *operands = inputs
    y = lowering.activation(output)
    constant = lambda name, x, kind: lowering.writer.constant(
        f"{output.name}/{name}", np.asarray(ops.convert_to_numpy(x)).astype(_DTYPES[kind])
    )
    pick = lambda name, x, kind: lowering.cast(x, kind) if isinstance(x, Tensor) else constant(name, x, kind)
    mask = pick("mask", mask, TensorType.BOOL)
    chosen = [pick("operand", x, y.kind) for x in operands]
    lowering.operator("SELECT_V2", [mask, *chosen], y, *_SINCE, "SelectV2Options")
    return y


@lowers(QuantMaskedMean)
def masked_mean(lowering, layer, inputs, output):
    """MUL by the mask onto a step of 1, so that real values are the centred integers; their sum, DIV, MUL by the scale."""
    x, mask = inputs
    steps, channels = x.shape[1:]
    of = lambda name, shape, scale, zero: lowering.writer.activation(f"{output.name}/{name}", shape, scale, zero)
    real = lambda name, shape: lowering.writer.real(f"{output.name}/{name}", shape)
    mask = lowering.cast(lowering.reshape(mask, output, (steps, 1), "mask"), TensorType.BOOL)
    ones, kept = of("ones", (steps, 1), np.float32(1 / x.scale), 0), of("kept", (steps, channels), 1.0, x.zero_point)
    cast = {"inDataType": mask.kind, "outDataType": ones.kind}
    lowering.operator("CAST", [mask], ones, 1, (1, 5, 0), "CastOptions", **cast)
    product = (3, (1, 15, 0)) if x.scale * ones.scale >= 1 else (2, (1, 14, 0))
    lowering.operator("MUL", [x, ones], kept, *product, "MulOptions")
    total = _sum(lowering, layer, lowering.real(kept), output, "total")
    counted = _sum(lowering, layer, lowering.cast(mask, TensorType.FLOAT32), output, "counted")
    one = lowering.writer.constant(f"{output.name}/one", np.ones((1,), np.float32))
    count = real("count", counted.shape[1:])
    lowering.operator("MAXIMUM", [counted, one], count, 1, (1, 8, 0), "MaximumMinimumOptions")
    share, mean = real("share", output.shape), real("mean", output.shape)
    lowering.operator("DIV", [total, count], share, 1, (1, 6, 0), "DivOptions")
    scale = lowering.writer.constant(f"{output.name}/step", np.full((1,), x.scale, np.float32))
    lowering.operator("MUL", [share, scale], mean, 1, (1, 5, 0), "MulOptions")
    return lowering.quantized(mean, lowering.activation(output))


def _sum(lowering, layer, x, output, name):
    shape = (1, *x.shape[2:]) if layer.keepdims else x.shape[2:]
    y = lowering.writer.real(f"{output.name}/{name}", shape)
    axes = lowering.ints(output, "axes", [1])
    lowering.operator("SUM", [x, axes], y, 1, (1, 6, 0), "ReducerOptions", keepDims=layer.keepdims)
    return y
