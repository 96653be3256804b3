"""Rule for Dense layers that quantize activations as they run: MatMulInteger; and what those of convolutions share.

XNNPACK, and so `predict`, has a grid for each sample, or row of a Dense layer. DynamicQuantizeLinear has one for the whole
tensor: it is used where that is the same, in files of batch 1. Elsewhere its arithmetic is spelled out with a range for
each sample, and a product of zero points and sums of weights is taken off; one sample then never depends on those beside it.
"""

import numpy as np
from keras import activations, ops

from keras_quant.layers import DynamicDense
from keras_quant.onnx.builder import DTYPES
from keras_quant.onnx.lower import lowers_float
from keras_quant.onnx.lowering import INT4_SINCE, Made
from keras_quant.onnx.pooling import reduced
from keras_quant.quantizers.weight import integers_and_scale

# Of a range of nothing but zeros.
_SMALLEST_SCALE = np.float32(1e-30)


@lowers_float(DynamicDense)
def dense(lowering, layer, inputs, output):
    (x,) = inputs
    integers, scale = kernel_integers(layer)
    held = held_kernel(lowering, layer, integers)
    real = lowering.real(x, False)
    if layer.kernel_quantizer.group_size is not None:
        return Made(_by_group(lowering, layer, real, held, scale, x.rank, output.shape))
    whole = lowering.builder.batch_size == 1 and x.rank == 2
    q, step, zero = on_its_grid(lowering, real) if whole else on_own_grids(lowering, real, [x.rank - 1])
    sums = integers.sum(0, dtype=np.int32)
    y = product_of_integers(lowering, "MatMulInteger", [q, held], zero, None if whole else sums)
    return Made(finished(lowering, layer, y, step, scale, output.shape))


def _by_group(lowering, layer, real, held, scale, rank, shape):
    """A product whose kernel has scales by group, `(groups, channels)`: in float, as no integer operator takes these."""
    q, step, zero = on_own_grids(lowering, real, [rank - 1])
    centred = lowering.node("Sub", [lowering.node("Cast", [q], to=DTYPES["float32"]), zero])
    groups, channels = scale.shape
    parts = lowering.ints("groups", [groups, layer.kernel_quantizer.group_size, channels])
    kernel = lowering.node("Reshape", [lowering.node("Cast", [held], to=DTYPES["float32"]), parts])
    kernel = lowering.node("Mul", [kernel, lowering.constant("kernel/group_scales", scale[:, None])])
    kernel = lowering.node("Reshape", [kernel, lowering.ints("whole", [-1, channels])])
    return finished(lowering, layer, lowering.node("MatMul", [centred, kernel]), step, np.ones(channels, np.float32), shape)


def on_its_grid(lowering, x):
    """uint8 integers of a tensor on one grid, its scale and zero point."""
    names = [f"{lowering.path}/{name}" for name in ("input/quantized", "input/scale", "input/zero_point")]
    return lowering.builder.node_of_many("DynamicQuantizeLinear", [x], lowering.path, names)


def on_own_grids(lowering, x, axes):
    """Likewise, with a grid for each part of the tensor that `axes` span."""
    nothing = lowering.constant("nothing", np.float32(0.0))
    low = lowering.node("Min", [reduced(lowering, "ReduceMin", x, axes), nothing])
    high = lowering.node("Max", [reduced(lowering, "ReduceMax", x, axes), nothing])
    steps = lowering.constant("steps", np.float32(255.0))
    step = lowering.node("Div", [lowering.node("Sub", [high, low]), steps])
    step = lowering.node("Max", [step, lowering.constant("smallest", _SMALLEST_SCALE)], "input/scale")
    zero = lowering.node("Round", [lowering.node("Neg", [lowering.node("Div", [low, step])])], "input/zero_point")
    shifted = lowering.node("Add", [lowering.node("Div", [x, step]), zero])
    # QuantizeLinear for its rounding and clamp: the scale is 1.
    unit = [lowering.constant("unit/scale", np.float32(1.0)), lowering.constant("unit/zero_point", np.uint8(0))]
    return lowering.node("QuantizeLinear", [shifted, *unit], "input/quantized"), step, zero


def product_of_integers(lowering, operator, operands, zero, sums, **attributes):
    """The int32 product of integers less their zero points.

    Args:
        lowering, operator, operands, attributes: as of `Lowering.node`.
        zero: name of the zero point.
        sums: of the weights that one output reads; `None` where the operator knows the zero point, being one.
    """
    if sums is None:
        return lowering.node(operator, [*operands, zero], **attributes)
    whole = lowering.node("Cast", [zero], to=DTYPES["int32"])
    over = lowering.node("Mul", [whole, lowering.constant("kernel/sums", sums)])
    return lowering.node("Sub", [lowering.node(operator, operands, **attributes), over])


def finished(lowering, layer, product, step, scale, shape):
    """The integer product brought back to real numbers, the bias and the activation."""
    return activated(lowering, layer, scaled(lowering, product, step, scale, layer.bias), shape)


def scaled(lowering, product, step, scale, bias):
    """The integer product brought back to real numbers, and the bias.

    Args:
        product, step: names of the integers and of the scale of what they were made of.
        scale: of the kernel, of a shape that broadcasts against the product.
        bias: array of as many numbers, or `None`.
    """
    y = lowering.node("Cast", [product], to=DTYPES["float32"])
    y = lowering.node("Mul", [y, lowering.node("Mul", [step, lowering.constant("kernel/scale", scale)])])
    if bias is None:
        return y
    bias = ops.convert_to_numpy(bias).astype(np.float32)
    return lowering.node("Add", [y, lowering.constant("bias", bias.reshape(scale.shape))])


def activated(lowering, layer, y, shape, first=False):
    """The activation of real numbers of a shape, channels first or last."""
    if layer.activation is activations.linear:
        return y
    if layer.activation is activations.relu:
        return lowering.node("Relu", [y])
    order = [0, *range(2, len(shape) + 1), 1]
    y = lowering.node("Transpose", [y], perm=order) if first else y
    y = lowering.function(layer.activation, [y], [shape])
    return lowering.node("Transpose", [y], perm=[0, len(shape), *range(1, len(shape))]) if first else y


def kernel_integers(layer):
    """int8 integers of a kernel, in the Keras layout, and the scales of its output channels."""
    integers, scale = integers_and_scale(layer.kernel_quantizer, layer.kernel, layer.kernel_axes)
    return ops.convert_to_numpy(integers).astype(np.int8), ops.convert_to_numpy(scale)


def held_kernel(lowering, layer, integers):
    if layer.kernel_quantizer.stored_bits > 4 or lowering.opset < INT4_SINCE:
        return lowering.constant("kernel", integers)
    packed = lowering.builder.constant_int4(f"{lowering.path}/kernel", integers)
    return lowering.node("Cast", [packed], "kernel/int8", to=DTYPES["int8"])
