"""Symmetric weight quantization."""

import keras
from keras import ops

from keras_quant import backend
from keras_quant.quantizers.registry import register


@register("abs_max")
class AbsMax(keras.layers.Layer):
    """Symmetric, per channel, with the scale that just holds the largest weight.

    Forward: `s·rint(w/s)` with `s = max|w| / (2**(bits-1) - 1)` over each output channel; zero point 0.
    Gradient: straight through, `∂L/∂w = ∂L/∂(s·rint(w/s))`; no weight is ever clipped.

    Args:
        bits: integer from 2 to 8.

    References:
        - [Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference](
          https://arxiv.org/abs/1712.05877)
    """

    def __init__(self, bits=8, **kwargs):
        super().__init__(**kwargs)
        if not 2 <= bits <= 8:
            raise ValueError(f"`bits` must be between 2 and 8. Received: bits={bits}")
        self.bits = bits
        self.built = True

    @property
    def limit(self):
        """The largest integer; the smallest is its negative."""
        return 2 ** (self.bits - 1) - 1

    def scale(self, kernel, reduce_axes):
        """The training scale of each channel.

        Args:
            kernel: float32 weights.
            reduce_axes: axes that one channel spans.

        Returns:
            Positive float32 of `kernel`'s shape with `reduce_axes` removed; 1 where a channel is all zero.
        """
        largest = ops.max(ops.abs(kernel), axis=reduce_axes)
        largest = ops.cast(ops.where(largest > 0, largest, 1.0), "float64")
        # Compilers turn a float32 division by a constant into a product, which rounds otherwise now and then.
        return ops.cast(largest / float(self.limit), "float32")

    def fake_quant(self, kernel, reduce_axes):
        """The values that the integers stand for, with a straight-through gradient. Args as in `scale`."""
        scale = ops.expand_dims(self.scale(ops.stop_gradient(kernel), reduce_axes), reduce_axes)
        # The same product as in `integer.fold`: training and export round every weight alike.
        values = backend.round_half_even(kernel * (1.0 / scale)) * scale
        return backend.straight_through(values, kernel)

    def get_config(self):
        return {**super().get_config(), "bits": self.bits}
