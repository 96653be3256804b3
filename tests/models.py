"""Models as people write them: each function builds one; `MODELS` lists all of them."""

import keras
import numpy as np
import pytest

from tests.custom_layers import (
    ClassToken,
    ConvUnit,
    InvertedResidual,
    Parallel,
    PatchEncoder,
    Patches,
    PositionEmbedding,
    SequencePooling,
    SqueezeExcite,
)
from tests.graph.test_batch import Windows

L, ops = keras.layers, keras.ops
MODELS = []


def model(build, *marks):
    MODELS.append(pytest.param(build, id=build.__name__, marks=marks))
    return build


def slow_model(build):
    return model(build, pytest.mark.slow)


def image(size=16, channels=3, **options):
    return keras.Input((size, size, channels), **options)


def head(x, classes=4, name="logits"):
    return L.Dense(classes, name=name)(L.GlobalAveragePooling2D()(x))


def unit(x, filters, **options):
    return L.ReLU()(L.BatchNormalization()(L.Conv2D(filters, 3, padding="same", use_bias=False, **options)(x)))


@model
def nested_three_deep():
    def wrap(name, inner, channels):
        x = keras.Input((16, 16, channels))
        return keras.Model(x, inner(x), name=name)

    innermost = keras.Sequential(
        [keras.Input((16, 16, 8)), L.Conv2D(8, 3, padding="same"), L.BatchNormalization()], name="c"
    )
    middle = wrap("b", lambda x: L.ReLU()(innermost(L.Conv2D(8, 1)(x))), 3)
    outer = wrap("a", lambda x: L.MaxPooling2D()(middle(x)), 3)
    x = image()
    return keras.Model(x, head(outer(x)))


@slow_model
def transfer_learning():
    base = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, include_top=False, weights=None)
    base.trainable = False
    x = inputs = image(32)
    x = keras.Sequential([L.RandomFlip("horizontal"), L.RandomRotation(0.1), L.RandomZoom(0.1)], name="augment")(x)
    x = base(L.Rescaling(1 / 127.5, offset=-1)(x), training=False)
    x = L.Dropout(0.2)(L.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, L.Dense(5, activation="softmax")(x))


@slow_model
def base_in_a_sequential():
    base = keras.applications.MobileNet((32, 32, 3), alpha=0.25, include_top=False, pooling="avg", weights=None)
    base.trainable = False
    return keras.Sequential(
        [keras.Input((32, 32, 3)), L.Rescaling(1 / 255), base, L.Dense(8, "relu"), L.Dense(3, "sigmoid")]
    )


@model
def frozen_base():
    x = image()
    base = keras.Model(x, L.Dropout(0.5)(unit(unit(x, 4, strides=2), 6)), name="base")
    base.trainable = False
    x = image()
    return keras.Model(x, head(base(L.RandomFlip("horizontal")(x), training=False)))


@model
def augmented_in_front():
    augment = keras.Sequential([L.RandomTranslation(0.1, 0.1), L.RandomContrast(0.1), L.RandomBrightness(0.1)])
    return keras.Sequential([image(), augment, L.Normalization(mean=[0.1, 0, 0.2], variance=[1, 2, 1]), *plain()])


def plain():
    return L.Conv2D(6, 3, activation="relu"), L.MaxPooling2D(), L.Flatten(), L.Dense(3)


@model
def layers_called_twice():
    conv, norm = L.Conv2D(3, 3, padding="same"), L.BatchNormalization()
    x = inputs = image()
    for _ in range(2):
        x = L.ReLU()(norm(conv(x)))
    return keras.Model(inputs, head(x))


@model
def siamese():
    x = image()
    tower = keras.Model(x, L.Dense(8)(L.Flatten()(L.MaxPooling2D(4)(unit(x, 6)))), name="tower")
    left, right = image(name="left"), image(name="right")
    a, b = tower(left), tower(right)
    close = L.Dense(1, activation="sigmoid", name="same")(L.Concatenate()([L.Subtract()([a, b]), L.Multiply()([a, b])]))
    return keras.Model([left, right], close)


@model
def dicts_in_and_out():
    picture, extra = image(name="picture"), keras.Input((5,), name="extra")
    x = L.Concatenate()([L.Flatten()(L.AveragePooling2D(4)(unit(picture, 4))), L.Dense(6, activation="relu")(extra)])
    outputs = {"kind": L.Dense(3, activation="softmax")(x), "box": {"corner": L.Dense(2)(x), "size": L.Dense(2, "relu")(x)}}
    flat = {"kind": outputs["kind"], **outputs["box"]}
    return keras.Model({"picture": picture, "extra": extra}, flat)


