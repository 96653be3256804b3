"""The real or imaginary part of a Fourier transform: TensorFlow's tensors of complex numbers never are inputs or outputs."""

import tensorflow as tf
from keras import ops

from keras_quant.backend.graph_functions.operator import Plan, recognizes

_TRANSFORMS = {"FFT": "fft", "FFT2D": "fft2", "IFFT2D": "ifft2"}  # this Keras may lack one


@recognizes("Real", "Imag")
def _part_of_transform(operation):
    transform, part = operation.inputs[0].op, int(operation.type == "Imag")
    if transform.type == "RFFT":
        length = tf.get_static_value(transform.inputs[1])
        rule = lambda operator, x: ops.rfft(x, None if length is None else int(length[0]))[part]
        return Plan([transform.inputs[0]], rule)
    function = getattr(ops, _TRANSFORMS.get(transform.type, ""), None)
    if function is None:
        return None
    parts = transform.inputs[0].op
    if parts.type not in ("Cast", "Complex") or any(x.dtype.is_complex for x in parts.inputs):
        return None
    rule = lambda operator, real, *others: function((real, *(others or [ops.zeros_like(real)])))[part]
    return Plan(list(parts.inputs), rule)
