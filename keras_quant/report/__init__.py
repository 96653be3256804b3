"""What a quantized model costs and loses, layer by layer: tables, data frames, plots, TensorBoard."""

from keras_quant.report.histogram import Histogram
from keras_quant.report.layer import LayerReport
from keras_quant.report.measure import Measured, measure
from keras_quant.report.model import ModelReport, RangeHistory
from keras_quant.report.report import report

__all__ = ["Histogram", "LayerReport", "Measured", "ModelReport", "RangeHistory", "measure", "report"]
