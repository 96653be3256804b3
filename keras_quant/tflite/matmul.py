"""Rule for matrix products of two tensors: BATCH_MATMUL."""

import numpy as np
from keras import ops

from keras_quant.layers.matmul import _BatchMatmul
from keras_quant.tflite.lower import lowers, params_of
from keras_quant.tflite.multiply import relabelled


@lowers(_BatchMatmul)
def batch_matmul(lowering, layer, inputs, output):
    a, b = inputs
    if layer.input_scale != 1:
        scale = np.float32(ops.convert_to_numpy(layer.scaled_grid(params_of(a)).scale))
        a = relabelled(lowering, a, output, scale, "scaled")
    y = lowering.activation(output)
    lowering.operator("BATCH_MATMUL", [a, b], y, 2, (2, 3, 0), "BatchMatMulOptions", adjX=False, adjY=layer.transpose_b)
    return y
