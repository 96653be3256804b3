"""Quantization-aware layers: each stands where the Keras layer of the same name, without `Quant`, would stand."""

from keras_quant.layers.activation import QuantActivation, QuantSigmoid, QuantSiLU, QuantSoftmax, QuantTanh
from keras_quant.layers.add import QuantAdd, QuantSubtract
from keras_quant.layers.affine import QuantBatchNormalization, QuantNormalization, QuantRescaling
from keras_quant.layers.annotation import annotate, annotation
from keras_quant.layers.base import QuantComposite, Quantize, QuantLayer
from keras_quant.layers.concatenate import QuantConcatenate
from keras_quant.layers.conv import QuantConv2D, QuantConv2DTranspose, QuantDepthwiseConv2D, QuantSeparableConv2D
from keras_quant.layers.dense import QuantDense
from keras_quant.layers.dropout import (
    QuantActivityRegularization,
    QuantAlphaDropout,
    QuantDropout,
    QuantGaussianDropout,
    QuantGaussianNoise,
    QuantIdentity,
    QuantSpatialDropout1D,
    QuantSpatialDropout2D,
)
from keras_quant.layers.multiply import QuantMultiply
from keras_quant.layers.pooling import (
    QuantAveragePooling2D,
    QuantGlobalAveragePooling2D,
    QuantGlobalMaxPooling2D,
    QuantMaxPooling2D,
)
from keras_quant.layers.registry import computes, operation_factory, quantized_class, quantizes, register_quantized_layer
from keras_quant.layers.relu import QuantLeakyReLU, QuantReLU
from keras_quant.layers.reshape import (
    QuantCropping2D,
    QuantFlatten,
    QuantPermute,
    QuantReshape,
    QuantZeroPadding2D,
)
from keras_quant.layers.upsampling import QuantUpSampling2D
