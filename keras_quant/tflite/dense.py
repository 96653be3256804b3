"""Rule for Dense: FULLY_CONNECTED."""

from keras import ops

from keras_quant.layers import QuantDense
from keras_quant.tflite.conv import bias_constant, fused_activation, params_of, weight_constants
from keras_quant.tflite.lower import lowers

# Runtimes before this one take the version, but read one scale for all channels: measured, see docs/runtimes.md.
_PER_CHANNEL_SINCE = (2, 10, 0)


@lowers(QuantDense)
def fully_connected(lowering, layer, x, output):
    weights = layer.folded_weights(params_of(x), output.params)
    kernel, scale = weight_constants(lowering, output, weights, ops.convert_to_numpy(weights.kernel).T, axis=0)
    y = lowering.activation(output)
    lowering.operator(
        "FULLY_CONNECTED",
        [x, kernel, bias_constant(lowering, output, weights, x, scale)],
        y,
        4 if len(x.shape) == 2 else 5,
        _PER_CHANNEL_SINCE,
        options="FullyConnectedOptions",
        keepNumDims=len(x.shape) > 2,
        fusedActivationFunction=fused_activation(layer),
    )
    return y
