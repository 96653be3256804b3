"""A model of each layer and operation that `docs/coverage.md` says has an int8 form."""

import functools

import keras
import numpy as np
from keras import ops

L = keras.layers
WORDS, IMAGE = (6, 8), (12, 12, 3)


def _of(name):
    """The public function of this name, `image.resize` in `keras.ops.image`."""
    return functools.reduce(getattr, name.split("."), ops)


def _positive(x):
    return ops.abs(x) + 0.5


def _two(function):
    """A function of two tensors."""
    return lambda x: function(x, L.Dense(x.shape[-1])(x))


def _inside(x):
    """Between -1 and 1."""
    return ops.tanh(x)


# Of one tensor as they stand.
_PLAIN = """abs absolute arcsinh arctan ceil celu conj conjugate copy cos cosh deg2rad elu erf erfc exp exp2 expm1 fabs
    fliplr floor gelu glu hard_shrink hard_sigmoid hard_silu hard_swish hard_tanh i0 leaky_relu log_sigmoid log_softmax
    nan_to_num negative rad2deg real relu relu6 round selu sigmoid sign silu sin sinc sinh soft_shrink softmax softplus
    softsign sparse_plus sparse_sigmoid square squareplus stop_gradient swish tanh tanh_shrink trunc""".split()
_OF_POSITIVE = "cbrt log log10 log1p log2 reciprocal rsqrt sqrt".split()
_OF_TWO = "add subtract multiply maximum minimum fmax fmin hypot logaddexp logaddexp2".split()
_ALONG = """amax amin average cumsum logsumexp max mean min nancumsum nanmax nanmean nanmin nanstd nansum nanvar ptp std sum
    var""".split()


def _along(function):
    return lambda x: function(x, axis=1)


def _on_positive(function):
    return lambda x: function(_positive(x))


def _known(names, wrap=lambda function: function):
    """Cases of the functions of these names that this Keras has."""
    return {name: wrap(_of(name)) for name in names if hasattr(ops, name)}


