"""Callbacks for `fit`."""

from keras_quant.report.summary import QuantizationSummary

__all__ = ["QuantizationSummary"]
