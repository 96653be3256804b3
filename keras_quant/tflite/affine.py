"""Rule for every layer that scales and shifts each channel: a 1×1 DEPTHWISE_CONV_2D."""

import math

from keras_quant.layers.affine import QuantAffine
from keras_quant.tflite.conv import depthwise, fused_activation
from keras_quant.tflite.lower import lowers, params_of


@lowers(QuantAffine)
def affine(lowering, layer, x, output):
    weights = layer.folded_weights(params_of(x), output.params)
    image = output.shape if len(output.shape) == 3 else (1, math.prod(output.shape[:-1]), output.shape[-1])
    x = lowering.reshape(x, output, image, "image")
    flat = image == tuple(output.shape)
    y = lowering.activation(output) if flat else lowering.activation(output, "scaled", image)
    depthwise(lowering, output, x, weights, y, fusedActivationFunction=fused_activation(layer))
    return y if flat else lowering.reshape(y, output, output.shape)