OPERATIONS = {
    **_known(_PLAIN),
    **_known(_OF_POSITIVE, _on_positive),
    **_known(_OF_TWO, _two),
    **_known(_ALONG, _along),
    "arccos": lambda x: ops.arccos(_inside(x)),
    "arcsin": lambda x: ops.arcsin(_inside(x)),
    "arctanh": lambda x: ops.arctanh(_inside(x) * 0.9),
    "arccosh": lambda x: ops.arccosh(_positive(x) + 0.5),
    "erfinv": lambda x: ops.erfinv(_inside(x) * 0.9),
    "tan": lambda x: ops.tan(_inside(x)),
    "threshold": lambda x: ops.threshold(x, 0.5, -1.0),
    "clip": lambda x: ops.clip(x, -0.5, 1.0),
    "power": lambda x: ops.power(_positive(x), 1.5),
    "divide": lambda x: ops.divide(x, _positive(x)),
    "true_divide": lambda x: ops.true_divide(x, 3.0),
    "divide_no_nan": lambda x: ops.divide_no_nan(x, _positive(x)) + ops.divide_no_nan(x, 2.0),
    "floor_divide": lambda x: ops.floor_divide(x, 0.5),
    "mod": lambda x: ops.mod(x, 1.5),
    "fmod": lambda x: ops.fmod(x, 1.5),
    "heaviside": lambda x: ops.heaviside(x, np.float32(0.5)),
    "arctan2": lambda x: ops.arctan2(x, 0.7) + ops.arctan2(0.7, x),
    "ldexp": lambda x: ops.ldexp(x, np.int32(2)),
    "prod": lambda x: ops.prod(x, axis=1),
    "nanprod": lambda x: ops.nanprod(x, axis=-1),
    "cumprod": lambda x: ops.cumprod(x, axis=1),
    "nancumprod": lambda x: ops.nancumprod(x, axis=1),
    "diff": lambda x: ops.diff(x, axis=1),
    "trapezoid": lambda x: ops.trapezoid(x, axis=1),
    "norm": lambda x: ops.norm(x, axis=-1),
    "normalize": lambda x: ops.normalize(x),
    "tril": ops.tril,
    "triu": lambda x: ops.triu(x, 1),
    "trace": lambda x: ops.trace(x, axis1=1, axis2=2),
    "diagonal": lambda x: ops.diagonal(x, offset=1, axis1=1, axis2=2),
    "inner": lambda x: ops.inner(x, np.linspace(-1, 1, 24).reshape(3, 8)),
    "dot": lambda x: ops.dot(x, np.linspace(-1, 1, 24).reshape(8, 3)),
    "tensordot": lambda x: ops.tensordot(x, np.linspace(-1, 1, 24).reshape(8, 3), axes=1),
    "matmul": lambda x: ops.matmul(x, ops.transpose(x, (0, 2, 1))),
    "einsum": lambda x: ops.einsum("bij,bkj->bik", x, x),
    "cross": lambda x: _two(ops.cross)(x[..., :3]),
    "cdist": lambda x: ops.cdist(x, L.Dense(8)(x)),
    "where": lambda x: ops.where(x > 0.2, x, -0.5 * x),
    "select": lambda x: ops.select([x > 0.5, x > -0.5], [x, 2.0 * x], 0.1),
    "top_k": lambda x: ops.top_k(x, 3)[0],
    "expand_dims": lambda x: ops.expand_dims(x, 1),
    "squeeze": lambda x: ops.squeeze(x[:, :1], 1),
    "reshape": lambda x: ops.reshape(x, (-1, 48)),
    "transpose": lambda x: ops.transpose(x, (0, 2, 1)),
    "swapaxes": lambda x: ops.swapaxes(x, 1, 2),
    "moveaxis": lambda x: ops.moveaxis(x, 1, 2),
    "flip": lambda x: ops.flip(x, 1),
    "roll": lambda x: ops.roll(x, 2, 1),
    "rot90": lambda x: ops.rot90(x, 1, (1, 2)) + ops.rot90(x, 3, (1, 2)),
    "repeat": lambda x: ops.repeat(x, 2, 1),
    "tile": lambda x: ops.tile(x, (1, 2, 1)),
    "broadcast_to": lambda x: ops.broadcast_to(x[:, :1], (None, 5, 8)),
    "pad": lambda x: ops.pad(x, ((0, 0), (1, 2), (0, 1))),
    "take": lambda x: ops.take(x, [3, 0, 1], 1),
    "take_along_axis": lambda x: ops.take_along_axis(x, np.argsort(np.sin(np.arange(48))).reshape(1, 6, 8) % 6, 1),
    "fft": lambda x: ops.fft((x, _two(ops.subtract)(x)))[1],
    "fft2": lambda x: ops.fft2((x, ops.zeros_like(x)))[0],
    "ifft2": lambda x: ops.ifft2((x, L.Dense(8)(x)))[0],
    "rfft": lambda x: ops.concatenate(ops.rfft(x), -1),
    "irfft": lambda x: ops.irfft((x, L.Dense(8)(x))),
    "get_item": lambda x: ops.get_item(x, (slice(None), slice(1, 4))),
    "slice": lambda x: ops.slice(x, (0, 1, 2), (4, 3, 5)),
    "split": lambda x: ops.split(x, 2, -1)[1],
    "array_split": lambda x: ops.array_split(x, 3, -1)[0],
    "hsplit": lambda x: ops.hsplit(x, 2)[1],
    "dsplit": lambda x: ops.dsplit(x, 2)[1],
    "unstack": lambda x: ops.unstack(x, axis=1)[2],
    "stack": lambda x: ops.stack([x, L.Dense(8)(x)], 1),
    "hstack": lambda x: ops.hstack([x, L.Dense(8)(x)]),
    "dstack": lambda x: ops.dstack([x, L.Dense(8)(x)]),
    "append": lambda x: ops.append(x, L.Dense(8)(x), 1),
    "concatenate": lambda x: ops.concatenate([x, L.Dense(8)(x)], 1),
    "zeros_like": lambda x: x + ops.zeros_like(x),
    "empty_like": lambda x: x * 2 + ops.empty_like(x),
    "ones_like": lambda x: x + ops.ones_like(x),
    "full_like": lambda x: ops.concatenate([ops.full_like(x, 0.5), x], 1),
    "saturate_cast": lambda x: L.Dense(3)(ops.saturate_cast(x, "float32")),
    "convert_to_tensor": lambda x: L.Dense(3)(ops.convert_to_tensor(x)),
    "cast": lambda x: L.Dense(3)(ops.cast(x, "float32")),
    "extract_sequences": lambda x: ops.extract_sequences(x, 4, 2),
    "layer_normalization": lambda x: ops.layer_normalization(x, np.ones(8), np.zeros(8), axis=-1),
    "rms_normalization": lambda x: ops.rms_normalization(x, np.ones(8)),
    "batch_normalization": lambda x: ops.batch_normalization(x, np.zeros(8), np.ones(8), -1),
    "dot_product_attention": lambda x: ops.dot_product_attention(*[ops.reshape(x, (-1, 6, 2, 4))] * 3),
}
OPERATIONS = {name: build for name, build in OPERATIONS.items() if build is not None and hasattr(ops, name)}

