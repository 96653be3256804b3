"""Models of texts, tables, volumes, sound and graphs as people write them; importing it adds them to `models.MODELS`."""

import keras
import numpy as np

from tests.models import slow_model

L, ops = keras.layers, keras.ops
# `test_models` draws ids from 0 to 255.
WORDS, WIDTH, LENGTH = 256, 16, 12


def ids(*shape, name=None):
    return keras.Input(shape, dtype="int32", name=name)


def table(x, width=WIDTH, **options):
    return L.Embedding(WORDS, width, **options)(x)


class TokensAndPositions(L.Layer):
    def __init__(self, length, width):
        super().__init__()
        self.tokens, self.positions = L.Embedding(WORDS, width), L.Embedding(length, width)

    def call(self, x):
        return self.tokens(x) + self.positions(ops.arange(0, ops.shape(x)[-1], 1))


class Block(L.Layer):
    """A transformer's block, with a causal mask that it makes itself."""

    def __init__(self, width, heads=2, causal=False):
        super().__init__()
        self.attention, self.causal = L.MultiHeadAttention(heads, width // heads), causal
        self.inner = keras.Sequential([L.Dense(2 * width, activation="relu"), L.Dense(width)])
        self.norms = [L.LayerNormalization(epsilon=1e-6), L.LayerNormalization(epsilon=1e-6)]
        self.drop = L.Dropout(0.1)

    def mask(self, x):
        batch, length = ops.shape(x)[:2]
        rows, columns = ops.arange(length)[:, None], ops.arange(length)
        mask = ops.reshape(ops.cast(rows >= columns, "int32"), (1, length, length))
        return ops.broadcast_to(mask, (batch, length, length))

    def call(self, x, training=None):
        mask = self.mask(x) if self.causal else None
        x = self.norms[0](x + self.drop(self.attention(x, x, attention_mask=mask), training=training))
        return self.norms[1](x + self.drop(self.inner(x), training=training))


@slow_model
def text_classifier_with_a_transformer():
    x = ids(LENGTH)
    y = L.GlobalAveragePooling1D()(Block(WIDTH)(TokensAndPositions(LENGTH, WIDTH)(x)))
    return keras.Model(x, L.Dense(2, activation="softmax")(L.Dropout(0.1)(L.Dense(20, activation="relu")(y))))


@slow_model
def miniature_gpt():
    x = ids(LENGTH)
    y = Block(WIDTH, causal=True)(TokensAndPositions(LENGTH, WIDTH)(x))
    return keras.Model(x, [L.Dense(40)(y), y])


@slow_model
def text_cnn():
    x = ids(LENGTH)
    y = L.Dropout(0.5)(table(x))
    joined = L.Concatenate()([L.GlobalMaxPooling1D()(L.Conv1D(8, k, activation="relu")(y)) for k in (2, 3, 4)])
    return keras.Model(x, L.Dense(3)(joined))


@slow_model
def bag_of_words_without_padding():
    x = ids(LENGTH)
    return keras.Model(x, L.Dense(3)(L.Dense(16, activation="relu")(L.GlobalAveragePooling1D()(table(x, mask_zero=True)))))


@slow_model
def fourier_mixing_of_words():
    x = ids(16)
    y = TokensAndPositions(16, WIDTH)(x)
    mixed = ops.fft2((y, ops.zeros_like(y)))[0] / 16.0
    y = L.LayerNormalization()(y + mixed)
    return keras.Model(x, L.Dense(3)(L.GlobalAveragePooling1D()(L.Dense(WIDTH, activation="gelu")(y))))


@slow_model
def collaborative_filtering():
    class Recommender(keras.Model):
        def __init__(self):
            super().__init__()
            self.users, self.user_bias = L.Embedding(WORDS, 8), L.Embedding(WORDS, 1)
            self.films, self.film_bias = L.Embedding(WORDS, 8), L.Embedding(WORDS, 1)

        def call(self, inputs):
            user, film = inputs[:, 0], inputs[:, 1]
            product = ops.sum(self.users(user) * self.films(film), axis=-1, keepdims=True)
            return ops.sigmoid(product + self.user_bias(user) + self.film_bias(film))

    x = ids(2)
    return keras.Model(x, Recommender()(x))


@slow_model
def two_towers():
    user, film = ids(1, name="user"), ids(5, name="films")
    tower = lambda x: L.UnitNormalization()(L.Dense(8)(L.Dense(16, activation="relu")(x)))
    return keras.Model([user, film], L.Dot(axes=-1)([tower(L.Flatten()(table(user))), tower(ops.mean(table(film), 1))]))


@slow_model
def dot_interactions():
    """As recommenders have it: pairwise products of all features, those above the diagonal."""
    numbers, kinds = keras.Input((6,), name="numbers"), ids(4, name="kinds")
    dense = L.Dense(WIDTH, activation="relu")(numbers)
    features = ops.concatenate([dense[:, None], table(kinds)], axis=1)
    pairs = ops.reshape(ops.matmul(features, ops.transpose(features, (0, 2, 1))), (-1, 25))
    upper = np.flatnonzero(np.triu(np.ones((5, 5)), 1))
    return keras.Model([numbers, kinds], L.Dense(1)(ops.concatenate([dense, ops.take(pairs, upper, axis=1)], axis=-1)))


@slow_model
def wide_and_deep():
    numbers, kind = keras.Input((5,), name="numbers"), ids(1, name="kind")
    wide = L.CategoryEncoding(WORDS, output_mode="one_hot")(kind)
    deep = ops.concatenate([L.BatchNormalization()(numbers), ops.squeeze(table(kind, 4), 1)], axis=-1)
    for units in (16, 8):
        deep = L.ReLU()(L.BatchNormalization()(L.Dense(units)(deep)))
    return keras.Model([numbers, kind], L.Dense(2)(ops.concatenate([wide, deep], axis=-1)))


@slow_model
def deep_and_cross():
    numbers, kinds = keras.Input((5,), name="numbers"), ids(3, name="kinds")
    first = x = ops.concatenate([numbers, L.Flatten()(table(kinds, 4))], axis=-1)
    for _ in range(2):
        x = first * L.Dense(17)(x) + x
    return keras.Model([numbers, kinds], L.Dense(1)(ops.concatenate([x, L.Dense(8, activation="relu")(first)], axis=-1)))


@slow_model
def tab_transformer():
    numbers, kinds = keras.Input((4,), name="numbers"), ids(5, name="kinds")
    x = table(kinds) + L.Embedding(5, WIDTH)(np.arange(5))
    x = Block(WIDTH)(Block(WIDTH)(x))
    joined = L.Concatenate()([L.Flatten()(x), L.LayerNormalization(epsilon=1e-6)(numbers)])
    return keras.Model([numbers, kinds], L.Dense(1)(L.Dense(16, activation="selu")(L.BatchNormalization()(joined))))


class GatedResidual(L.Layer):
    def __init__(self, units):
        super().__init__()
        self.elu, self.linear, self.norm = L.Dense(units, activation="elu"), L.Dense(units), L.LayerNormalization()
        self.value, self.gate, self.project = L.Dense(units), L.Dense(units, activation="sigmoid"), L.Dense(units)

    def call(self, inputs):
        x = self.linear(self.elu(inputs))
        return self.norm(self.project(inputs) + self.value(x) * self.gate(x))


@slow_model
def variable_selection():
    x = keras.Input((6, 4))
    made = ops.stack([GatedResidual(8)(x[:, i]) for i in range(6)], axis=1)
    weights = L.Dense(6, activation="softmax")(GatedResidual(8)(L.Flatten()(x)))
    return keras.Model(x, L.Dense(2)(ops.squeeze(ops.matmul(weights[:, None], made), axis=1)))


@slow_model
def behaviour_sequence():
    """Films that were seen, each weighed by its rating, before the one that is asked for."""
    films, ratings = ids(6, name="films"), keras.Input((5,), name="ratings")
    x = table(films) + L.Embedding(6, WIDTH)(np.arange(6))
    x = ops.concatenate([x[:, :5] * ratings[..., None], x[:, 5:]], axis=1)
    return keras.Model([films, ratings], L.Dense(1)(L.LeakyReLU()(L.Dense(16)(L.Flatten()(Block(WIDTH)(x))))))


@slow_model
def encoder_and_decoder():
    source, target = ids(8, name="source"), ids(6, name="target")
    memory = Block(WIDTH)(TokensAndPositions(8, WIDTH)(source))
    x = Block(WIDTH, causal=True)(TokensAndPositions(6, WIDTH)(target))
    mask = ops.cast(source != 0, "int32")[:, None, :]
    x = L.LayerNormalization()(x + L.MultiHeadAttention(2, 8)(x, memory, attention_mask=mask))
    return keras.Model({"source": source, "target": target}, L.Dense(20)(x))


class Latents(L.Layer):
    """Learned queries that read a sequence."""

    def __init__(self, count, width):
        super().__init__()
        self.count, self.width = count, width
        self.read, self.norm = L.MultiHeadAttention(2, width // 2), L.LayerNormalization()

    def build(self, shape):
        self.queries = self.add_weight(shape=(self.count, self.width), initializer="random_normal")
        super().build(shape)

    def call(self, x):
        queries = ops.repeat(self.queries[None], ops.shape(x)[0], axis=0)
        return self.norm(queries + self.read(queries, x))


@slow_model
def perceiver():
    x = ids(LENGTH)
    y = Block(WIDTH)(Latents(4, WIDTH)(TokensAndPositions(LENGTH, WIDTH)(x)))
    return keras.Model(x, L.Dense(3)(L.GlobalAveragePooling1D()(y)))


@slow_model
def scans_in_three_dimensions():
    x = keras.Input((10, 10, 8, 1))
    y = x
    for filters in (4, 8):
        y = L.BatchNormalization()(L.MaxPooling3D(2)(L.Conv3D(filters, 3, activation="relu", padding="same")(y)))
    return keras.Model(x, L.Dense(1, activation="sigmoid")(L.Dense(8, activation="relu")(L.GlobalAveragePooling3D()(y))))


@slow_model
def video_transformer():
    x = keras.Input((4, 8, 8, 3))
    y = L.Reshape((8, WIDTH))(L.Conv3D(WIDTH, (2, 4, 4), strides=(2, 4, 4), padding="valid")(x))
    y = y + L.Embedding(8, WIDTH)(np.arange(8))
    return keras.Model(x, L.Dense(3)(L.GlobalAveragePooling1D()(L.LayerNormalization()(Block(WIDTH)(y)))))


@slow_model
def u_net_of_volumes():
    x = keras.Input((8, 8, 8, 2))
    a = L.Conv3D(4, 3, padding="same", activation="relu")(x)
    b = L.Conv3D(8, 3, padding="same", activation="relu")(L.MaxPooling3D(2)(a))
    y = L.Concatenate()([a, L.Conv3DTranspose(4, 2, strides=2)(b)])
    return keras.Model(x, L.Conv3D(2, 1)(y))


@slow_model
def graph_convolution():
    nodes, edges = keras.Input((6, 5), name="nodes"), keras.Input((6, 6), name="edges")
    x = L.Dense(8)(nodes)
    for _ in range(2):
        x = ops.relu(ops.matmul(edges, L.Dense(8)(x)) + x)
    return keras.Model([nodes, edges], [L.Dense(3)(x), L.Dense(2)(ops.max(x, axis=1))])


class Involution(L.Layer):
    """A kernel for each place, made of the place: keras.io's, without its batch in a shape."""

    def __init__(self, size=3):
        super().__init__()
        self.size, self.kernels = (
            size,
            keras.Sequential([L.Conv2D(4, 1), L.BatchNormalization(), L.ReLU(), L.Conv2D(size**2, 1)]),
        )

    def call(self, x):
        batch, height, width, channels = ops.shape(x)
        kernels = ops.reshape(self.kernels(x), (batch, height, width, self.size**2, 1))
        parts = ops.image.extract_patches(x, (self.size, self.size), (1, 1), 1, padding="same")
        return ops.sum(ops.reshape(parts, (batch, height, width, self.size**2, channels)) * kernels, axis=3)


@slow_model
def involution():
    x = keras.Input((8, 8, 3))
    y = L.MaxPooling2D()(L.ReLU()(Involution()(x)))
    return keras.Model(x, L.Dense(3)(L.Flatten()(L.ReLU()(Involution()(y)))))


class Codebook(L.Layer):
    """The nearest of learned vectors, as VQ-VAEs have it."""

    def build(self, shape):
        self.codes = self.add_weight(shape=(10, shape[-1]), initializer="random_normal")
        super().build(shape)

    def call(self, x):
        distances = ops.sum(self.codes**2, axis=1) - 2 * ops.matmul(x, ops.transpose(self.codes))
        return ops.take(self.codes, ops.argmin(distances, axis=-1), axis=0)


@slow_model
def nearest_codes():
    x = keras.Input((8, 8, 3))
    y = L.Conv2D(4, 3, strides=2, padding="same", activation="relu")(x)
    return keras.Model(x, L.Conv2DTranspose(3, 3, strides=2, padding="same")(Codebook()(y)))
