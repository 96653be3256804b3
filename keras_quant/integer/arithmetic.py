"""Which kernels compute a tensor: XNNPACK's where it is int8, LiteRT's built-in ones where it is int16."""

import types

from keras_quant.integer import int16, weights
from keras_quant.integer.add import add, subtract
from keras_quant.integer.params import rescale
from keras_quant.integer.pooling import mean
from keras_quant.integer.relu import requantize

_KERNELS = {
    "int8": types.SimpleNamespace(
        accumulate=weights.accumulate,
        rescale=lambda accumulator, folded, y, bounds: rescale(accumulator, folded.multiplier, y, bounds),
        rescale_rows=lambda accumulator, folded, y, bounds: rescale(accumulator, folded.multiplier, y, bounds),
        requantize=requantize,
        relu=requantize,
        add=add,
        subtract=subtract,
        mean=mean,
    ),
    "int16": types.SimpleNamespace(
        accumulate=int16.accumulate,
        rescale=lambda accumulator, folded, y, bounds: int16.rescale(accumulator, folded.exact_multiplier, y, bounds),
        rescale_rows=lambda accumulator, folded, y, bounds: int16.rescale_rows(
            accumulator, folded.exact_multiplier, y, bounds
        ),
        requantize=int16.requantize,
        relu=int16.relu,
        add=int16.add,
        subtract=int16.subtract,
        mean=int16.mean,
    ),
}


def kernels(*grids):
    """The formulas for operators between tensors on these grids: int16's where one of them is int16.

    Args:
        *grids: `QuantParams` of input and output.
    """
    return _KERNELS["int16" if any(grid.type.storage == "int16" for grid in grids) else "int8"]


def weighted_sum(product, x, weights, axes, y, bounds):
    """`Σ c_x·q_w + bias`, brought to the output's scale and clamped, as the convolutions for the output's type do.

    Args:
        product, x, weights: as of `weights.accumulate`.
        axes: of the kernel that are summed over.
        y: `QuantParams` of the output.
        bounds: of the fused activation.
    """
    own = kernels(y)
    return own.rescale(own.accumulate(product, x, weights, axes), weights, y, bounds)
