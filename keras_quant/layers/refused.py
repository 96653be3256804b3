"""Keras layers that the int8 runtime has no kernel for, each with the way out."""

from keras_quant.layers.registry import refuses

refuses(
    "An int8 state that is fed back has no kernel that training could imitate exactly. Use causal, dilated Conv1D layers "
    "for the same task, or quantize the model without the recurrent part and keep that one in float.",
    "RNN",
    "Bidirectional",
    "ConvLSTM1D",
    "ConvLSTM2D",
    "ConvLSTM3D",
)