_COMPARED = "equal greater greater_equal less less_equal not_equal".split()
_LOGIC = "logical_and logical_or logical_xor".split()


def _numbers(booleans):
    return ops.cast(booleans, "float32")


def _compared(function):
    return lambda x: x * _numbers(function(x, 0.25))


def _both(function):
    return lambda x: x * _numbers(function(x > -0.5, x < 0.5))


def _not(function):
    return lambda x: x * _numbers(function(x > 0.5))


OPERATIONS |= {
    **_known(_COMPARED, _compared),
    **_known(_LOGIC, _both),
    **_known(["logical_not"], _not),
    "all": lambda x: x * _numbers(ops.all(x > -1.5, axis=1, keepdims=True)),
    "any": lambda x: x * _numbers(ops.any(x > 1.5, axis=1, keepdims=True)),
    "count_nonzero": lambda x: ops.count_nonzero(x > 0.5, axis=1),
    "argmax": lambda x: ops.argmax(x, axis=-1),
    "argmin": lambda x: ops.argmin(x, axis=1),
    "digitize": lambda x: ops.digitize(x, np.array([-1.0, 0.0, 1.0])),
}

# Of images.
_KERNEL = np.linspace(-1, 1, 54, dtype="float32").reshape(3, 3, 3, 2)
IMAGES = {
    "conv": lambda x: ops.conv(x, _KERNEL, padding="same"),
    "conv_transpose": lambda x: ops.conv_transpose(x, _KERNEL.transpose(0, 1, 3, 2), strides=2, padding="same"),
    "depthwise_conv": lambda x: ops.depthwise_conv(x, _KERNEL),
    "separable_conv": lambda x: ops.separable_conv(x, _KERNEL, np.linspace(-1, 1, 24, dtype="float32").reshape(1, 1, 6, 4)),
    "max_pool": lambda x: ops.max_pool(x, 2),
    "average_pool": lambda x: ops.average_pool(x, 2),
    "adaptive_average_pool": lambda x: ops.adaptive_average_pool(ops.transpose(x, (0, 3, 1, 2)), (5, 4), "channels_first"),
    "adaptive_max_pool": lambda x: ops.adaptive_max_pool(ops.transpose(x, (0, 3, 1, 2)), (5, 4), "channels_first"),
    "depth_to_space": lambda x: ops.depth_to_space(L.Conv2D(8, 1)(x), 2),
    "space_to_depth": lambda x: ops.space_to_depth(x, 2),
    "image.resize": lambda x: ops.image.resize(x, (7, 20), interpolation="bicubic"),
    "image.crop_images": lambda x: ops.image.crop_images(x, 1, 2, target_height=8, target_width=7),
    "image.pad_images": lambda x: ops.image.pad_images(x, 1, 2, target_height=18, target_width=17),
    "image.extract_patches": lambda x: ops.image.extract_patches(x, 4),
    "unfold": lambda x: ops.nn.unfold(ops.transpose(x, (0, 3, 1, 2)), (3, 2), 1, 1, 2),
    "image.rgb_to_grayscale": ops.image.rgb_to_grayscale,
}
for _name in ("gaussian_blur", "sobel_edges"):
    if hasattr(ops.image, _name):
        IMAGES[f"image.{_name}"] = getattr(ops.image, _name)
IMAGES = {name: build for name, build in IMAGES.items() if hasattr(ops, name.split(".")[0])}


def _layer(name, *args, shape=WORDS, **kwargs):
    """A case of one layer, or none where this Keras lacks it."""
    return {name: (lambda x: getattr(L, name)(*args, **kwargs)(x), shape)} if hasattr(L, name) else {}