@model
def dict_between_models():
    x = image()
    backbone = keras.Model(x, {"fine": unit(x, 4), "coarse": L.MaxPooling2D()(unit(x, 6))}, name="backbone")
    x = image(name="photo")
    maps = backbone(x)
    joined = L.Concatenate()([L.MaxPooling2D()(maps["fine"]), maps["coarse"]])
    return keras.Model(x, [head(joined), L.Conv2D(1, 1, name="mask")(maps["fine"])])


@model
def residuals_into_concatenations():
    x = inputs = image()
    x = stem = unit(x, 6)
    for _ in range(2):
        y = unit(L.Concatenate()([L.Add()([x, unit(x, 6)]), stem]), 6)
        x = L.ReLU()(L.Add()([y, x]))
    return keras.Model(inputs, head(L.Concatenate()([x, stem, L.Add()([x, stem])])))


@model
def output_that_is_an_intermediate():
    x = inputs = image()
    features = unit(x, 6)
    logits = head(L.Conv2D(6, 3)(features))
    return keras.Model(inputs, [features, logits, L.Activation("sigmoid")(logits)])


@model
def the_same_output_twice():
    x = image()
    y = head(unit(x, 4))
    return keras.Model(x, [y, y])


@model
def pixels_as_integers():
    x = inputs = image(dtype="uint8", name="pixels")
    return keras.Model(inputs, head(unit(L.Rescaling(1 / 255)(x), 4)))


@model
def integer_features_beside_an_image():
    picture, counts = image(name="picture"), keras.Input((4,), dtype="int32", name="counts")
    dense = L.Dense(6, activation="relu")(ops.cast(counts, "float32"))
    return keras.Model([picture, counts], L.Dense(2)(L.Concatenate()([L.GlobalMaxPooling2D()(unit(picture, 6)), dense])))


@model
def mixed_precision():
    with_policy = lambda cls, *args, **options: cls(*args, dtype="mixed_float16", **options)
    x = inputs = image()
    x = with_policy(L.ReLU)(with_policy(L.BatchNormalization)(with_policy(L.Conv2D, 6, 3)(x)))
    x = with_policy(L.Dense, 8, activation="relu")(with_policy(L.Flatten)(L.MaxPooling2D(4)(x)))
    return keras.Model(inputs, L.Dense(3, activation="softmax", dtype="float32")(x))


@model
def half_precision():
    return keras.Sequential([image(), L.Conv2D(6, 3, dtype="bfloat16"), L.BatchNormalization(dtype="bfloat16"), *plain()])


@model
def partly_frozen():
    x = inputs = image()
    x = L.BatchNormalization(trainable=False)(L.Conv2D(6, 3, trainable=False)(x))
    return keras.Model(inputs, head(L.Conv2D(6, 3, activation="relu6")(x)))


@model
def lambdas():
    x = inputs = image()
    x = L.Lambda(lambda t: ops.relu(t), name="rectify")(L.Conv2D(6, 3)(x))
    return keras.Model(inputs, head(L.Lambda(lambda pair: pair[0] + pair[1])([x, L.Conv2D(6, 1)(x)])))


@model
def custom_layers_in_a_sequential():
    return keras.Sequential([image(), ConvUnit(6), SqueezeExcite(6, 2), ConvUnit(8, strides=2), L.Flatten(), L.Dense(2)])


@slow_model
def mobilenet_blocks():
    x = inputs = image()
    x = ConvUnit(8, strides=2)(x)
    for filters, strides in ((8, 1), (12, 2), (12, 1)):
        x = InvertedResidual(filters, strides=strides, expand=2)(x)
    return keras.Model(inputs, head(x))


@model
def models_inside_layers():
    x = image()
    return keras.Model(
        x, head(Parallel([keras.Sequential([L.Conv2D(4, k, padding="same"), L.ReLU()]) for k in (1, 3, 5)])(x))
    )


@slow_model
def feature_pyramid():
    x = inputs = image(32)
    levels = []
    for filters in (6, 8, 10):
        x = L.MaxPooling2D()(unit(x, filters))
        levels.append(x)
    top, outputs = None, []
    for level in reversed(levels):
        lateral = L.Conv2D(6, 1)(level)
        top = lateral if top is None else L.Add()([L.UpSampling2D(interpolation="nearest")(top), lateral])
        outputs.append(L.Conv2D(3, 3, padding="same", name=f"level_{len(outputs)}")(top))
    return keras.Model(inputs, outputs)


