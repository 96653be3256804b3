"""All lowering rules, registered by import."""

from keras_quant.onnx import conv, dynamic, elementwise, movement, pooling  # noqa: F401
