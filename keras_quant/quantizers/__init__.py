"""Serializable objects that own ranges and rounding."""

from keras_quant.quantizers.activation import ActivationQuantizer, UniformQuantizer
from keras_quant.quantizers.codebook import (
    Codebook,
    KMeans,
    LearnedCodebook,
    LookUp,
    PowersOfTwo,
    ProductCodebook,
    Quantile,
)
from keras_quant.quantizers.distribution import Distribution
from keras_quant.quantizers.fixed import FixedGrid, FixedRange
from keras_quant.quantizers.learned import LSQ, PACT, LSQPlus
from keras_quant.quantizers.learned_weight import KernelLSQ, LearnedClipping
from keras_quant.quantizers.observed import MovingAverage, Symmetric, Symmetric16
from keras_quant.quantizers.ranges import (
    Entropy,
    LeastSquares,
    MeanStd,
    MinMax,
    MovingMinMax,
    Percentile,
    RangeMethod,
    Truncation,
)
from keras_quant.quantizers.registry import KERNEL, OUTPUT, get, serialize, with_width
from keras_quant.quantizers.state import StateRange
from keras_quant.quantizers.table import TableQuantizer
from keras_quant.quantizers.weight import AbsMax, ClippedAbsMax, WeightQuantizer

__all__ = [
    "AbsMax",
    "ActivationQuantizer",
    "ClippedAbsMax",
    "Codebook",
    "Distribution",
    "Entropy",
    "FixedGrid",
    "FixedRange",
    "KERNEL",
    "KMeans",
    "KernelLSQ",
    "LSQ",
    "LSQPlus",
    "LearnedCodebook",
    "LearnedClipping",
    "LeastSquares",
    "LookUp",
    "MeanStd",
    "MinMax",
    "MovingAverage",
    "MovingMinMax",
    "OUTPUT",
    "PACT",
    "Percentile",
    "PowersOfTwo",
    "ProductCodebook",
    "Quantile",
    "RangeMethod",
    "StateRange",
    "Symmetric",
    "Symmetric16",
    "TableQuantizer",
    "Truncation",
    "UniformQuantizer",
    "WeightQuantizer",
    "get",
    "serialize",
    "with_width",
]