@slow_model
def u_net():
    x = inputs = image()
    down = []
    for filters in (4, 8):
        x = unit(unit(x, filters), filters)
        down.append(x)
        x = L.MaxPooling2D()(x)
    x = unit(x, 8)
    for skip in reversed(down):
        x = L.Concatenate()([L.Conv2DTranspose(skip.shape[-1], 2, strides=2)(x), skip])
        x = unit(x, skip.shape[-1])
    return keras.Model(inputs, L.Conv2D(2, 1, activation="softmax")(x))


@model
def a_cut_of_another_model():
    whole = keras.Sequential([image(), L.Conv2D(6, 3, name="first"), L.ReLU(), L.Conv2D(8, 3, name="last"), L.Flatten()])
    return keras.Model(whole.inputs, [whole.get_layer("last").output, L.MaxPooling2D()(whole.get_layer("first").output)])


@model
def inputs_by_keyword():
    picture, gate = image(name="picture"), keras.Input((4,), name="gate")
    y = L.Conv2D(4, 3)(inputs=picture)
    y = L.Multiply()(inputs=[y, L.Reshape((1, 1, 4))(L.Dense(4, activation="sigmoid")(inputs=gate))])
    return keras.Model([picture, gate], head(y))


class _Loops(keras.Model):
    def __init__(self, widths):
        super().__init__()
        self.stages = [[ConvUnit(width), L.MaxPooling2D()] for width in widths]
        self.heads = {"color": L.Dense(3), "shape": L.Dense(2, activation="softmax")}
        self.pool = L.GlobalAveragePooling2D()

    def call(self, x, training=False):
        for convolution, pool in self.stages:
            x = pool(convolution(x, training=training))
        x = self.pool(x)
        return {name: layer(x) for name, layer in self.heads.items()}


@model
def subclassed_with_loops():
    built = _Loops((4, 6, 8))
    built(np.zeros((1, 16, 16, 3), "float32"))
    return built


class _TwoInputs(keras.Model):
    def __init__(self):
        super().__init__()
        self.tower = keras.Sequential([L.Conv2D(4, 3, activation="relu"), L.GlobalMaxPooling2D()])
        self.last = L.Dense(2)

    def call(self, inputs):
        a, b = self.tower(inputs["a"]), self.tower(inputs["b"])
        return self.last(ops.concatenate([a, ops.subtract(a, b)], axis=-1))


@model
def subclassed_with_a_dict():
    built = _TwoInputs()
    built({name: np.zeros((1, 16, 16, 3), "float32") for name in "ab"})
    return built


class _Encoder(keras.Model):
    def __init__(self):
        super().__init__()
        self.blocks = keras.Sequential([ConvUnit(6), SqueezeExcite(6, 2)])
        self.drop = L.Dropout(0.3)

    def call(self, x, training=None):
        return self.drop(self.blocks(x, training=training), training=training)


@model
def subclassed_inside_functional():
    x = image()
    return keras.Model(x, head(_Encoder()(x)))


def volume(depth=8, size=16, channels=1):
    return keras.Input((depth, size, size, channels))


@model
def c3d():
    """As for actions in clips of video."""
    x = inputs = volume(8, 16, 3)
    x = L.MaxPooling3D((1, 2, 2))(L.Conv3D(6, 3, padding="same", activation="relu")(x))
    x = L.MaxPooling3D()(L.Conv3D(8, 3, padding="same", activation="relu")(x))
    x = L.MaxPooling3D(padding="same")(L.Conv3D(8, 3, activation="relu")(L.ZeroPadding3D((0, 1, 1))(x)))
    x = L.Dropout(0.5)(L.Dense(16, activation="relu")(L.Flatten()(x)))
    return keras.Model(inputs, L.Dense(5, activation="softmax")(x))


@slow_model
def scans_of_lungs():
    """keras.io's classification of CT scans."""
    x = inputs = volume(24, 24)
    for filters in (8, 8, 12):
        x = L.Conv3D(filters, 3, activation="relu")(x)
        x = L.BatchNormalization()(L.MaxPool3D((2, 2, 2) if filters < 12 else (1, 2, 2))(x))
    x = L.Dropout(0.3)(L.Dense(16, activation="relu")(L.GlobalAveragePooling3D()(x)))
    return keras.Model(inputs, L.Dense(1, activation="sigmoid")(x))


