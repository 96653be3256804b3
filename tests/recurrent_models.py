"""Recurrent models in the manner of keras.io's examples, small: each function makes a model and data for it."""

import keras
import numpy as np
import tensorflow as tf

L, ops = keras.layers, keras.ops
COUNT = 16
MODELS = {}


def example(build):
    MODELS[build.__name__] = build
    return build


def noise(*shape):
    return np.random.default_rng(1).standard_normal((COUNT, *shape)).astype("float32")


def ids(limit, *shape, dtype="int32"):
    return np.random.default_rng(2).integers(0, limit, (COUNT, *shape)).astype(dtype)


def rows(limit, *shape):
    """One-hot rows."""
    return np.eye(limit, dtype="float32")[ids(limit, *shape)]


def prefixes(length):
    """Masks of sequences of any length from one step on."""
    return np.arange(length) < np.random.default_rng(3).integers(1, length + 1, (COUNT, 1))


# Readers of images.


@example
def captcha_reader():
    x = inputs = keras.Input((40, 16, 1))
    for filters in (8, 8):
        x = L.MaxPooling2D((2, 2))(L.Conv2D(filters, 3, activation="relu", padding="same")(x))
    x = L.Dropout(0.2)(L.Dense(16, activation="relu")(L.Reshape((10, 4 * 8))(x)))
    for units in (8, 6):
        x = L.Bidirectional(L.LSTM(units, return_sequences=True, dropout=0.25))(x)
    return keras.Model(inputs, L.Dense(12, activation="softmax")(x)), noise(40, 16, 1)


@example
def handwriting_reader():
    x = inputs = keras.Input((64, 16, 1), name="image")
    for filters in (8, 12):
        x = L.MaxPooling2D()(L.Conv2D(filters, 3, activation="relu", kernel_initializer="he_normal", padding="same")(x))
    x = L.Dense(16, activation="relu")(L.Reshape(target_shape=(16, 4 * 12))(x))
    x = L.Bidirectional(L.LSTM(8, return_sequences=True))(x)
    x = L.Bidirectional(L.LSTM(6, return_sequences=True))(x)
    return keras.Model(inputs, L.Dense(10, activation="softmax", name="letters")(x)), noise(64, 16, 1)


# Sums, and texts from letters.


@example
def addition():
    hidden = [L.LSTM(12), L.RepeatVector(4), L.LSTM(12, return_sequences=True), L.Dense(12, activation="softmax")]
    return keras.Sequential([keras.Input((7, 12)), *hidden]), rows(12, 7)


@example
def addition_distributed():
    decoder = [L.LSTM(10, return_sequences=True), L.LSTM(10, return_sequences=True)]
    last = L.TimeDistributed(L.Dense(12, activation="softmax"))
    return keras.Sequential([keras.Input((20, 12)), L.GRU(10), L.RepeatVector(18), *decoder, last]), rows(12, 20)


@example
def letters():
    return keras.Sequential([keras.Input((40, 20)), L.LSTM(16), L.Dense(20, activation="softmax")]), rows(20, 40)


def translator():
    source, target = keras.Input((None, 12), name="source"), keras.Input((None, 14), name="target")
    _, *states = L.LSTM(8, return_state=True, name="encoder")(source)
    decoder = L.LSTM(8, return_sequences=True, return_state=True, name="decoder")
    x, *_ = decoder(target, initial_state=states)
    dense = L.Dense(14, activation="softmax", name="letters")
    return source, target, states, decoder, dense, dense(x)


@example
def translation_in_training():
    source, target, *_, made = translator()
    return keras.Model([source, target], made), [rows(12, 18), rows(14, 20)]


@example
def translation_encoder():
    source, _, states, *_ = translator()
    return keras.Model(source, states), rows(12, 18)


@example
def translation_decoder():
    """One step, whose states come in and go out."""
    *_, decoder, dense, _ = translator()
    target = keras.Input((None, 14), name="letter")
    before = [keras.Input((8,), name="h"), keras.Input((8,), name="c")]
    x, *after = decoder(target, initial_state=before)
    return keras.Model([target, *before], [dense(x), *after]), [rows(14, 1), np.tanh(noise(8)), noise(8)]


