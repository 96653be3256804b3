"""What no registry knows of Keras's layers and operations, declared with the reason; read by `coverage.py`."""

INTRODUCTION = """# What becomes of each layer and operation

Every public class of `keras.layers`, function of `keras.ops` and of `keras.activations`, of Keras {version}, with what
`kq.quantize` makes of it under the policy "int8". Written by `python -m keras_quant.coverage > docs/coverage.md` from the
registries that `quantize` itself reads; `tests/test_coverage.py` fails where this page, Keras and the package disagree.
"""
MEANINGS = {
    "int8": "one integer operator or several, in `predict` and in the file alike, no bit apart.",
    "float": "in float whatever the policy, since 8 bits would spoil it; integers again behind it.",
    "nothing": "in the file it is nothing.",
    "outside": "not part of what a device computes.",
    "refused": 'an error that says why; `quantize(..., fallback="float")` keeps it as it is.',
}

_OPENED = "is traced into what it is made of"
OPENED_LAYERS = dict.fromkeys(
    "AdditiveAttention Attention Average Bidirectional Dot GRUCell GroupQueryAttention LSTMCell Lambda Layer Masking "
    "MultiHeadAttention Pipeline ReversibleEmbedding SimpleRNNCell SpectralNormalization StackedRNNCells TimeDistributed "
    "Wrapper".split(),
    _OPENED,
)
NAMING_LAYERS = {"InputLayer": "a name for an input"}
OUTSIDE_LAYERS = {"InputSpec": "Describes what a layer takes; is no layer."}
PENDING_LAYERS = {}

OPENED_OPERATIONS = dict.fromkeys("abs conj where".split(), _OPENED)
NAMING_OPERATIONS = {"custom_gradient": "in training another gradient"}
_CONSTANT = "Makes a constant, or says something about a shape, when the model is built."
_LOSSES = "Losses and metrics are computed in training, from a model's outputs."
_ON_HOST = "Works on values, not in a graph."
OUTSIDE_OPERATIONS = {
    **dict.fromkeys(
        "arange array bartlett blackman dtype empty eye full geomspace hamming hanning identity is_tensor kaiser linspace "
        "logspace ndim ones shape size tri unravel_index zeros".split(),
        _CONSTANT,
    ),
    **dict.fromkeys(
        "binary_crossentropy categorical_crossentropy ctc_decode ctc_loss image.ssim psnr sparse_categorical_crossentropy "
        "in_top_k".split(),
        _LOSSES,
    ),
    **dict.fromkeys("convert_to_numpy jvp linalg.jvp vectorize".split(), _ON_HOST),
}
_INTEGERS = "Makes or takes integers or booleans, and has no rule for those. Do it with the model's outputs, on the host."
PENDING_OPERATIONS = {
    **dict.fromkeys(
        "allclose bitwise_and bitwise_invert bitwise_left_shift bitwise_not bitwise_or bitwise_xor "
        "bitwise_right_shift gcd isclose isfinite isin isinf isnan isneginf isposinf isreal "
        "lcm left_shift nanargmax nanargmin right_shift signbit".split(),
        _INTEGERS,
    ),
    "rearrange": "Keras finds no shape for it with an open batch. Write it as `ops.reshape` and `ops.transpose`.",
}
REFUSED_ACTIVATIONS = {
    "glu": "It halves the channels. Call `keras.ops.glu` behind the layer.",
    "sparsemax": "It orders values by size, for which the runtime has no int8 kernel. Use softmax.",
    "threshold": "As a name it has no bounds. Call `keras.ops.threshold` behind the layer.",
}
