"""Keras layers that the int8 runtime has no kernel for, each with the way out."""

from keras_quant.layers.registry import refuses

refuses(
    "XNNPACK has no int8 kernel for volumes. Fold one spatial axis into the batch or the channels (Reshape) and use the "
    "2-D layer of the same name.",
    "Conv3D",
    "Conv3DTranspose",
    "AveragePooling3D",
    "MaxPooling3D",
    "GlobalAveragePooling3D",
    "GlobalMaxPooling3D",
    "AdaptiveAveragePooling3D",
    "AdaptiveMaxPooling3D",
    "ZeroPadding3D",
    "Cropping3D",
    "UpSampling3D",
)
refuses(
    "An int8 state that is fed back has no kernel that training could imitate exactly. Use causal, dilated Conv1D layers "
    "for the same task, or quantize the model without the recurrent part and keep that one in float.",
    "RNN",
    "Bidirectional",
    "ConvLSTM1D",
    "ConvLSTM2D",
    "ConvLSTM3D",
)
