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
    source, target = keras.Input((18, 12), name="source"), keras.Input((20, 14), name="target")
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
    target = keras.Input((1, 14), name="letter")
    before = [keras.Input((8,), name="h"), keras.Input((8,), name="c")]
    x, *after = decoder(target, initial_state=before)
    return keras.Model([target, *before], [dense(x), *after]), [rows(14, 1), np.tanh(noise(8)), noise(8)]


@example
def translation_with_attention():
    source, target = keras.Input((14,), dtype="int32"), keras.Input((12,), dtype="int32")
    context = L.Bidirectional(L.GRU(8, return_sequences=True), merge_mode="sum")(L.Embedding(30, 8, mask_zero=True)(source))
    x = L.GRU(8, return_sequences=True)(L.Embedding(30, 8, mask_zero=True)(target))
    x = L.LayerNormalization()(L.Add()([x, L.MultiHeadAttention(1, 8)(query=x, value=context)]))
    return keras.Model([source, target], L.Dense(30)(x)), [ids(30, 14), ids(30, 12)]


@example
def words_both_ways():
    x = inputs = keras.Input((30,), dtype="int32")
    x = L.Embedding(100, 12, embeddings_initializer=keras.initializers.RandomNormal(stddev=1.0))(x)
    x = L.Bidirectional(L.LSTM(8, return_sequences=True))(x)
    x = L.Bidirectional(L.LSTM(8))(x)
    return keras.Model(inputs, L.Dense(1, activation="sigmoid")(x)), ids(100, 30)


@example
def masked_words():
    x = inputs = keras.Input((20,), dtype="int32")
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


@keras.saving.register_keras_serializable("tests")
class GraphConvolution(L.Layer):
    """What neighbours of a graph have on average, beside what a node has: `(nodes, batch, steps, features)`.

    By Keras's functions, or `by_segments` by TensorFlow's.
    """

    def __init__(self, edges, units, by_segments=False, **kwargs):
        super().__init__(**kwargs)
        self.edges, self.units, self.by_segments = edges, units, by_segments

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units), initializer="glorot_uniform", name="kernel")
        self.built = True

    def call(self, features):
        edges = np.asarray(self.edges, "float32")
        share = edges / edges.sum(1, keepdims=True)
        own = ops.matmul(features, self.kernel)
        if self.by_segments:
            ends, begins = np.nonzero(edges)
            neighbours = tf.math.unsorted_segment_mean(ops.take(features, begins, axis=0), ends, num_segments=len(edges))
        else:
            neighbours = ops.einsum("mn,nbtf->mbtf", ops.convert_to_tensor(share), features)
        return ops.relu(ops.concatenate([own, ops.matmul(neighbours, self.kernel)], axis=-1))

    def get_config(self):
        return {**super().get_config(), "edges": self.edges, "units": self.units, "by_segments": self.by_segments}


@keras.saving.register_keras_serializable("tests")
class GraphAndSteps(L.Layer):
    """A graph convolution in each step, then an LSTM over the steps of each node."""

    def __init__(self, edges, units, horizon, by_segments=False, **kwargs):
        super().__init__(**kwargs)
        self.edges, self.units, self.horizon = edges, units, horizon
        self.graph_conv = GraphConvolution(edges, 4, by_segments)
        self.lstm, self.dense = L.LSTM(units, activation="relu"), L.Dense(horizon)

    def build(self, input_shape):
        batch, steps, nodes, features = input_shape
        self.graph_conv.build((nodes, batch, steps, features))
        self.lstm.build((None, steps, 8))
        self.dense.build((None, self.units))
        self.built = True

    def call(self, inputs):
        x = self.graph_conv(ops.transpose(inputs, [2, 0, 1, 3]))
        nodes, batch, steps, features = ops.shape(x)
        x = self.dense(self.lstm(ops.reshape(x, (batch * nodes, steps, features))))
        return ops.transpose(ops.reshape(x, (nodes, batch, self.horizon)), [1, 2, 0])

    def get_config(self):
        return {**super().get_config(), "edges": self.edges, "units": self.units, "horizon": self.horizon}


EDGES = [[1, 1, 0, 0, 1], [1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1], [1, 0, 0, 1, 1]]


@example
def traffic():
    x = inputs = keras.Input((12, 5, 1))
    return keras.Model(inputs, GraphAndSteps(EDGES, 8, 3)(x)), noise(12, 5, 1)


@example
def traffic_by_segments():
    x = inputs = keras.Input((12, 5, 1))
    return keras.Model(inputs, GraphAndSteps(EDGES, 8, 3, by_segments=True)(x)), noise(12, 5, 1)


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
    x = inputs = keras.Input((5, 8, 8, 1))
    for size in (5, 3, 1):
        x = L.ConvLSTM2D(4, size, padding="same", return_sequences=True, activation="relu")(x)
        x = L.BatchNormalization()(x) if size > 1 else x
    x = L.Conv3D(1, 3, activation="sigmoid", padding="same")(x)
    return keras.Model(inputs, x), np.abs(noise(5, 8, 8, 1))


@example
def speech():
    x = L.Reshape((24, 20, 1))(inputs := keras.Input((24, 20)))
    for kernel, strides in (((11, 8), (2, 2)), ((5, 4), (1, 2))):
        x = L.ReLU()(L.BatchNormalization()(L.Conv2D(4, kernel, strides=strides, padding="same", use_bias=False)(x)))
    x = L.Reshape((-1, x.shape[-2] * x.shape[-1]))(x)
    for index in range(2):
        layer = L.GRU(6, activation="tanh", recurrent_activation="sigmoid", reset_after=True, return_sequences=True)
        x = L.Bidirectional(layer, merge_mode="concat")(x)
        x = L.Dropout(0.5)(x) if index == 0 else x
    x = L.Dropout(0.5)(L.ReLU()(L.Dense(12)(x)))
    return keras.Model(inputs, L.Dense(10, activation="softmax")(x)), noise(24, 20)


