"""All lowering rules, registered by import."""

from keras_quant.onnx import (  # noqa: F401
    conv,
    conv_transpose,
    dynamic,
    dynamic_conv,
    elementwise,
    integers,
    loop,
    masks,
    movement,
    normalization,
    pooling,
    state,
)