def _pair(name, *args, **kwargs):
    """A case of a layer of two tensors."""
    return {name: (lambda x: getattr(L, name)(*args, **kwargs)([x, L.Dense(8)(x)]), WORDS)} if hasattr(L, name) else {}


def _opened(name, build, shape=WORDS):
    return {name: (build, shape)} if hasattr(L, name) else {}


class _Own(L.Layer):
    def call(self, x):
        return keras.ops.relu(x) - 0.5 * x


VOLUME = (6, 4, 6, 2)
_LAYERS = [
    _layer("Activation", "tanh"),
    _layer("AdaptiveAveragePooling1D", 4),
    _layer("AdaptiveAveragePooling2D", (5, 7), shape=IMAGE),
    _layer("AdaptiveAveragePooling3D", (3, 3, 2), shape=VOLUME),
    _layer("AdaptiveMaxPooling1D", 4),
    _layer("AdaptiveMaxPooling2D", (5, 7), shape=IMAGE),
    _layer("AdaptiveMaxPooling3D", (3, 3, 2), shape=VOLUME),
    _pair("Add"),
    _pair("AdditiveAttention", use_scale=False),
    _pair("Attention", use_scale=True),
    _pair("Average"),
    _layer("AveragePooling1D", 2),
    _layer("AveragePooling2D", 2, shape=IMAGE),
    _layer("AveragePooling3D", 2, shape=VOLUME),
    _layer("BatchNormalization"),
    _layer("CenterCrop", 8, 6, shape=IMAGE),
    _pair("Concatenate"),
    _layer("Conv1D", 4, 3),
    _layer("Conv1DTranspose", 4, 3, 2),
    _layer("Conv2D", 4, 3, shape=IMAGE),
    _layer("Conv2DTranspose", 4, 3, 2, shape=IMAGE),
    _layer("Conv3D", 4, 3, shape=VOLUME),
    _layer("Conv3DTranspose", 4, 2, 2, shape=VOLUME),
    _layer("Cropping1D", 1),
    _layer("Cropping2D", 1, shape=IMAGE),
    _layer("Cropping3D", 1, shape=VOLUME),
    _layer("Dense", 4),
    _layer("DepthwiseConv1D", 3),
    _layer("DepthwiseConv2D", 3, shape=IMAGE),
    _pair("Dot", (2, 2), normalize=True),
    _layer("Discretization", [-1.0, 0.0, 1.0], output_mode="one_hot", shape=(1,)),
    _layer("ELU"),
    _layer("EinsumDense", "abc,bcde->aed", (5, 4), bias_axes="e"),
    _layer("Flatten"),
    _layer("GlobalAveragePooling1D"),
    _layer("GlobalAveragePooling2D", shape=IMAGE),
    _layer("GlobalAveragePooling3D", shape=VOLUME),
    _layer("GlobalMaxPooling1D"),
    _layer("GlobalMaxPooling2D", shape=IMAGE),
    _layer("GlobalMaxPooling3D", shape=VOLUME),
    _layer("GroupNormalization", 2),
    _opened("GroupQueryAttention", lambda x: L.GroupQueryAttention(4, 4, 2)(x, x)),
    _opened("Lambda", lambda x: L.Lambda(lambda x: x * 2.0)(x)),
    _opened("Layer", lambda x: _Own()(x)),
    _layer("LayerNormalization"),
    _layer("LeakyReLU"),
    _layer("MaxPooling1D", 2),
    _layer("MaxPooling2D", 2, shape=IMAGE),
    _layer("MaxPooling3D", 2, shape=VOLUME),
    _pair("Maximum"),
    _layer("MelSpectrogram", 128, 64, sampling_rate=4000, num_mel_bins=16, shape=(1000,)),
    _pair("Minimum"),
    _opened("MultiHeadAttention", lambda x: L.MultiHeadAttention(2, 4)(x, x)),
    _pair("Multiply"),
    _layer("Normalization", mean=0.5, variance=2.0),
    _layer("PReLU", "uniform"),
    _layer("Permute", (2, 1)),
    _opened("Pipeline", lambda x: L.Pipeline([L.Rescaling(2.0), L.RandomFlip()])(x), IMAGE),
    _layer("RMSNormalization"),
    _layer("ReLU", 2.0),
    _opened("RepeatVector", lambda x: L.RepeatVector(3)(L.Flatten()(x))),
    _layer("Rescaling", 2.0, -1.0),
    _layer("Reshape", (12, 4)),
    _layer("Resizing", 7, 20, "bicubic", antialias=True, shape=IMAGE),
    _opened("STFTSpectrogram", lambda x: L.Conv2D(4, 3, 2)(L.STFTSpectrogram("log", 64, 32, expand_dims=True)(x)), (400, 2)),
    _layer("SeparableConv1D", 4, 3),
    _layer("SeparableConv2D", 4, 3, shape=IMAGE),
    _layer("Softmax", axis=1),
    _opened("SpectralNormalization", lambda x: L.SpectralNormalization(L.Conv2D(4, 3))(x), IMAGE),
    _pair("Subtract"),
    _opened("Masking", lambda x: L.GlobalAveragePooling1D()(L.Masking(0.0)(x))),
    _layer("LSTM", 5, return_sequences=True),
    _layer("GRU", 5),
    _layer("SimpleRNN", 5),
    _opened("RNN", lambda x: L.RNN(L.GRUCell(5))(x)),
    _opened("Bidirectional", lambda x: L.Bidirectional(L.LSTM(5))(x)),
    _opened("StackedRNNCells", lambda x: L.RNN(L.StackedRNNCells([L.LSTMCell(5), L.GRUCell(4)]))(x)),
    *(
        _opened(name, lambda x, name=name: L.RNN(getattr(L, name)(5))(x))
        for name in ("LSTMCell", "GRUCell", "SimpleRNNCell")
    ),
    _layer("ConvLSTM1D", 3, 3, shape=(3, 8, 2)),
    _layer("ConvLSTM2D", 3, 3, shape=(3, 6, 6, 2)),
    _layer("ConvLSTM3D", 3, 2, shape=(3, 4, 4, 4, 2)),
    _opened("TimeDistributed", lambda x: L.TimeDistributed(L.Dense(3, activation="relu"))(x)),
    _layer("UnitNormalization"),
    _layer("UpSampling1D", 2),
    _layer("UpSampling2D", 2, interpolation="lanczos3", shape=IMAGE),
    _layer("UpSampling3D", 2, shape=VOLUME),
    _opened("Wrapper", lambda x: L.Wrapper(L.Dense(3)).layer(x)),
    _layer("ZeroPadding1D", 2),
    _layer("ZeroPadding2D", 2, shape=IMAGE),
    _layer("ZeroPadding3D", 1, shape=VOLUME),
]

