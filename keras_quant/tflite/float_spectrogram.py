"""Rules for spectrograms: the Fourier transform of each frame as a strided CONV_2D, then real arithmetic."""

import math

import keras
import numpy as np
from keras import ops

from keras_quant.errors import ExportError
from keras_quant.layers import MelSpectrogram
from keras_quant.tflite.conv import Padding
from keras_quant.tflite.float_elementwise import binary
from keras_quant.tflite.lower import Output, lowers_float

STFTSpectrogram = getattr(keras.layers, "STFTSpectrogram", None)


class _Chain:
    """Operators one after the other, named by what they do; the last one makes the output.

    Args:
        lowering: `Lowering`.
        output: `Output` of the layer.
    """

    def __init__(self, lowering, output):
        self.lowering, self.output = lowering, output

    def binary(self, name, x, other, part):
        """An operator of a tensor and another one, a number or an array, which broadcasts against it."""
        like = Output(self.output.name, x.shape[1:], None)
        return binary(self.lowering, name, x, other, like, part)

    def unary(self, name, x, since, part=None, options=None):
        y = self.lowering.activation(self.output, part, x.shape[1:])
        self.lowering.operator(name, [x], y, 1, since, options)
        return y

    def transposed(self, x, order, part=None):
        y = self.lowering.activation(self.output, part, [x.shape[axis] for axis in order[1:]])
        order = self.lowering.ints(self.output, f"{part or 'last'}_order", order)
        self.lowering.operator("TRANSPOSE", [x, order], y, 1, (1, 6, 0), "TransposeOptions")
        return y

    def frames(self, x, kernel, stride, padding, part):
        """The products of a kernel `(length, frequencies)` with every frame of `(time, signals, 1)`."""
        length, count = kernel.shape
        steps = -(-x.shape[1] // stride) if padding == "same" else (x.shape[1] - length) // stride + 1
        y = self.lowering.activation(self.output, part, (steps, x.shape[2], count))
        constant = self.lowering.writer.constant
        weights = constant(f"{self.output.name}/{part}_kernel", np.float32(kernel.T[:, :, None, None]))
        bias = constant(f"{self.output.name}/{part}_bias", np.zeros(count, np.float32))
        fields = {"strideH": stride, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1}
        fields["padding"] = Padding.SAME if padding == "same" else Padding.VALID
        self.lowering.operator("CONV_2D", [x, weights, bias], y, 1, (1, 5, 0), "Conv2DOptions", **fields)
        return y

    def power(self, real, imaginary, part=None):
        squares = [self.binary("MUL", x, x, f"square_{i}") for i, x in enumerate((real, imaginary))]
        return self.binary("ADD", *squares, part)


if STFTSpectrogram is not None:

    @lowers_float(STFTSpectrogram)
    def stft_spectrogram(lowering, layer, inputs, output):
        (x,) = inputs
        chain, last = _Chain(lowering, output), layer.data_format == "channels_last"
        if not last:
            x = chain.transposed(x, (0, 2, 1), "moved")
        x = lowering.reshape(x, output, (*x.shape[1:], 1), "signals")
        kernels = [ops.convert_to_numpy(k)[:, 0] for k in _kernels(layer)]
        if layer.mode == "stft":
            kernels = [np.concatenate(kernels, 1)]
        made = [
            chain.frames(x, kernel, layer._frame_step, layer.padding, f"transform_{i}") for i, kernel in enumerate(kernels)
        ]
        spectrum = made[0] if len(made) == 1 else _MODES[layer.mode](chain, *made)
        # (time, signals, frequencies), from which Keras's order of axes is a permutation.
        if last:
            moved = chain.transposed(spectrum, (0, 1, 3, 2), "order") if layer.expand_dims else spectrum
        else:
            moved = chain.transposed(spectrum, (0, 2, 1, 3) if layer.expand_dims else (0, 2, 3, 1), "order")
        return lowering.reshape(moved, output, output.shape)


def _kernels(layer):
    return [k for k in (getattr(layer, "real_kernel", None), getattr(layer, "imag_kernel", None)) if k is not None]


def _psd(chain, real, imaginary):
    """Frequencies that stand for two, all but the first and last, count twice."""
    twice = np.full(real.shape[-1], 2.0, np.float32)
    twice[[0, -1]] = 1.0
    return chain.binary("MUL", chain.power(real, imaginary, "power"), twice, "density")


def _magnitude(chain, real, imaginary):
    power = chain.binary("MAXIMUM", chain.power(real, imaginary, "power"), keras.config.epsilon(), "floor")
    return chain.unary("SQRT", power, (1, 8, 0), "magnitude")


def _logarithm(chain, real, imaginary):
    magnitude = chain.binary("MAXIMUM", _magnitude(chain, real, imaginary), keras.config.epsilon(), "least")
    return chain.unary("LOG", magnitude, (1, 8, 0), "logarithm")


def _angle(chain, real, imaginary):
    y = chain.lowering.activation(chain.output, "angle", real.shape[1:])
    chain.lowering.operator("ATAN2", [imaginary, real], y, 1, (2, 10, 0))
    return y


_MODES = {"psd": _psd, "magnitude": _magnitude, "log": _logarithm, "angle": _angle}


@lowers_float(MelSpectrogram)
def mel_spectrogram(lowering, layer, inputs, output):
    (x,) = inputs
    chain, steps = _Chain(lowering, output), output.shape[1]
    border = layer.fft_length // 2
    amounts = lowering.ints(output, "border", [(0, 0), (border, border)])
    padded = lowering.activation(output, "padded", (x.shape[1] + 2 * border,))
    lowering.operator("MIRROR_PAD", [x, amounts], padded, 1, (1, 13, 1), "MirrorPadOptions", mode=0)
    x = lowering.reshape(padded, output, (padded.shape[1], 1, 1), "signal")
    parts = [
        chain.frames(x, kernel, layer.sequence_stride, "valid", f"transform_{i}") for i, kernel in enumerate(layer.kernels())
    ]
    if parts[0].shape[1] != steps:
        raise ExportError(
            f"Layer '{output.name}': Keras says that it makes {steps} frames, and it makes {parts[0].shape[1]}. Give it a "
            f"signal one value shorter. Received: a length of {inputs[0].shape[1]}"
        )
    spectrum = _to_power(chain, *parts, layer.mag_exp)
    mel = _mel(chain, layer, lowering.reshape(spectrum, output, (steps, spectrum.shape[-1]), "frames"))
    return chain.transposed(_decibels(chain, layer, mel) if layer.power_to_db else mel, (0, 2, 1))


def _to_power(chain, real, imaginary, exponent):
    power = chain.power(real, imaginary, "power")
    if exponent == 2:
        return power
    magnitude = chain.unary("SQRT", power, (1, 8, 0), "magnitude")
    if exponent == 1:
        return magnitude
    raised = chain.lowering.activation(chain.output, "raised", magnitude.shape[1:])
    constant = chain.lowering.writer.constant(f"{chain.output.name}/exponent", np.float32(exponent))
    chain.lowering.operator("POW", [magnitude, constant], raised, 1, (1, 10, 0), "PowOptions")
    return raised


def _mel(chain, layer, spectrum):
    matrix = layer.linear_to_mel_weight_matrix(
        num_mel_bins=layer.num_mel_bins,
        num_spectrogram_bins=spectrum.shape[-1],
        sampling_rate=layer.sampling_rate,
        lower_edge_hertz=layer.min_freq,
        upper_edge_hertz=layer.max_freq,
    )
    weights = chain.lowering.writer.constant(f"{chain.output.name}/bands", np.float32(ops.convert_to_numpy(matrix)).T)
    y = chain.lowering.activation(chain.output, "mel", (spectrum.shape[1], layer.num_mel_bins))
    chain.lowering.operator(
        "FULLY_CONNECTED", [spectrum, weights, -1], y, 6, (2, 3, 0), "FullyConnectedOptions", keepNumDims=True
    )
    return y


def _decibels(chain, layer, mel):
    least = chain.binary("MAXIMUM", mel, layer.min_power, "least")
    decibels = chain.binary("MUL", chain.unary("LOG", least, (1, 8, 0), "logarithm"), 10 / math.log(10), "decibels")
    reference = float(ops.convert_to_numpy(layer.reference))
    if reference:
        decibels = chain.binary("SUB", decibels, reference, "relative")
    loudest = chain.lowering.activation(chain.output, "loudest", (1, 1))
    axes = chain.lowering.ints(chain.output, "loudest_axes", [1, 2])
    chain.lowering.operator("REDUCE_MAX", [decibels, axes], loudest, 1, (1, 14, 0), "ReducerOptions", keepDims=True)
    quietest = chain.binary("SUB", loudest, layer.top_db, "quietest")
    return chain.binary("MAXIMUM", decibels, quietest, "audible")
