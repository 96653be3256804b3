"""Post-training methods: better integers for the weights that are there, from data without labels, without training."""

from keras_quant.posttraining.adaround import AdaRound
from keras_quant.posttraining.equalization import CrossLayerEqualization
from keras_quant.posttraining.gptq import GPTQ
from keras_quant.posttraining.method import Change, Method, get
from keras_quant.posttraining.refine import refine
from keras_quant.posttraining.report import MethodReport, RefineReport
from keras_quant.posttraining.statistics import BatchNormReestimation, BiasCorrection

__all__ = [
    "AdaRound",
    "BatchNormReestimation",
    "BiasCorrection",
    "Change",
    "CrossLayerEqualization",
    "GPTQ",
    "Method",
    "MethodReport",
    "RefineReport",
    "get",
    "refine",
]