_IDS = {
    "CategoryEncoding": lambda x: L.CategoryEncoding(10, "multi_hot")(x),
    "Embedding": lambda x: L.Embedding(10, 4)(x),
    "ReversibleEmbedding": lambda x: L.ReversibleEmbedding(10, 4)(x),
    "multi_hot": lambda x: ops.multi_hot(x, 10),
    "one_hot": lambda x: ops.one_hot(x, 10),
}
# Of ids from 0 to 9.
IDS = {name: build for name, build in _IDS.items() if hasattr(L, name) or hasattr(ops, name)}

CASES = {name: (build, WORDS) for name, build in OPERATIONS.items()}
CASES |= {name: (build, (7,)) for name, build in IDS.items()}
CASES |= {name: (build, IMAGE) for name, build in IMAGES.items()}
if hasattr(ops.image, "extract_patches_3d"):
    CASES["image.extract_patches_3d"] = (lambda x: ops.image.extract_patches_3d(x, (3, 2, 2)), VOLUME)
if hasattr(ops, "moments"):
    CASES["moments"] = (lambda x: ops.subtract(*ops.moments(x, axes=[1])), WORDS)
for _case in _LAYERS:
    CASES |= _case
# A step in the function lies where a step of the input's grid does not.
WITH_JUMPS = (
    *(*_COMPARED, *_LOGIC, "all", "any", "argmax", "argmin", "count_nonzero", "digitize"),
    *(
        "Discretization",
        "logical_not",
        "select",
        "where",
        "ceil",
        "floor",
        "floor_divide",
        "fmod",
        "heaviside",
        "mod",
        "round",
        "sign",
        "trunc",
    ),
    *("arccosh", "nanprod"),
)
# Keras traces these operations and cannot compute them in float on TensorFlow, or not for an open batch.
KERAS_CANNOT_RUN = ("broadcast_to", "conv_transpose", "slice")
