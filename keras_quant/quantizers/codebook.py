"""Quantizers of weights whose levels are not evenly spaced: codebooks, snapped to the int8 grid.

The exported model is an ordinary one of int8: the integers of a kernel merely take few values, which zlib and zstd compress
(`ExportReport.compressed`). No kernel of the runtime indexes a table of weights, so nothing runs faster.
"""

import warnings

import keras
import numpy as np
from keras import ops
from scipy.cluster import vq

from keras_quant import backend
from keras_quant.errors import QuantizationError
from keras_quant.integer.params import float32_ratio
from keras_quant.quantizers.registry import KERNEL, register
from keras_quant.quantizers.weight import WeightQuantizer, largest_weights

# Iterations of k-means, which `kmeans2` does not tell to stop.
ITERATIONS = 30


def _even_levels(shape, dtype=None):
    return ops.linspace(-1.0, 1.0, shape[0], dtype=dtype)


def _kmeans(values, first):
    """The centroids that k-means finds from `first`; one that nothing is nearest to stays where it is."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="One of the clusters is empty")
        return vq.kmeans2(values, first, iter=ITERATIONS, minit="matrix", missing="warn")[0]


class Codebook(WeightQuantizer):
    """Mixin: each weight, as a share of its channel's largest, becomes the nearest of the levels of one kernel.

    Forward: `ŵ = s·c` with `s = max|w| / limit` of the channel and `c` the nearest to `w/s` of the codebook's integers.
    Gradient of the weights: straight through.

    `keras_quant.quantize` and `calibrate` choose the levels from the weights; those of a layer built by hand are even until
    then.

    A subclass gives `levels_for`, and sets `learns` for levels that are trained.

    Args:
        bits: of an index: there are up to `2**bits` levels. The integers that are stored have 8 bits.
        seed: of the search for levels, where that starts at random.
    """

    stored_bits = 8
    limit = 127

    def __init__(self, bits=4, seed=0, **kwargs):
        super().__init__(bits, **kwargs)
        self.seed = seed
        self.codebook = None

    def trained_ranges(self):
        return [self.codebook] if self.learns and self.codebook is not None else []

    @property
    def size(self):
        """Number of levels."""
        return 2**self.bits

    def levels_for(self, shares):
        """The levels for weights.

        Args:
            shares: float64 weights as shares of their channel's largest, in [-1, 1], flat.

        Returns:
            Up to `size` floats in [-1, 1].
        """
        raise NotImplementedError

    def create(self, shape, reduce_axes):
        if self.codebook is None:
            self.check_size(int(np.prod(shape)))
            self.codebook = self.add_weight(
                name="codebook",
                shape=(self.size,),
                initializer=_even_levels,
                dtype="float32",
                trainable=self.learns,
                aggregation="mean",
            )

    def check_size(self, weights):
        """Refuse a codebook that has more entries than there are weights."""
        if self.size > weights:
            raise QuantizationError(
                f"a codebook of {self.size} entries is larger than the kernel, which has {weights} weights. Take fewer "
                f"`bits`, or another quantizer for this layer. Received: bits={self.bits}"
            )

    def fit_to(self, kernel, reduce_axes):
        largest = np.maximum(np.abs(kernel).max(reduce_axes, keepdims=True), 1e-30)
        levels = np.sort(np.clip(self.levels_for(np.float64(kernel / largest).ravel()), -1.0, 1.0))
        # Levels that are missing repeat the last one.
        self.codebook.assign(np.append(levels, np.repeat(levels[-1:], self.size - len(levels))))

    def scale(self, kernel, reduce_axes):
        return ops.cast(largest_weights(ops.stop_gradient(backend.read(kernel)), reduce_axes) / float(self.limit), "float32")

    def _integers(self):
        """The levels as integers of the grid, in ascending order, float32."""
        levels = backend.clip(ops.stop_gradient(backend.read(self.codebook)), -1.0, 1.0)
        levels = ops.where(ops.isfinite(levels), levels, 0.0)
        return ops.sort(backend.round_half_even(levels * float(self.limit)))

    def _indices(self, kernel, scale):
        """Of the nearest level, for each weight."""
        integers = self._integers()
        # Half-way between two integers is a float exactly, so that all executors decide alike.
        return backend.search_sorted(0.5 * (integers[1:] + integers[:-1]), ops.reshape(float32_ratio(kernel, scale), (-1,)))

    def values(self, kernel, reduce_axes):
        kernel = ops.stop_gradient(backend.read(kernel))
        scale = ops.expand_dims(self.scale(kernel, reduce_axes), reduce_axes)
        return ops.reshape(ops.take(self._integers(), self._indices(kernel, scale)), kernel.shape) * scale

    def fake_quant(self, kernel, reduce_axes):
        kernel = backend.read(kernel)
        values = backend.straight_through(self.values(kernel, reduce_axes), kernel)
        if not self.trains_range:
            return values
        scale = ops.expand_dims(self.scale(kernel, reduce_axes), reduce_axes)
        # The order of sorting is that of the values, so the gradient finds its level through it.
        order = ops.argsort(ops.stop_gradient(backend.read(self.codebook)))
        levels = ops.take(backend.read(self.codebook), order)
        own = ops.reshape(ops.take(levels, self._indices(ops.stop_gradient(kernel), scale)), kernel.shape)
        return values + backend.only_gradient(own * (scale * float(self.limit)))

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}


@register("look_up", KERNEL)
class LookUp(Codebook):
    """Levels that are given.

    Args:
        levels: up to 256 floats in [-1, 1], as shares of a channel's largest weight; by default those of 4-bit NormalFloat.

    References:
        - [QLoRA: Efficient Finetuning of Quantized LLMs](https://arxiv.org/abs/2305.14314), appendix E, for NormalFloat
    """

    NORMAL_FLOAT = (-1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0.0, 0.0796, 0.1609, 0.2461, 0.3379, 0.4407,
                    0.5626, 0.7230, 1.0)  # fmt: skip

    def __init__(self, levels=NORMAL_FLOAT, **kwargs):
        levels = [float(level) for level in levels]
        if not (2 <= len(levels) <= 256 and np.isfinite(levels).all() and np.abs(levels).max() <= 1):
            raise QuantizationError(f"`levels` are 2 to 256 numbers in [-1, 1]. Received: levels={levels}")
        kwargs.pop("bits", None)
        super().__init__(bits=max(int(np.ceil(np.log2(len(levels)))), 2), **kwargs)
        self.levels = levels

    def levels_for(self, shares):
        return self.levels

    def check_size(self, weights):
        pass

    def get_config(self):
        return {**super().get_config(), "levels": self.levels}


@register("powers_of_two", KERNEL)
class PowersOfTwo(Codebook):
    """Zero and `±2^-i` of a channel's largest weight, on the grid of which 64 is the largest, exactly.

    Args:
        bits: of an index: the exponents go from 0 to `-(2**(bits-1) - 2)`, at most to -6, where the integer is 1.

    References:
        - [Incremental Network Quantization](https://arxiv.org/abs/1702.03044)
    """

    limit = 64

    def levels_for(self, shares):
        powers = 2.0 ** -np.arange(min(2 ** (self.bits - 1) - 1, 7))
        return np.concatenate([-powers, [0.0], powers])

    def check_size(self, weights):
        pass


@register("quantile", KERNEL)
class Quantile(Codebook):
    """Levels of equal probability: the mean of each of `2**bits` parts with equally many weights.

    Args:
        bits: of an index.

    References:
        - [8-bit Optimizers via Block-wise Quantization](https://arxiv.org/abs/2110.02861), section 2.1
    """

    def levels_for(self, shares):
        return [part.mean() for part in np.array_split(np.sort(shares), self.size)]


@register("kmeans", KERNEL)
class KMeans(Codebook):
    """Levels by k-means over the weights, `scipy.cluster.vq.kmeans2`, evenly spaced at first.

    Args:
        bits: of an index.
        seed: not used: the search starts from even levels.

    References:
        - [Deep Compression](https://arxiv.org/abs/1510.00149), section 3, with linear initialization
    """

    def levels_for(self, shares):
        even = np.linspace(shares.min(), shares.max(), self.size)
        return _kmeans(shares, even)


@register("learned_codebook", KERNEL)
class LearnedCodebook(KMeans):
    """As `KMeans`, and the levels are trained: `∂L/∂c_k` is the sum over the weights that have level `k`.

    Args:
        bits: of an index.

    References:
        - [Deep Compression](https://arxiv.org/abs/1510.00149), section 3.3
    """

    learns = True


@register("product", KERNEL)
class ProductCodebook(Codebook):
    """Product quantization: each row of `length` weights of a channel is the nearest of `2**bits` vectors, by k-means.

    The search starts from vectors drawn from a Gaussian with the weights' mean and covariance.
    Gradient of the weights: straight through.

    Args:
        bits: of an index; each weight takes `bits / length`.
        length: of a vector.
        seed: of the draw.

    References:
        - [And the Bit Goes Down: Revisiting the Quantization of Neural Networks](https://arxiv.org/abs/1907.05686)
    """

    def __init__(self, bits=8, length=2, seed=0, **kwargs):
        super().__init__(bits, seed, **kwargs)
        if not 2 <= length <= 64:
            raise QuantizationError(f"`length` of a vector is 2 to 64. Received: length={length}")
        self.length = length

    def create(self, shape, reduce_axes):
        if self.codebook is None:
            spanned = int(np.prod([shape[axis] for axis in reduce_axes]))
            self.check_size(int(np.prod(shape)) // spanned * -(-spanned // self.length))
            initializer = keras.initializers.RandomNormal(stddev=0.3, seed=self.seed)
            options = {"dtype": "float32", "trainable": False, "aggregation": "mean"}
            shape = (self.size, self.length)
            self.codebook = self.add_weight(name="codebook", shape=shape, initializer=initializer, **options)

    def check_size(self, weights):
        if self.size > weights:
            raise QuantizationError(
                f"a codebook of {self.size} vectors is larger than the kernel, which has {weights} vectors of {self.length}."
                f" Take fewer `bits`, or another quantizer for this layer. Received: bits={self.bits}, length={self.length}"
            )

    def fit_to(self, kernel, reduce_axes):
        largest = np.maximum(np.abs(kernel).max(reduce_axes, keepdims=True), 1e-30)
        rows = ops.convert_to_numpy(self._vectors(ops.convert_to_tensor(np.float64(kernel / largest)), reduce_axes))
        random = np.random.default_rng(self.seed)
        first = random.multivariate_normal(rows.mean(0), np.cov(rows, rowvar=False), self.size)
        self.codebook.assign(np.clip(_kmeans(rows, first), -1.0, 1.0))

    def _vectors(self, x, reduce_axes):
        """The weights as vectors `(number, length)`, a channel's one after the other, the last filled up with zeros."""
        kept = [axis for axis in range(len(x.shape)) if axis not in reduce_axes]
        spanned = int(np.prod([x.shape[axis] for axis in reduce_axes]))
        rows = ops.reshape(ops.transpose(x, [*kept, *reduce_axes]), (-1, spanned))
        return ops.reshape(ops.pad(rows, [[0, 0], [0, -spanned % self.length]]), (-1, self.length))

    def _kernel(self, vectors, shape, reduce_axes):
        """What `_vectors` took apart."""
        kept = [axis for axis in range(len(shape)) if axis not in reduce_axes]
        spanned = int(np.prod([shape[axis] for axis in reduce_axes]))
        rows = ops.reshape(vectors, (-1, spanned + -spanned % self.length))[:, :spanned]
        order = [*kept, *reduce_axes]
        return ops.transpose(ops.reshape(rows, [shape[axis] for axis in order]), np.argsort(order).tolist())

    def values(self, kernel, reduce_axes):
        kernel = ops.stop_gradient(backend.read(kernel))
        scale = ops.expand_dims(self.scale(kernel, reduce_axes), reduce_axes)
        steps = self._vectors(ops.cast(float32_ratio(kernel, scale), "float64"), reduce_axes)
        levels = backend.clip(ops.cast(backend.read(self.codebook), "float64"), -1.0, 1.0)
        levels = backend.round_half_even(levels * float(self.limit))
        # Integers but for the weights, in float64: no two executors decide otherwise, but on ties.
        distance = ops.sum(levels * levels, axis=1) - 2.0 * ops.matmul(steps, ops.transpose(levels))
        chosen = ops.take(ops.cast(levels, "float32"), ops.argmin(distance, axis=1), axis=0)
        return self._kernel(chosen, kernel.shape, reduce_axes) * scale

    def get_config(self):
        return {**super().get_config(), "length": self.length}
