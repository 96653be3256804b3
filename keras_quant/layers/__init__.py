"""Quantization-aware layers: each stands where the Keras layer of the same name, without `Quant`, would stand."""

from keras_quant.layers.activation import (
    QuantActivation,
    QuantHardSiLU,
    QuantInnerSoftmax,
    QuantSigmoid,
    QuantSiLU,
    QuantSoftmax,
    QuantTanh,
)
from keras_quant.layers.add import QuantAdd, QuantSubtract
from keras_quant.layers.affine import (
    QuantBatchNormalization,
    QuantHardSigmoid,
    QuantNormalization,
    QuantRescaling,
    QuantScaleShift,
)
from keras_quant.layers.annotation import annotate, annotation
from keras_quant.layers.attention import QuantDotProductAttention
from keras_quant.layers.base import QuantComposite, Quantize, QuantLayer
from keras_quant.layers.booleans import QuantBooleans
from keras_quant.layers.concatenate import QuantConcatenate
from keras_quant.layers.constant import QuantAddConstant, QuantConstant, QuantMultiplyConstant
from keras_quant.layers.conv import QuantConv2D, QuantConv2DTranspose, QuantDepthwiseConv2D, QuantSeparableConv2D
from keras_quant.layers.conv1d import QuantConv1D, QuantConv1DTranspose, QuantDepthwiseConv1D, QuantSeparableConv1D
from keras_quant.layers.conv3d import QuantConv3D, QuantConv3DTranspose
from keras_quant.layers.dense import QuantDense
from keras_quant.layers.depth_to_space import QuantDepthToSpace, QuantSpaceToDepth
from keras_quant.layers.divide import QuantDivide
from keras_quant.layers.dropout import (
    QuantActivityRegularization,
    QuantAlphaDropout,
    QuantDropout,
    QuantGaussianDropout,
    QuantGaussianNoise,
    QuantIdentity,
    QuantRandomCrop,
    QuantSpatialDropout1D,
    QuantSpatialDropout2D,
    QuantSpatialDropout3D,
    QuantStochasticDepth,
)
from keras_quant.layers.dynamic import DynamicDense, dynamic_class
from keras_quant.layers.dynamic_conv import (
    DynamicConv1D,
    DynamicConv1DTranspose,
    DynamicConv2D,
    DynamicConv2DTranspose,
    DynamicConv3D,
    DynamicConv3DTranspose,
    DynamicSeparableConv1D,
    DynamicSeparableConv2D,
)
from keras_quant.layers.einsum_dense import DynamicEinsumDense, QuantEinsumDense
from keras_quant.layers.elu import QuantELU, QuantSELU
from keras_quant.layers.embedding import DynamicEmbedding, QuantEmbedding
from keras_quant.layers.entrance import FloatEntrance, is_quantized
from keras_quant.layers.gather import QuantFlip, QuantRoll, QuantTake
from keras_quant.layers.gelu import QuantGELU
from keras_quant.layers.log_softmax import QuantLogSoftmax
from keras_quant.layers.loop import Loop, StepInput
from keras_quant.layers.masked_mean import QuantMaskedMean
from keras_quant.layers.matmul import QuantEinsum, QuantMatmul
from keras_quant.layers.maximum import QuantMaximum, QuantMinimum
from keras_quant.layers.multiply import QuantMultiply, QuantSquare
from keras_quant.layers.normalization import (
    QuantGroupNormalization,
    QuantLayerNormalization,
    QuantRMSNormalization,
    QuantUnitNormalization,
    is_normalized_exactly,
)
from keras_quant.layers.one_hot import QuantOneHot
from keras_quant.layers.pad import QuantPad
from keras_quant.layers.pooling import (
    QuantAveragePooling2D,
    QuantAveragePooling3D,
    QuantGlobalAveragePooling2D,
    QuantGlobalAveragePooling3D,
    QuantGlobalMaxPooling2D,
    QuantGlobalMaxPooling3D,
    QuantMaxPooling2D,
    QuantMaxPooling3D,
)
from keras_quant.layers.pooling1d import (
    QuantAveragePooling1D,
    QuantGlobalAveragePooling1D,
    QuantGlobalMaxPooling1D,
    QuantMaxPooling1D,
)
from keras_quant.layers.prelu import QuantPReLU
from keras_quant.layers.recurrent import (
    QuantBidirectional,
    QuantConvLSTM1D,
    QuantConvLSTM2D,
    QuantConvLSTM3D,
    QuantGRU,
    QuantLSTM,
    QuantRNN,
    QuantSimpleRNN,
)
from keras_quant.layers.reduce import QuantMax, QuantMean, QuantMin, QuantSum
from keras_quant.layers.refused import refuses
from keras_quant.layers.registry import (
    computes,
    float_stand_in,
    operation_factory,
    quantized_class,
    quantizes,
    reason_against,
    register_quantized_layer,
)
from keras_quant.layers.relu import QuantAbsolute, QuantClip, QuantLeakyReLU, QuantReLU
from keras_quant.layers.repeat import QuantRepeat, QuantRepeatVector, QuantTile
from keras_quant.layers.reshape import (
    QuantCropping2D,
    QuantCropping3D,
    QuantFlatten,
    QuantPermute,
    QuantRegroup,
    QuantReshape,
    QuantZeroPadding2D,
    QuantZeroPadding3D,
)
from keras_quant.layers.resizing import QuantCenterCrop, QuantResize, QuantResizing
from keras_quant.layers.sequence import QuantCropping1D, QuantUpSampling1D, QuantZeroPadding1D
from keras_quant.layers.slice import QuantSlice
from keras_quant.layers.spectrogram import MelSpectrogram
from keras_quant.layers.standardize import QuantExactStandardize, QuantStandardize
from keras_quant.layers.stream import ExactSum
from keras_quant.layers.table import QuantPower, QuantTable
from keras_quant.layers.top_k import QuantTopK
from keras_quant.layers.upsampling import QuantUpSampling2D, QuantUpSampling3D
from keras_quant.layers.where import QuantWhere
