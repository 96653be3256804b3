"""All lowering rules, registered by import."""

from keras_quant.tflite import (  # noqa: F401
    activation,
    add,
    affine,
    concatenate,
    constant,
    conv,
    dense,
    depth_to_space,
    elu,
    gather,
    gelu,
    matmul,
    maximum,
    multiply,
    pooling,
    reduce,
    relu,
    reshape,
    table,
    upsampling,
)