@example
def translation_with_attention():
    source, target = keras.Input((None,), dtype="int32"), keras.Input((None,), dtype="int32")
    context = L.Bidirectional(L.GRU(8, return_sequences=True), merge_mode="sum")(L.Embedding(30, 8, mask_zero=True)(source))
    x = L.GRU(8, return_sequences=True)(L.Embedding(30, 8, mask_zero=True)(target))
    x = L.LayerNormalization()(L.Add()([x, L.MultiHeadAttention(1, 8)(query=x, value=context)]))
    return keras.Model([source, target], L.Dense(30)(x)), [ids(30, 14), ids(30, 12)]


@example
def words_both_ways():
    x = inputs = keras.Input((None,), dtype="int32")
    x = L.Embedding(100, 12, embeddings_initializer=keras.initializers.RandomNormal(stddev=1.0))(x)
    x = L.Bidirectional(L.LSTM(8, return_sequences=True))(x)
    x = L.Bidirectional(L.LSTM(8))(x)
    return keras.Model(inputs, L.Dense(1, activation="sigmoid")(x)), ids(100, 30)


@example
def words_by_their_maximum():
    x = inputs = keras.Input((25,), dtype="int32")
    x = L.Embedding(100, 8, embeddings_initializer=keras.initializers.RandomNormal(stddev=1.0))(x)
    x = L.GlobalMaxPooling1D()(L.Bidirectional(L.LSTM(6, return_sequences=True))(x))
    return keras.Model(inputs, L.Dense(1, activation="sigmoid")(L.Dense(8, activation="relu")(x))), ids(100, 25)


@example
def answers_from_memory():
    story, question = keras.Input((24,), dtype="int32"), keras.Input((6,), dtype="int32")
    asked = L.Embedding(30, 8)(question)
    match = L.Softmax()(L.Dot((2, 2))([L.Embedding(30, 8)(story), asked]))
    read = L.Permute((2, 1))(L.Add()([match, L.Embedding(30, 6)(story)]))
    x = L.LSTM(6)(L.Concatenate()([read, asked]))
    return keras.Model([story, question], L.Dense(30, activation="softmax")(x)), [ids(30, 24), ids(30, 6)]


@example
def masked_words():
    x = inputs = keras.Input((None,), dtype="int32")
    x = L.LSTM(8, return_sequences=True)(L.Embedding(50, 8, mask_zero=True)(x))
    return keras.Model(inputs, L.Dense(5)(L.GRU(6)(x))), ids(50, 20) * prefixes(20)


# Series.


@example
def weather():
    x = inputs = keras.Input((24, 7))
    return keras.Model(inputs, L.Dense(1)(L.LSTM(12)(x))), noise(24, 7)


@example
def weather_with_dropout():
    layers = [L.LSTM(8, recurrent_dropout=0.25), L.Dropout(0.5), L.Dense(1)]
    return keras.Sequential([keras.Input((24, 7)), *layers]), noise(24, 7)


@example
def weather_of_stacked_layers():
    layers = [L.GRU(8, recurrent_dropout=0.5, return_sequences=True), L.GRU(8, recurrent_dropout=0.5), L.Dropout(0.5)]
    return keras.Sequential([keras.Input((24, 7)), *layers, L.Dense(1)]), noise(24, 7)


class GraphConvolution(L.Layer):
    """What neighbours of a graph have on average, beside what a node has: `(nodes, batch, steps, features)`."""

    def __init__(self, edges, units, **kwargs):
        super().__init__(**kwargs)
        self.edges, self.units = edges, units

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units), initializer="glorot_uniform", name="kernel")
        self.built = True

    def call(self, features):
        share = np.float32(self.edges / self.edges.sum(1, keepdims=True))
        own = ops.matmul(features, self.kernel)
        neighbours = ops.einsum("mn,nbtf->mbtf", ops.convert_to_tensor(share), features)
        return ops.relu(ops.concatenate([own, ops.matmul(neighbours, self.kernel)], axis=-1))


class GraphConvolutionInTensorFlow(L.Layer):
    """The same in TensorFlow's functions alone, with a `tf.Variable`, and any way to join neighbours."""

    def __init__(self, edges, units, join=tf.math.unsorted_segment_mean, adds=False, **kwargs):
        super().__init__(**kwargs)
        self.ends, self.begins = (places.tolist() for places in np.nonzero(edges))
        self.join, self.adds, self.count = join, adds, len(edges)
        self.weight = tf.Variable(keras.initializers.GlorotUniform()((1, units)))
        self.activation = L.Activation(None)

    def call(self, features):
        own = tf.matmul(features, self.weight)
        neighbours = self.join(tf.gather(features, self.begins), self.ends, num_segments=self.count)
        neighbours = tf.matmul(neighbours, self.weight)
        return self.activation(own + neighbours if self.adds else tf.concat([own, neighbours], axis=-1))


