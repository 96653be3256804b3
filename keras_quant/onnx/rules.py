"""All lowering rules, registered by import."""

from keras_quant.onnx import conv, conv_transpose, dynamic, elementwise, integers, masks, movement, normalization, pooling  # noqa: F401
