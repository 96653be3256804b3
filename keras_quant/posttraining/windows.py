"""Samples of what single outputs of a layer are computed from: as rows, whatever convolution or product it is."""

import dataclasses
import math

import numpy as np
from keras import ops

from keras_quant.layers.conv import ConvolvesTransposed

# Values that the sampled windows of one layer may have, 128 MiB.
LARGEST = 2**25


@dataclasses.dataclass(frozen=True)
class Windows:
    """Inputs and targets of places of a layer's output, in random order.

    Attributes:
        inputs: float32 `(places, *kernel_size, inputs)`, of a Dense layer `(places, ..., inputs)`, or whole samples.
        targets: float32 `(places, ..., outputs)`, or whole samples; axes between are of size 1.
        call: function (inputs, kernel) → outputs of the shape of targets, before the activation.
    """

    inputs: np.ndarray
    targets: np.ndarray
    call: object

    @property
    def rows(self):
        """The inputs as `(places, values)`."""
        return self.inputs.reshape(len(self.inputs), -1)


def sample(layer, inputs, targets, count, seed):
    """Windows at random places.

    Args:
        layer: weighted layer; of transposed convolutions, and layers that are not known here, whole samples are taken.
        inputs, targets: lists of batches.
        count: number of places, fewer where they would take too much memory.
        seed: integer.

    Returns:
        `Windows`.
    """
    inputs, targets = ([np.asarray(ops.convert_to_numpy(x), np.float32) for x in batches] for batches in (inputs, targets))
    rng = np.random.default_rng(seed)
    if is_convolution(layer):
        return _of_convolution(layer, inputs, targets, count, rng)
    if len(layer.kernel.shape) == 2:
        rows = [np.concatenate([x.reshape(-1, x.shape[-1]) for x in batches]) for batches in (inputs, targets)]
        chosen = _choice(rng, len(rows[0]), count, rows[0].shape[-1])
        # As many axes as a batch has: a normalization insists on them.
        shape = -1, *[1] * (inputs[0].ndim - 2)
        return Windows(*(x[chosen].reshape(*shape, x.shape[-1]) for x in rows), layer.linear_call)
    order = rng.permutation(sum(map(len, inputs)))
    return Windows(*(np.concatenate(batches)[order] for batches in (inputs, targets)), layer.linear_call)


def is_convolution(layer):
    """Whether an output of the layer sees one window of its input."""
    convolves = hasattr(layer, "dilation_rate") and layer.data_format == "channels_last"
    return convolves and not isinstance(layer, ConvolvesTransposed)


def sums_rows(layer):
    """Whether each output is a product of the whole window with a column of the kernel: Dense, Conv without groups."""
    if is_convolution(layer):
        return getattr(layer, "groups", 1) == 1 and len(layer.kernel_axes) == layer.rank + 1
    return len(layer.kernel.shape) == 2


def _of_convolution(layer, inputs, targets, count, rng):
    window = math.prod(layer.kernel_size) * inputs[0].shape[-1]
    shape = targets[0].shape[1:-1]
    ends = np.cumsum([len(x) for x in inputs])
    chosen = _choice(rng, ends[-1] * math.prod(shape), count, window)
    samples, *places = np.unravel_index(chosen, (ends[-1], *shape))
    batch_of = np.searchsorted(ends, samples, side="right")
    found = []
    for number, (x, y) in enumerate(zip(inputs, targets)):
        own = batch_of == number
        at = samples[own] - (ends[number] - len(x)), *(p[own] for p in places)
        found.append((_cut(layer, x, at), y[at].reshape(-1, *[1] * layer.rank, y.shape[-1])))
    order = rng.permutation(len(chosen))
    return Windows(*(np.concatenate(parts)[order] for parts in zip(*found)), _call_of_convolution(layer))


def _cut(layer, x, at):
    """The windows that see the outputs at `at`, which gives sample and place of each."""
    rank, index = layer.rank, [at[0].reshape(-1, *[1] * layer.rank)]
    widths = [(0, 0)]
    for axis in range(rank):
        size, stride, dilation = layer.kernel_size[axis], layer.strides[axis], layer.dilation_rate[axis]
        reach = dilation * (size - 1)
        widths.append(_padding(layer.padding, x.shape[1 + axis], reach + 1, stride))
        taps = at[1 + axis][:, None] * stride + dilation * np.arange(size)
        index.append(taps.reshape(-1, *[size if other == axis else 1 for other in range(rank)]))
    return np.pad(x, [*widths, (0, 0)])[tuple(index)]


def _padding(padding, size, reach, stride):
    """Zeros before and behind one axis, as TensorFlow has them."""
    if padding == "causal":
        return reach - 1, 0
    total = max((-(-size // stride) - 1) * stride + reach - size, 0) if padding == "same" else 0
    return total // 2, total - total // 2


def _call_of_convolution(layer):
    depthwise = len(layer.kernel_axes) == layer.rank
    product = ops.depthwise_conv if depthwise else ops.conv

    def call(inputs, kernel):
        kernel = kernel * getattr(layer, "input_scale", 1.0)
        return layer.finish(product(inputs, kernel, 1, "valid", "channels_last"))

    return call


def _choice(rng, places, count, values):
    count = min(count, places, max(1, LARGEST // values))
    return rng.choice(places, count, replace=False)
