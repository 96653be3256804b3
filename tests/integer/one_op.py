"""Files of one operator, and the values that LiteRT computes with them."""

import numpy as np

from keras_quant.integer import FoldedWeights, Quantized, QuantParams
from keras_quant.tflite.runtime import Runtime
from keras_quant.tflite.writer import Writer

EVERY_VALUE = np.arange(-128, 128).astype(np.int8).reshape(1, 16, 16, 1)
_PAIRS = np.meshgrid(np.arange(-128, 128), np.arange(-128, 128))
EVERY_PAIR = tuple(grid.astype(np.int8).reshape(1, 256, 256, 1) for grid in _PAIRS)


class OneOp:
    """A file with one operator.

    `inputs` are `(int8 array, scale, zero point)`; `y` is `(scale, zero point)`; `operands` turns the file's input tensors
    and the writer into the operator's operands.
    """

    def __init__(self, name, inputs, out_shape, y, version, options=None, operands=None, **fields):
        writer = Writer(batch_size=inputs[0][0].shape[0])
        fed = [writer.activation(f"x{i}", a.shape[1:], s, z) for i, (a, s, z) in enumerate(inputs)]
        out = writer.activation("y", out_shape, *y)
        operands = fed if operands is None else operands(writer, fed)
        writer.operator(name, operands, out, version, (1, 14, 0), options, **fields)
        content = writer.finish({t.name: t for t in fed}, {"y": out}, "one operator")
        self.content = content
        self.runtime = Runtime(content, name)
        self.arrays = [a for a, _, _ in inputs]

    @property
    def on_xnnpack(self):
        return self.runtime.partitions() == [{0}]

    def run(self):
        return self.runtime.run(self.arrays)[0].astype(int)


def quantized(array, scale, zero_point):
    """The `Quantized` of an int8 array."""
    params = grid(scale, zero_point)
    return Quantized(array.astype(np.float32) - params.zero_point, params)


def grid(scale, zero_point):
    return QuantParams(np.float32(scale), np.float32(zero_point))


def integers(centred, y):
    """int8 values out of centred ones."""
    return (np.asarray(centred) + y.zero_point).astype(int)


def plain_weights(kernel, bias, scale, x, y):
    """`FoldedWeights` of given integers."""
    scale = np.asarray(scale, np.float32)
    return FoldedWeights(kernel.astype(np.float32), bias.astype(np.float64), scale, (x.scale * scale) / y.scale)


def scales(seed, count):
    """Pseudo-random scales and zero points: `(s_x, z_x)` and a generator for the rest."""
    for case in range(count):
        rng = np.random.default_rng([seed, case])
        yield np.float32(np.exp(rng.uniform(-5, -1))), int(rng.integers(-128, 128)), rng
