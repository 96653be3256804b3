"""Resizing with half-pixel centres, as TensorFlow and Keras resize.

RESIZE_BILINEAR: XNNPACK's `s8-ibilinear`, 11-bit fixed-point weights. RESIZE_NEAREST_NEIGHBOR: LiteRT's built-in kernel.
"""

import numpy as np
from keras import ops

from keras_quant import backend


def resize_bilinear(x, height, width):
    """Interpolate integers, first along rows, then along columns, and round half up: `(acc + 2**21) >> 22`.

    The weights are `rint(2048·fraction)`; positions are computed in float32 as XNNPACK's indirection buffer has them
    (`xnn_indirection_init_resize_bilinear2d_hwc_q11`). Scale and zero point are the input's.

    Args:
        x: `Quantized` of `(n, h, w, c)`.
        height, width: of the output.
    """
    integers = ops.cast(x.integers, "int32")
    top, bottom, down = _positions(integers.shape[1], height)
    left, right, across = _positions(integers.shape[2], width)
    across, down = across.reshape(1, 1, -1, 1), down.reshape(1, -1, 1, 1)
    a, b = ops.take(integers, left, axis=2), ops.take(integers, right, axis=2)
    rows = 2048 * a + (b - a) * across
    a, b = ops.take(rows, top, axis=1), ops.take(rows, bottom, axis=1)
    total = 2048 * a + (b - a) * down
    return ops.cast(backend.shift_right(total + (1 << 21), 22), "float32")


def resize_nearest(x, height, width):
    """RESIZE_NEAREST_NEIGHBOR: rows and columns of `nearest_indices`. Scale and zero point are the input's.

    Args:
        x: `Quantized` of `(n, h, w, c)`.
        height, width: of the output.
    """
    rows, columns = nearest_indices(x.integers.shape[1], height), nearest_indices(x.integers.shape[2], width)
    return ops.take(ops.take(x.integers, rows, axis=1), columns, axis=2)


def nearest_indices(size, wanted):
    """For each of `wanted` places the place among `size` that it copies: `floor((i + 1/2) · (size / wanted))` in float32."""
    f32 = np.float32
    at = (np.arange(wanted, dtype=f32) + f32(0.5)) * (f32(size) / f32(wanted))
    return np.minimum(np.floor(at).astype(np.int32), size - 1)


def _positions(size, wanted):
    f32 = np.float32
    step = f32(size) / f32(wanted)
    at = np.arange(wanted, dtype=f32) * step + (f32(0.5) * step - f32(0.5))
    at = np.clip(at, f32(0), f32(size - 1))
    low = at.astype(np.int32)
    return low, np.minimum(low + 1, size - 1), np.rint((at - low) * f32(2048)).astype(np.int32)
