"""Rules for layers that only move data: RESHAPE, TRANSPOSE, PAD, STRIDED_SLICE; identities become nothing."""

from keras_quant.layers import QuantCropping2D, QuantFlatten, QuantPermute, QuantReshape, QuantZeroPadding2D
from keras_quant.layers.dropout import QuantIdentityInInference
from keras_quant.tflite.lower import lowers


@lowers(QuantIdentityInInference)
def identity(lowering, layer, x, output):
    return x


@lowers(QuantFlatten, QuantReshape)
def reshape(lowering, layer, x, output):
    return lowering.reshape(x, output, output.shape)


@lowers(QuantPermute)
def transpose(lowering, layer, x, output):
    y = lowering.activation(output)
    order = lowering.ints(output, "order", [0, *layer.dims])
    lowering.operator("TRANSPOSE", [x, order], y, 2, (1, 14, 0), "TransposeOptions")
    return y


@lowers(QuantZeroPadding2D)
def pad(lowering, layer, x, output):
    y = lowering.activation(output)
    amounts = lowering.ints(output, "amounts", [(0, 0), *layer.padding, (0, 0)])
    lowering.operator("PAD", [x, amounts], y, 2, (1, 14, 0), "PadOptions")
    return y


@lowers(QuantCropping2D)
def strided_slice(lowering, layer, x, output):
    y = lowering.activation(output)
    (top, _), (left, _) = layer.cropping
    height, width, channels = output.shape
    begin = lowering.ints(output, "begin", [0, top, left, 0])
    end = lowering.ints(output, "end", [0, top + height, left + width, channels])
    steps = lowering.ints(output, "steps", [1, 1, 1, 1])
    # The batch, whatever it is at run time.
    masks = {"beginMask": 1, "endMask": 1}
    lowering.operator("STRIDED_SLICE", [x, begin, end, steps], y, 2, (1, 14, 0), "StridedSliceOptions", **masks)
    return y
