"""Rule for matrix products of two tensors: BATCH_MATMUL."""

from keras_quant.layers.matmul import _BatchMatmul
from keras_quant.tflite.lower import lowers


@lowers(_BatchMatmul)
def batch_matmul(lowering, layer, inputs, output):
    y = lowering.activation(output)
    lowering.operator("BATCH_MATMUL", inputs, y, 2, (2, 3, 0), "BatchMatMulOptions", adjX=False, adjY=layer.transpose_b)
    return y