class GraphAndSteps(L.Layer):
    """A graph convolution in each step, then an LSTM over the steps of each node."""

    def __init__(self, graph_conv, units, horizon, **kwargs):
        super().__init__(**kwargs)
        self.graph_conv, self.horizon = graph_conv, horizon
        self.lstm, self.dense = L.LSTM(units, activation="relu"), L.Dense(horizon)

    def call(self, inputs):
        x = self.graph_conv(tf.transpose(inputs, [2, 0, 1, 3]))
        nodes, batch, steps, features = tf.unstack(tf.shape(x))
        x = self.dense(self.lstm(tf.reshape(x, (batch * nodes, steps, features))))
        return tf.transpose(tf.reshape(x, (nodes, batch, self.horizon)), [1, 2, 0])


class GraphAndStepsInKeras(GraphAndSteps):
    def call(self, inputs):
        x = self.graph_conv(ops.transpose(inputs, [2, 0, 1, 3]))
        nodes, batch, steps, features = ops.shape(x)
        x = self.dense(self.lstm(ops.reshape(x, (batch * nodes, steps, features))))
        return ops.transpose(ops.reshape(x, (nodes, batch, self.horizon)), [1, 2, 0])


EDGES = np.array([[1, 1, 0, 0, 1], [1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1], [1, 0, 0, 1, 1]])


def of_roads(cls, graph_conv):
    x = inputs = keras.Input((12, 5, 1))
    return keras.Model(inputs, cls(graph_conv, 8, 3)(x)), noise(12, 5, 1)


@example
def traffic():
    return of_roads(GraphAndStepsInKeras, GraphConvolution(EDGES, 4))


@example
def traffic_in_tensorflow():
    return of_roads(GraphAndSteps, GraphConvolutionInTensorFlow(EDGES, 4))


@example
def traffic_by_maxima():
    return of_roads(GraphAndSteps, GraphConvolutionInTensorFlow(EDGES, 4, tf.math.unsorted_segment_max, adds=True))


# Films and sounds.


@example
def film_classifier():
    features, mask = keras.Input((20, 32)), keras.Input((20,), dtype="bool")
    x = L.GRU(8, return_sequences=True)(features, mask=mask)
    x = L.Dense(8, activation="relu")(L.Dropout(0.4)(L.GRU(4)(x)))
    return keras.Model([features, mask], L.Dense(5, activation="softmax")(x)), [noise(20, 32), prefixes(20)]


@example
def film_of_images():
    frame = [L.Conv2D(4, 3, strides=2, activation="relu"), L.GlobalAveragePooling2D()]
    layers = [L.TimeDistributed(layer) for layer in frame]
    return keras.Sequential([keras.Input((6, 12, 12, 3)), *layers, L.LSTM(8), L.Dense(3)]), noise(6, 12, 12, 3)


@example
def next_frame():
    x = inputs = keras.Input((None, 8, 8, 1))
    for size in (5, 3, 1):
        x = L.ConvLSTM2D(4, size, padding="same", return_sequences=True, activation="relu")(x)
        x = L.BatchNormalization()(x) if size > 1 else x
    x = L.Conv3D(1, 3, activation="sigmoid", padding="same")(x)
    return keras.Model(inputs, x), np.abs(noise(5, 8, 8, 1))


@example
def speech():
    x = L.Reshape((-1, 20, 1))(inputs := keras.Input((None, 20)))
    for kernel, strides in (((11, 8), (2, 2)), ((5, 4), (1, 2))):
        x = L.ReLU()(L.BatchNormalization()(L.Conv2D(4, kernel, strides=strides, padding="same", use_bias=False)(x)))
    x = L.Reshape((-1, x.shape[-2] * x.shape[-1]))(x)
    for index in range(2):
        layer = L.GRU(6, activation="tanh", recurrent_activation="sigmoid", reset_after=True, return_sequences=True)
        x = L.Bidirectional(layer, merge_mode="concat")(x)
        x = L.Dropout(0.5)(x) if index == 0 else x
    x = L.Dropout(0.5)(L.ReLU()(L.Dense(12)(x)))
    return keras.Model(inputs, L.Dense(10, activation="softmax")(x)), noise(24, 20)
