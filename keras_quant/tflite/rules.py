"""All lowering rules, registered by import."""

from keras_quant.tflite import (  # noqa: F401
    activation,
    add,
    affine,
    concatenate,
    conv,
    dense,
    gather,
    multiply,
    pooling,
    relu,
    reshape,
    upsampling,
)
