"""Lowering to ONNX operators, the file, and the runtime that judges it. Needs the extra `onnx`."""

from keras_quant.onnx.export import export_onnx
from keras_quant.onnx.file import read_model
from keras_quant.onnx.lower import register_lowering
from keras_quant.onnx.lowering import Made
from keras_quant.onnx.parity import verify_onnx
from keras_quant.onnx.report import OnnxReport, describe
from keras_quant.onnx.runtime import Runtime

__all__ = ["Made", "OnnxReport", "Runtime", "describe", "export_onnx", "read_model", "register_lowering", "verify_onnx"]
