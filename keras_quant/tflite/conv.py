"""Rules for layers with a kernel: CONV_2D, DEPTHWISE_CONV_2D, TRANSPOSE_CONV."""

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from keras import activations, ops

from keras_quant.errors import ExportError
from keras_quant.integer import QuantParams
from keras_quant.layers import QuantConv2D, QuantConv2DTranspose, QuantDepthwiseConv2D
from keras_quant.tflite.lower import lowers

Padding, Activation = schema.Padding, schema.ActivationFunctionType
_ACTIVATIONS = {
    activations.linear: Activation.NONE,
    activations.relu: Activation.RELU,
    activations.relu6: Activation.RELU6,
}


def fused_activation(layer):
    """The format's number for the activation that the kernel fuses."""
    return Activation.NONE if layer.bounds == (None, None) else _ACTIVATIONS[layer.activation]


def weight_constants(lowering, output, weights, kernel, axis):
    """Add kernel and bias.

    Args:
        lowering: `Lowering`.
        output: `Output` of the rule.
        weights: `FoldedWeights`.
        kernel: its kernel in the operator's layout.
        axis: of the output channels there.

    Returns:
        Indices of kernel and bias.
    """
    scale = ops.convert_to_numpy(weights.scale)
    kernel = lowering.writer.constant(f"{output.name}/kernel", kernel.astype(np.int8), scale, axis)
    return kernel, scale


def bias_constant(lowering, output, weights, x, scale):
    """Add the int32 bias, at the scale that the format prescribes: s_x · s_w."""
    bias = ops.convert_to_numpy(weights.bias).astype(np.int32)
    return lowering.writer.constant(f"{output.name}/bias", bias, x.scale * scale)


def params_of(x):
    """`QuantParams` of a file's tensor."""
    return QuantParams(ops.convert_to_tensor(x.scale), ops.convert_to_tensor(np.float32(x.zero_point)))


def padding(layer):
    """The format's number for a layer's padding."""
    return Padding.SAME if layer.padding == "same" else Padding.VALID


@lowers(QuantConv2D)
def conv_2d(lowering, layer, x, output):
    weights = layer.folded_weights(params_of(x), output.params)
    kernel, scale = weight_constants(
        lowering, output, weights, ops.convert_to_numpy(weights.kernel).transpose(3, 0, 1, 2), axis=0
    )
    y = lowering.activation(output)
    lowering.operator(
        "CONV_2D",
        [x, kernel, bias_constant(lowering, output, weights, x, scale)],
        y,
        *(3, (1, 14, 0)),
        options="Conv2DOptions",
        padding=padding(layer),
        strideH=layer.strides[0],
        strideW=layer.strides[1],
        dilationHFactor=layer.dilation_rate[0],
        dilationWFactor=layer.dilation_rate[1],
        fusedActivationFunction=fused_activation(layer),
    )
    return y


def depthwise(lowering, output, x, weights, y, **fields):
    """DEPTHWISE_CONV_2D from `FoldedWeights` whose kernel is `(h, w, c, multiplier)`."""
    kernel = ops.convert_to_numpy(weights.kernel)
    height, width, channels, multiplier = kernel.shape
    flat = kernel.reshape(1, height, width, channels * multiplier)
    index, scale = weight_constants(lowering, output, weights, flat, axis=3)
    options = {
        "padding": Padding.VALID,
        "strideH": 1,
        "strideW": 1,
        "dilationHFactor": 1,
        "dilationWFactor": 1,
        "depthMultiplier": multiplier,
        "fusedActivationFunction": Activation.NONE,
        **fields,
    }
    bias = bias_constant(lowering, output, weights, x, scale)
    lowering.operator("DEPTHWISE_CONV_2D", [x, index, bias], y, 3, (1, 14, 0), "DepthwiseConv2DOptions", **options)
    return y


@lowers(QuantDepthwiseConv2D)
def depthwise_conv_2d(lowering, layer, x, output):
    return depthwise(
        lowering,
        output,
        x,
        layer.folded_weights(params_of(x), output.params),
        lowering.activation(output),
        padding=padding(layer),
        strideH=layer.strides[0],
        strideW=layer.strides[1],
        dilationHFactor=layer.dilation_rate[0],
        dilationWFactor=layer.dilation_rate[1],
        fusedActivationFunction=fused_activation(layer),
    )


@lowers(QuantConv2DTranspose)
def transpose_conv(lowering, layer, x, output):
    if lowering.writer.batch_size is None:
        raise ExportError(
            f"Layer '{output.name}': TRANSPOSE_CONV carries its whole output shape, so the batch cannot stay open. "
            "Export with a `batch_size`."
        )
    weights = layer.folded_weights(params_of(x), output.params)
    kernel = _at_least_as_large_as(layer.strides, ops.convert_to_numpy(weights.kernel))
    kernel, scale = weight_constants(lowering, output, weights, kernel.transpose(2, 0, 1, 3), axis=0)
    y = lowering.activation(output)
    activation = fused_activation(layer)
    lowering.operator(
        "TRANSPOSE_CONV",
        [lowering.ints(output, "shape", y.shape), kernel, x, bias_constant(lowering, output, weights, x, scale)],
        y,
        *((3, (2, 3, 0)) if activation == Activation.NONE else (4, (2, 13, 0))),
        options="TransposeConvOptions",
        padding=padding(layer),
        strideH=layer.strides[0],
        strideW=layer.strides[1],
        fusedActivationFunction=activation,
    )
    return y


def _at_least_as_large_as(strides, kernel):
    """A kernel smaller than the stride, filled up with zeros: the same result, and XNNPACK takes it."""
    missing = [(0, max(stride - size, 0)) for stride, size in zip(strides, kernel.shape)]
    return np.pad(kernel, [*missing, (0, 0), (0, 0)])
