"""Sums that residual blocks hand on, in float32."""

import keras

from keras_quant import backend
from keras_quant.layers.annotation import annotation
from keras_quant.settings import InFloat32

# Larger than any sum, so that nothing is clipped.
_FAR = 3e38


@keras.saving.register_keras_serializable(package="keras_quant")
class ExactSum(InFloat32, keras.layers.Add):
    """`keras.layers.Add` of what lies on grids and of other such sums, in float32: single additions, which are exact.

    DEQUANTIZE of each input that lies on a grid, and ADD; nothing is rounded to 8 bits.
    """

    is_exact = True

    def call(self, inputs, training=None):
        return super().call(inputs if training else [_in_place(x) for x in inputs])


def _in_place(x):
    """The real numbers of a tensor, behind an operation by which TensorFlow's optimizer adds in the order that is written.

    It turns `a·s + b·s` into `(a + b)·s`, and sums of sums into one of all.
    """
    note = annotation(x)
    if backend.is_symbolic(x):
        return x
    if note is None or note.quantized is None:
        return backend.clip(x, -_FAR, _FAR)
    return backend.product_in_place(note.quantized.integers, note.quantized.params.scale)