def volume_unit(x, filters, kernel=3, **options):
    return L.ReLU()(L.BatchNormalization()(L.Conv3D(filters, kernel, padding="same", **options)(x)))


def u_net_of_volumes(up):
    x = inputs = volume()
    down = []
    for filters in (4, 6):
        x = volume_unit(volume_unit(x, filters), filters)
        down.append(x)
        x = L.MaxPooling3D()(x)
    x = L.SpatialDropout3D(0.1)(volume_unit(x, 8))
    for skip in reversed(down):
        x = volume_unit(L.Concatenate()([up(x, skip.shape[-1]), skip]), skip.shape[-1])
    return keras.Model(inputs, L.Conv3D(2, 1, activation="softmax")(x))


@slow_model
def v_net():
    return u_net_of_volumes(lambda x, filters: L.Conv3DTranspose(filters, 2, strides=2)(x))


@slow_model
def u_net_of_volumes_with_upsampling():
    return u_net_of_volumes(lambda x, filters: L.UpSampling3D()(x))


@slow_model
def residual_volumes():
    x = inputs = volume(8, 16, 2)
    x = volume_unit(x, 6, (3, 5, 5), strides=(1, 2, 2))
    for filters, strides in ((6, 1), (8, 2)):
        y = L.BatchNormalization()(L.Conv3D(filters, 3, padding="same")(volume_unit(x, filters, strides=strides)))
        x = x if strides == 1 else L.Conv3D(filters, 1, strides=strides)(x)
        x = L.ReLU()(L.Add()([x, y]))
    gate = L.Dense(8, activation="sigmoid")(L.GlobalAveragePooling3D(keepdims=True)(x))
    return keras.Model(inputs, L.Dense(4)(L.GlobalMaxPooling3D()(L.Multiply()([x, gate]))))


class _Conv2Plus1D(L.Layer):
    def __init__(self, filters, kernel_size, padding="same", **kwargs):
        super().__init__(**kwargs)
        depth, height, width = kernel_size
        spatial = L.Conv3D(filters, (1, height, width), padding=padding)
        self.steps = keras.Sequential([spatial, L.Conv3D(filters, (depth, 1, 1), padding=padding)])

    def call(self, x):
        return self.steps(x)


class _ResizeFrames(L.Layer):
    """keras.io's, whose einops merge the frames into the batch; here each frame is resized by itself."""

    def __init__(self, height, width, **kwargs):
        super().__init__(**kwargs)
        self.resize = L.Resizing(height, width)

    def call(self, video):
        return ops.stack([self.resize(frame) for frame in ops.unstack(video, axis=1)], axis=1)


class _ResidualMain(L.Layer):
    def __init__(self, filters, kernel_size, **kwargs):
        super().__init__(**kwargs)
        convolution = lambda: _Conv2Plus1D(filters, kernel_size)
        self.steps = keras.Sequential(
            [convolution(), L.LayerNormalization(), L.ReLU(), convolution(), L.LayerNormalization()]
        )

    def call(self, x):
        return self.steps(x)


@slow_model
def video_classification():
    """keras.io's and TensorFlow's, with convolutions of (2+1) dimensions."""
    x = inputs = keras.Input((6, 16, 16, 3))
    x = _ResizeFrames(8, 8)(L.ReLU()(L.BatchNormalization()(_Conv2Plus1D(6, (3, 7, 7))(x))))
    for filters in (6, 8):
        y = _ResidualMain(filters, (3, 3, 3))(x)
        if filters != x.shape[-1]:
            x = L.LayerNormalization()(L.Dense(filters)(x))
        x = L.Add()([x, y])
    return keras.Model(inputs, L.Dense(4)(L.Flatten()(L.GlobalAveragePooling3D()(x))))


@model
def vision_transformer():
    x = image(12)
    y = ClassToken()(PatchEncoder(9, 8)(Patches(4)(x)))
    for _ in range(2):
        normed = L.LayerNormalization(epsilon=1e-6)(y)
        y = L.Add()([L.MultiHeadAttention(2, 4, dropout=0.1)(normed, normed), y])
        normed = L.LayerNormalization(epsilon=1e-6)(y)
        y = L.Add()([L.Dropout(0.1)(L.Dense(8)(L.Dense(16, activation="gelu")(normed))), y])
    return keras.Model(x, L.Dense(4)(L.LayerNormalization(epsilon=1e-6)(y)[:, 0]))


