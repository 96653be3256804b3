"""Quantization-aware training for Keras 3: what you train is what you ship, bit for bit."""

from keras_quant import callbacks, layers, posttraining, quantizers, search
from keras_quant.calibrate import calibrate
from keras_quant.distill import Distiller, distill
from keras_quant.errors import (
    CalibrationError,
    EmulatorError,
    ExportError,
    ModelFileError,
    QuantizationError,
    RangesApartWarning,
    UnsupportedLayerError,
)
from keras_quant.export import export, verify
from keras_quant.layers import register_quantized_layer
from keras_quant.policy import Policy, PolicyMap
from keras_quant.posttraining import RefineReport, refine
from keras_quant.quantize import quantize
from keras_quant.report import LayerReport, ModelReport, report
from keras_quant.tflite import ExportReport, ParityReport, register_lowering

__version__ = "0.1.0"
