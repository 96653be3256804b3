"""Rule for Dense: FULLY_CONNECTED."""

from keras import ops

from keras_quant.layers import QuantDense
from keras_quant.tflite.conv import product
from keras_quant.tflite.lower import lowers, params_of


@lowers(QuantDense)
def fully_connected(lowering, layer, x, output):
    weights = layer.folded_weights(params_of(x), output.params)
    y = lowering.activation(output)
    return product(lowering, output, x, weights, ops.convert_to_numpy(weights.kernel), y, layer)
