"""Callbacks for `fit`."""

from keras_quant.callbacks.freeze_oscillating import FreezeOscillating
from keras_quant.callbacks.locate_nan import LocateNaN
from keras_quant.callbacks.schedule import Schedule
from keras_quant.callbacks.weight_average import WeightAverage
from keras_quant.report.summary import QuantizationSummary

__all__ = ["FreezeOscillating", "LocateNaN", "QuantizationSummary", "Schedule", "WeightAverage"]