# Of the guides.


@example
def two_outputs_and_states():
    x = inputs = keras.Input((20, 6))
    x, h, c = L.LSTM(8, return_sequences=True, return_state=True)(x)
    y = L.LSTM(8)(L.Dense(6)(x), initial_state=[h, c])
    return keras.Model(inputs, [L.Dense(4)(y), x]), noise(20, 6)


@example
def cell_and_layer():
    x = inputs = keras.Input((28, 10))
    x = L.Bidirectional(
        L.RNN(L.LSTMCell(8), return_sequences=True), backward_layer=L.GRU(8, go_backwards=True, return_sequences=True)
    )(x)
    x = L.RNN([L.GRUCell(6), L.LSTMCell(6)])(x)
    return keras.Model(inputs, L.Dense(3)(L.BatchNormalization()(x))), noise(28, 10)


@keras.saving.register_keras_serializable("tests")
class NestedCell(L.Layer):
    """Two states of other shapes, as the guide's nested cell has them; inputs side by side."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.state_size, self.output_size = [(units,), (units, 3)], units

    def get_initial_state(self, batch_size=None):
        return [ops.zeros((batch_size, self.units)), ops.zeros((batch_size, self.units, 3))]

    def build(self, input_shape):
        self.first = self.add_weight(shape=(input_shape[-1], self.units), initializer="glorot_uniform", name="first")
        self.second = self.add_weight(shape=(input_shape[-1], self.units * 3), initializer="glorot_uniform", name="second")
        self.built = True

    def call(self, inputs, states):
        one, two = states
        one = 0.5 * one + ops.tanh(ops.matmul(inputs, self.first))
        two = 0.5 * two + ops.reshape(ops.tanh(ops.matmul(inputs, self.second)), (-1, self.units, 3))
        return one + ops.sum(two, -1), [one, two]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@example
def nested_cell():
    x = inputs = keras.Input((18, 5))
    return keras.Model(inputs, L.RNN(NestedCell(6), return_sequences=True)(x)), noise(18, 5)


@keras.saving.register_keras_serializable("tests")
class NormalizedCell(L.Layer):
    """A cell of layers: a normalization before the activation."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units
        self.dense, self.recurrent = L.Dense(units, use_bias=False), L.Dense(units, use_bias=False)
        self.norm, self.drop = L.LayerNormalization(), L.Dropout(0.1)

    def build(self, input_shape):
        self.dense.build((None, input_shape[-1]))
        for layer in (self.recurrent, self.norm):
            layer.build((None, self.units))
        self.built = True

    def call(self, x, states, training=None):
        h = ops.tanh(self.norm(self.dense(x) + self.recurrent(self.drop(states[0], training=training))))
        return h, [h]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@example
def normalized_cell():
    x = inputs = keras.Input((18, 5))
    return keras.Model(inputs, L.Dense(3)(L.RNN(NormalizedCell(6))(x))), noise(18, 5)


@example
def attention_over_steps():
    x = inputs = keras.Input((20, 6))
    x, h, _ = L.LSTM(8, return_sequences=True, return_state=True)(x)
    query = L.Reshape((1, 8))(h)
    both = L.Concatenate()([L.Attention()([query, x]), L.AdditiveAttention()([query, x])])
    return keras.Model(inputs, L.Dense(3)(L.Flatten()(both))), noise(20, 6)


@example
def weighed_steps():
    """Attention as a softmax over the steps, written by hand."""
    x = inputs = keras.Input((20, 6))
    x = L.Bidirectional(L.GRU(6, return_sequences=True))(x)
    weights = L.Softmax(axis=1)(L.Dense(1, activation="tanh")(x))
    x = L.Lambda(lambda pair: ops.sum(pair[0] * pair[1], axis=1))([x, weights])
    return keras.Model(inputs, L.Dense(2)(x)), noise(20, 6)


@example
def autoencoder():
    layers = [L.LSTM(8, activation="relu"), L.RepeatVector(18), L.LSTM(8, activation="relu", return_sequences=True)]
    return keras.Sequential([keras.Input((18, 3)), *layers, L.TimeDistributed(L.Dense(3))]), noise(18, 3)


@example
def subclassed():
    class Text(keras.Model):
        def __init__(self):
            super().__init__()
            self.embedding, self.gru, self.dense = (
                L.Embedding(40, 8),
                L.GRU(8, return_sequences=True, return_state=True),
                L.Dense(40),
            )

        def call(self, inputs, training=False):
            x, _ = self.gru(self.embedding(inputs, training=training), training=training)
            return self.dense(x, training=training)

    model, data = Text(), ids(40, 18)
    model(data)
    return model, data


@example
def activity_of_convolutions_and_lstm():
    x = inputs = keras.Input((64, 9))
    for _ in range(2):
        x = L.MaxPooling1D(2)(L.Conv1D(8, 3, activation="relu")(x))
    x = L.Dropout(0.5)(L.LSTM(8, return_sequences=True)(x))
    x = L.Concatenate()([L.GlobalMaxPooling1D()(x), L.GlobalAveragePooling1D()(x)])
    return keras.Model(inputs, L.Dense(6, activation="softmax")(x)), noise(64, 9)


@example
def recommender_of_sessions():
    items, context = keras.Input((20,), dtype="int32"), keras.Input((4,))
    x = L.GRU(8)(L.Embedding(60, 8, mask_zero=True)(items))
    x = L.Dense(16, activation="relu")(L.Concatenate()([x, context]))
    return keras.Model([items, context], L.Dense(60)(x)), [ids(60, 20) * prefixes(20), noise(4)]
