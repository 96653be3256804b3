"""Rules for layers that quantize activations as they run: DynamicQuantizeLinear, MatMulInteger, ConvInteger."""

import numpy as np
from keras import activations, ops

from keras_quant.layers import DynamicConv2D, DynamicDense
from keras_quant.onnx.builder import DTYPES
from keras_quant.onnx.conv import in_order, pads_of
from keras_quant.onnx.lower import lowers_float
from keras_quant.onnx.lowering import INT4_SINCE, Made


@lowers_float(DynamicDense)
def dense(lowering, layer, inputs, output):
    (x,) = inputs
    integers, scale = _integers(layer)
    held = _held(lowering, layer, integers)
    product = lambda q, zero: lowering.node("MatMulInteger", [q, held, zero])
    return Made(_scaled(lowering, layer, lowering.real(x, False), product, scale, output.shape))


@lowers_float(DynamicConv2D)
def conv(lowering, layer, inputs, output):
    (x,) = inputs
    integers, scale = _integers(layer)
    held = _held(lowering, layer, integers.transpose(3, 2, 0, 1))
    geometry = {
        "kernel_shape": integers.shape[:2],
        "strides": list(layer.strides),
        "dilations": list(layer.dilation_rate),
        "pads": in_order(pads_of(layer, x.shape, integers.shape[:2])),
    }
    product = lambda q, zero: lowering.node("ConvInteger", [q, held, zero], **geometry)
    y = _scaled(lowering, layer, lowering.real(x, True), product, scale.reshape(-1, 1, 1), output.shape, first=True)
    return Made(y, True)


def _scaled(lowering, layer, x, product, scale, shape, first=False):
    """The integer product brought back to real numbers, the bias and the activation."""
    names = [f"{lowering.path}/{name}" for name in ("input/quantized", "input/scale", "input/zero_point")]
    integers, step, zero = lowering.builder.node_of_many("DynamicQuantizeLinear", [x], lowering.path, names)
    y = lowering.node("Cast", [product(integers, zero)], to=DTYPES["float32"])
    y = lowering.node("Mul", [y, lowering.node("Mul", [step, lowering.constant("kernel/scale", scale)])])
    if layer.bias is not None:
        bias = ops.convert_to_numpy(layer.bias).astype(np.float32)
        y = lowering.node("Add", [y, lowering.constant("bias", bias.reshape(scale.shape))])
    if layer.activation is activations.linear:
        return y
    if layer.activation is activations.relu:
        return lowering.node("Relu", [y])
    order = [0, *range(2, len(shape) + 1), 1]
    y = lowering.node("Transpose", [y], perm=order) if first else y
    y = lowering.function(layer.activation, [y], [shape])
    return lowering.node("Transpose", [y], perm=[0, len(shape), *range(1, len(shape))]) if first else y


def _integers(layer):
    """int8 integers of a kernel, in the Keras layout, and the scales of its output channels."""
    quantizer, axes = layer.kernel_quantizer, layer.kernel_axes
    scale = np.float32(np.reshape(ops.convert_to_numpy(quantizer.scale(layer.kernel, axes)), -1))
    scaled = ops.convert_to_numpy(quantizer.values(layer.kernel, axes)) * (np.float32(1.0) / scale)
    return np.clip(np.rint(scaled), -quantizer.limit, quantizer.limit).astype(np.int8), scale


def _held(lowering, layer, integers):
    if layer.kernel_quantizer.bits > 4 or lowering.opset < INT4_SINCE:
        return lowering.constant("kernel", integers)
    packed = lowering.builder.constant_int4(f"{lowering.path}/kernel", integers)
    return lowering.node("Cast", [packed], "kernel/int8", to=DTYPES["int8"])