@slow_model
def compact_transformer():
    x = image(16)
    y = L.MaxPooling2D(3, 2, "same")(L.Conv2D(8, 3, activation="relu", use_bias=False)(x))
    y = ops.reshape(y, (-1, ops.shape(y)[1] * ops.shape(y)[2], ops.shape(y)[-1]))
    y = PositionEmbedding(y.shape[1])(y) + y
    normed = L.LayerNormalization()(y)
    y = L.Add()([L.MultiHeadAttention(2, 4)(normed, normed), y])
    return keras.Model(x, L.Dense(4)(SequencePooling()(L.LayerNormalization()(y))))


@model
def siamese_by_distance():
    a, b = image(), image()
    tower = keras.Sequential([L.Conv2D(4, 5, activation="tanh"), L.AveragePooling2D(2), L.Flatten(), L.Dense(8, "tanh")])
    squares = lambda pair: ops.sum(ops.square(pair[0] - pair[1]), axis=1, keepdims=True)
    distance = L.Lambda(lambda pair: ops.sqrt(ops.maximum(squares(pair), keras.config.epsilon())))
    return keras.Model([a, b], L.Dense(1, "sigmoid")(L.BatchNormalization()(distance([tower(a), tower(b)]))))


@slow_model
def windowed_transformer():
    x = inputs = image(16)
    x = L.Conv2D(8, 2, 2)(x)
    for shift in (0, 2):
        y = Windows(4)(ops.roll(L.LayerNormalization()(x), (-shift, -shift), (1, 2)))
        x = x + ops.roll(y, (shift, shift), (1, 2))
        x = x + L.Dense(8)(L.Dense(16, "gelu")(L.LayerNormalization()(x)))
    return keras.Model(inputs, head(x))


@slow_model
def clip_of_frames():
    x = keras.Input((4, 12, 12, 3))
    cnn = keras.Sequential([image(12), L.Conv2D(6, 3, 2), L.BatchNormalization(), L.ReLU(), L.GlobalAveragePooling2D()])
    return keras.Model(x, L.Dense(3)(L.GlobalMaxPooling1D()(L.Conv1D(8, 2)(L.TimeDistributed(cnn)(x)))))


# Texts of fixed length, as bytes; zero is padding.
TOKENS, VOCABULARY = 8, 256


class _TokensAndPositions(L.Layer):
    def __init__(self, dim, mask_zero=False, **kwargs):
        super().__init__(**kwargs)
        self.tokens, self.positions = L.Embedding(VOCABULARY, dim, mask_zero=mask_zero), L.Embedding(TOKENS, dim)
        self.supports_masking = mask_zero

    def call(self, x):
        return self.tokens(x) + self.positions(ops.arange(0, ops.shape(x)[-1], 1))

    def compute_mask(self, x, mask=None):
        return self.tokens.compute_mask(x, mask)


class _TransformerBlock(L.Layer):
    """As keras.io's text classification has it; with `mask`, as its translation's encoder."""

    def __init__(self, dim=8, heads=2, **kwargs):
        super().__init__(**kwargs)
        self.attention = L.MultiHeadAttention(heads, dim)
        self.dense = keras.Sequential([L.Dense(12, activation="relu"), L.Dense(dim)])
        self.norms = [L.LayerNormalization(epsilon=1e-6) for _ in range(2)]
        self.drop, self.supports_masking = L.Dropout(0.1), True

    def call(self, x, mask=None, training=None):
        given = None if mask is None else ops.cast(mask[:, None, :], "int32")
        y = self.norms[0](x + self.drop(self.attention(x, x, attention_mask=given), training=training))
        return self.norms[1](y + self.dense(y))


class _DecoderBlock(L.Layer):
    def __init__(self, dim=8, heads=2, **kwargs):
        super().__init__(**kwargs)
        self.itself, self.other = L.MultiHeadAttention(heads, dim), L.MultiHeadAttention(heads, dim)
        self.dense = keras.Sequential([L.Dense(12, activation="relu"), L.Dense(dim)])
        self.norms = [L.LayerNormalization() for _ in range(3)]
        self.supports_masking = True

    def call(self, inputs, mask=None):
        x, encoded = inputs
        own, others = (None, None) if mask is None else mask
        y = self.norms[0](x + self.itself(query=x, value=x, key=x, use_causal_mask=True, query_mask=own))
        z = self.norms[1](y + self.other(query=y, value=encoded, key=encoded, query_mask=own, key_mask=others))
        return self.norms[2](z + self.dense(z))


