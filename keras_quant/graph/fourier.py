"""Fourier transforms of real and imaginary parts: products with constant matrices of cosines and sines."""

import keras
import numpy as np
from keras import tree
from keras.src.ops import math, numpy

from keras_quant.graph.expand import expands
from keras_quant.graph.graph import Value
from keras_quant.graph.steps import Steps


def takes_parts(operation):
    """Whether an operation takes real and imaginary parts, one of which may be zeros."""
    return type(operation).__name__ in ("FFT", "FFT2", "IFFT2", "IRFFT")


@expands(math, "FFT")
def _forward(node):
    return _transformed(node, [-1], -1)


@expands(math, "FFT2")
def _forward_in_two(node):
    return _transformed(node, [-1, -2], -1)


@expands(math, "IFFT2")
def _back_in_two(node):
    return _transformed(node, [-1, -2], 1)


@expands(math, "RFFT")
def _of_real(node):
    """The first half of the frequencies, of a signal that is cut or continued with zeros."""
    (x,), length = node.inputs, node.operation.fft_length
    length = x.shape[-1] if length is None else length
    if len(x.shape) < 2:
        return [node]
    steps, axis, used = Steps(node), len(x.shape) - 1, min(length, x.shape[-1])
    x = steps.cut(x, axis, 0, used)
    halves = (m[:used, : length // 2 + 1].astype("float32") for m in _matrices(length, -1))
    return steps.ends([steps.along(x, axis, matrix) for matrix in halves])


@expands(math, "IRFFT")
def _to_real(node):
    """Each frequency but the first, and the last of an even length, stands for its mirror image, too."""
    parts, output = tree.flatten(node.args[0]), node.output
    length, count = output.shape[-1], parts[0].shape[-1]
    used = min(count, length // 2 + 1)
    times = np.full((used, 1), 2.0)
    times[0] = 1.0
    if length % 2 == 0 and used == length // 2 + 1:
        times[-1] = 1.0
    cosines, sines = (times * m[:used] / length for m in _matrices(length, 1))
    steps, axis, sums = Steps(node), len(output.shape) - 1, []
    for part, matrix in zip(parts, (cosines, -sines)):
        if _is_zero(part):
            continue
        if not isinstance(part, Value):
            return [node]
        sums.append(steps.along(steps.cut(part, axis, 0, used), axis, matrix.astype("float32")))
    return steps.end(steps(numpy.Add(), *sums) if len(sums) > 1 else sums[0]) if sums else [node]


def _transformed(node, axes, sign):
    real, imaginary = tree.flatten(node.args[0])
    known = all(isinstance(part, Value) or _is_zero(part) for part in (real, imaginary))
    rank = len(node.outputs[0].shape)
    if not known or rank <= len(axes) or not isinstance(real, Value):
        return [node]
    imaginary, steps = None if _is_zero(imaginary) else imaginary, Steps(node)
    for axis in axes:
        real, imaginary = _along(steps, real, imaginary, axis % rank, sign)
    return steps.ends([real, imaginary])


def _along(steps, real, imaginary, axis, sign):
    """(a + ib)(C + iS) = (aC - bS) + i(aS + bC); b may be `None`, which is zero."""
    size = real.shape[axis]
    cosines, sines = (m.astype("float32") for m in _matrices(size, sign))
    if sign > 0:
        cosines, sines = cosines / np.float32(size), sines / np.float32(size)
    first, second = steps.along(real, axis, cosines), steps.along(real, axis, sines)
    if imaginary is None:
        return first, second
    return (
        steps(numpy.Subtract(), first, steps.along(imaginary, axis, sines)),
        steps(numpy.Add(), second, steps.along(imaginary, axis, cosines)),
    )


def _matrices(size, sign):
    """Cosines and sines of (time, frequency); a negative `sign` is the transform itself, a positive one leads back."""
    angles = 2 * np.pi * (np.outer(np.arange(size), np.arange(size)) % size) / size
    return np.cos(angles), sign * np.sin(angles)


def _is_zero(part):
    return not isinstance(part, Value) and not np.any(keras.ops.convert_to_numpy(part))
