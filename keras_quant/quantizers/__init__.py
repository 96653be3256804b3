"""Serializable objects that own ranges and rounding."""

from keras_quant.quantizers.activation import ActivationQuantizer, FixedGrid, MovingAverage, Symmetric, Symmetric16
from keras_quant.quantizers.registry import get, serialize
from keras_quant.quantizers.weight import AbsMax

__all__ = ["AbsMax", "ActivationQuantizer", "FixedGrid", "MovingAverage", "Symmetric", "Symmetric16", "get", "serialize"]
