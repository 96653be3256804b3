"""Lowering to TFLite operators, the flatbuffer, and the runtime that judges it."""

from keras_quant.tflite.aarch64 import Emulator
from keras_quant.tflite.export import export_in_memory, export_tflite
from keras_quant.tflite.file import read_model
from keras_quant.tflite.lower import register_lowering
from keras_quant.tflite.parity import ParityReport, verify_tflite
from keras_quant.tflite.report import ExportReport, describe
from keras_quant.tflite.runtime import Runtime

__all__ = [
    "Emulator",
    "ExportReport",
    "ParityReport",
    "Runtime",
    "describe",
    "export_in_memory",
    "export_tflite",
    "read_model",
    "register_lowering",
    "verify_tflite",
]