def tokens(**options):
    return keras.Input((TOKENS,), dtype="uint8", **options)


@slow_model
def text_classifier():
    x = tokens()
    y = L.GlobalAveragePooling1D()(_TransformerBlock()(_TokensAndPositions(8)(x)))
    return keras.Model(x, L.Dense(2)(L.Dense(20, activation="relu")(L.Dropout(0.1)(y))))


@slow_model
def text_classifier_with_padding():
    x = tokens()
    y = L.GlobalAveragePooling1D()(_TransformerBlock()(_TokensAndPositions(8, mask_zero=True)(x)))
    return keras.Model(x, L.Dense(2)(y))


@slow_model
def translator():
    source, target = tokens(name="source"), tokens(name="target")
    encoded = _TransformerBlock()(_TokensAndPositions(8, mask_zero=True)(source))
    decoded = _DecoderBlock()([_TokensAndPositions(8, mask_zero=True)(target), encoded])
    return keras.Model([source, target], L.Dense(16)(L.Dropout(0.5)(decoded)))


@slow_model
def language_model():
    x = tokens()
    y = _TokensAndPositions(8)(x)
    for _ in range(2):
        normed = L.LayerNormalization()(y)
        y = y + L.MultiHeadAttention(2, 4)(normed, normed, use_causal_mask=True)
        y = y + L.Dense(8)(L.Dense(16, activation="gelu")(L.LayerNormalization()(y)))
    return keras.Model(x, L.Dense(24)(L.LayerNormalization()(y)))


@slow_model
def bert_with_an_added_mask():
    x, mask = tokens(name="tokens"), keras.Input((TOKENS,), name="mask")
    y = L.LayerNormalization()(_TokensAndPositions(8)(x))
    added = (1.0 - ops.cast(mask > 0, "float32"))[:, None, None, :] * float(np.finfo("float32").min)
    heads = lambda x: ops.transpose(ops.reshape(L.Dense(8)(x), (-1, TOKENS, 2, 4)), (0, 2, 1, 3))
    for _ in range(2):
        query, key, value = heads(y), heads(y), heads(y)
        weights = ops.softmax(ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) / 2.0 + added)
        context = ops.reshape(ops.transpose(ops.matmul(weights, value), (0, 2, 1, 3)), (-1, TOKENS, 8))
        y = L.LayerNormalization()(y + L.Dense(8)(context))
    return keras.Model([x, mask], L.Dense(3)(L.Dense(8, activation="tanh")(y[:, 0])))


@slow_model
def polarity_of_a_text():
    x = tokens()
    kept = ops.cast(ops.not_equal(x, 0), "float32")
    y = L.Embedding(VOCABULARY, 8, keras.initializers.RandomNormal(stddev=1.0))(x) * ops.expand_dims(kept, -1)
    mean = ops.sum(y, axis=1) / ops.maximum(ops.sum(kept, axis=1, keepdims=True), 1.0)
    return keras.Model(x, L.Dense(1, activation="sigmoid")(L.Dense(8, activation="tanh")(mean)))


@slow_model
def series_with_masking():
    x = keras.Input((12, 3))
    y = L.Dense(8)(L.Masking(0.0)(x))
    for _ in range(2):
        y = L.LayerNormalization()(y + L.MultiHeadAttention(2, 4)(y, y))
    return keras.Model(x, L.Dense(2)(L.GlobalAveragePooling1D()(y)))


@slow_model
def linear_biases():
    """ALiBi, with the causal mask in it."""
    x = tokens()
    y = L.Embedding(VOCABULARY, 8)(x)
    steps = np.arange(TOKENS)
    bias = np.array([0.5, 0.25])[:, None, None] * (steps[None, :] - steps[:, None])
    bias = np.where(np.tril(np.ones((TOKENS, TOKENS))) > 0, bias, -np.inf).astype("float32")[None]
    query, key, value = (L.EinsumDense("btd,dnh->btnh", (TOKENS, 2, 4), bias_axes="nh")(y) for _ in range(3))
    weights = ops.softmax(ops.einsum("btnh,bsnh->bnts", query, key) * 0.5 + bias)
    return keras.Model(x, L.Dense(4)(L.Flatten()(ops.einsum("bnts,bsnh->btnh", weights, value))))
