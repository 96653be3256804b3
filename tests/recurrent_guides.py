"""Recurrent models after keras.io's guides, and what people make of them: cells, states, masks, attention."""

import keras
import numpy as np

from tests.recurrent_models import COUNT, example, ids, noise, prefixes, rows, translator

L, ops = keras.layers, keras.ops


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


# Cells of one's own.


class WrittenByHand(L.Layer):
    """A GRU whose product with the sequence is split alone."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units

    def build(self, input_shape):
        shape = lambda count: (count, 3 * self.units)
        self.kernel = self.add_weight(shape=shape(input_shape[-1]), initializer="glorot_uniform", name="kernel")
        self.recurrent = self.add_weight(shape=shape(self.units), initializer="glorot_uniform", name="recurrent")
        self.built = True

    def call(self, x, states):
        (h,) = states
        update, reset, candidate = ops.split(ops.matmul(x, self.kernel), 3, axis=-1)
        of_update, of_reset, of_candidate = ops.split(ops.matmul(h, self.recurrent), 3, axis=-1)
        z = ops.sigmoid(update + of_update)
        h = z * h + (1 - z) * ops.tanh(candidate + ops.sigmoid(reset + of_reset) * of_candidate)
        return h, [h]


@example
def cell_written_by_hand():
    x = inputs = keras.Input((18, 5))
    return keras.Model(inputs, L.Dense(3)(L.RNN(WrittenByHand(6), return_sequences=True)(x))), noise(18, 5)


class ResidualCell(L.Layer):
    """A cell around another."""

    def __init__(self, cell, **kwargs):
        super().__init__(**kwargs)
        self.cell, self.state_size, self.output_size = cell, cell.state_size, cell.output_size
        self.get_initial_state = cell.get_initial_state

    def build(self, input_shape):
        self.cell.build(input_shape)
        self.built = True

    def call(self, x, states, training=None):
        y, states = self.cell(x, states, training=training)
        return x + y, states


@example
def cell_around_another():
    x = inputs = keras.Input((18, 6))
    x = L.RNN(ResidualCell(L.GRUCell(6)), return_sequences=True)(x)
    return keras.Model(inputs, L.Dense(3)(L.RNN(ResidualCell(L.LSTMCell(6)))(x))), noise(18, 6)


@example
def forecast_from_forecasts():
    """The last step's output is the next one's input, for a cell that is called by hand."""

    class Feedback(keras.Model):
        def __init__(self):
            super().__init__()
            self.cell, self.dense = L.LSTMCell(8), L.Dense(5)
            self.warmup = L.RNN(L.LSTMCell(8), return_state=True)

        def call(self, x, training=None):
            x, *states = self.warmup(x)
            made = [self.dense(x)]
            for _ in range(2):
                x, states = self.cell(made[-1], states, training=training)
                made.append(self.dense(x))
            return ops.stack(made, axis=1)

    model, data = Feedback(), noise(20, 5)
    model(data)
    return model, data


@example
def decoder_with_attention():
    """A cell that is called by hand, and reads an encoder's steps."""

    class Decoder(L.Layer):
        def __init__(self):
            super().__init__()
            self.cell, self.query, self.key, self.score = L.LSTMCell(6), L.Dense(6), L.Dense(6), L.Dense(1)

        def call(self, memory):
            keys, states, made = self.key(memory), 2 * [ops.mean(memory, axis=1)], []
            for _ in range(3):
                query = ops.expand_dims(self.query(states[0]), 1)
                weights = ops.softmax(self.score(ops.tanh(keys + query)), axis=1)
                x, states = self.cell(ops.sum(weights * memory, axis=1), states)
                made.append(x)
            return ops.stack(made, axis=1)

    x = inputs = keras.Input((12, 5))
    return keras.Model(inputs, Decoder()(L.GRU(6, return_sequences=True)(x))), noise(12, 5)


@example
def loop_in_python():
    class Loop(L.Layer):
        def __init__(self):
            super().__init__()
            self.inner, self.recurrent, self.dense = L.Dense(6, "tanh"), L.Dense(6, "tanh"), L.Dense(1, "sigmoid")

        def call(self, x):
            state, made = ops.zeros((x.shape[0], 6)), []
            for step in range(x.shape[1]):
                state = self.inner(x[:, step]) + self.recurrent(state)
                made.append(state)
            return self.dense(ops.stack(made, axis=1))

    inputs = keras.Input(batch_shape=(COUNT, 8, 5))
    return keras.Model(inputs, Loop()(inputs)), noise(8, 5)


# Masks, as the guide makes and takes them.


class OwnEmbedding(L.Layer):
    def build(self, input_shape):
        self.table = self.add_weight(shape=(50, 8), initializer="random_normal", name="table")
        self.built = True

    def call(self, x):
        return ops.take(self.table, x, axis=0)

    def compute_mask(self, x, mask=None):
        return ops.not_equal(x, 0)


class Halves(L.Layer):
    def call(self, x):
        return ops.split(x, 2, axis=1)

    def compute_mask(self, x, mask=None):
        return None if mask is None else ops.split(mask, 2, axis=1)


class Rectified(L.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, x):
        return ops.relu(x)


@example
def masks_of_ones_own():
    x = inputs = keras.Input((20,), dtype="int32")
    first, last = Halves()(Rectified()(OwnEmbedding()(x)))
    x = L.Concatenate()([L.LSTM(6)(first), L.GRU(6)(last)])
    return keras.Model(inputs, x), ids(50, 20) * np.tile(prefixes(10), 2)


@example
def mask_by_hand():
    class Encoder(L.Layer):
        def __init__(self):
            super().__init__()
            self.embedding, self.lstm = L.Embedding(50, 8, mask_zero=True), L.LSTM(6)

        def call(self, x):
            return self.lstm(self.embedding(x), mask=self.embedding.compute_mask(x))

    x = inputs = keras.Input((20,), dtype="int32")
    return keras.Model(inputs, Encoder()(x)), ids(50, 20) * prefixes(20)


# Of the guide to the functional API.


@example
def question_about_a_film():
    film, question = keras.Input((6, 12, 12, 3)), keras.Input((8,), dtype="int32")
    frame = keras.Sequential([keras.Input((12, 12, 3)), L.Conv2D(4, 3, activation="relu"), L.GlobalAveragePooling2D()])
    x = L.LSTM(6)(L.TimeDistributed(frame)(film))
    x = L.Concatenate()([x, L.LSTM(6)(L.Embedding(30, 8)(question))])
    answer = L.Dense(10, activation="softmax")(L.Dense(8, activation="relu")(x))
    return keras.Model([film, question], answer), [noise(6, 12, 12, 3), ids(30, 8)]


@example
def tickets():
    title, body, tags = keras.Input((None,), dtype="int32"), keras.Input((None,), dtype="int32"), keras.Input((4,))
    x = [L.LSTM(8)(L.Embedding(50, 8)(title)), L.LSTM(6)(L.Embedding(50, 8)(body)), tags]
    x = L.Concatenate()(x)
    return keras.Model([title, body, tags], [L.Dense(1)(x), L.Dense(4)(x)]), [ids(50, 20), ids(50, 24), noise(4)]


@example
def encoder_of_a_trained_model():
    """Cut out of the model that was trained, as the translator's inference has it."""
    source, target, *_, made = translator()
    states = keras.Model([source, target], made).get_layer("encoder").output[1:]
    return keras.Model(source, states), rows(12, 18)
