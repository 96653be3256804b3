"""Recurrent layers: what trains, predicts and runs on the device are the same integers, step for step."""

import math

import keras
import numpy as np
import pytest

import keras_quant as kq
from tests.helpers import few, functional, sequential, shake, ship, signal_to_noise, slow

L, ops = keras.layers, keras.ops
SHORT, LONG = 7, 22


@keras.saving.register_keras_serializable("tests")
class Peephole(L.Layer):
    """An LSTM whose forget gate reads the cell state."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units, self.state_size, self.output_size = units, [units, units], units
        self.dense = L.Dense(4 * units)

    def build(self, input_shape):
        self.dense.build((None, input_shape[-1] + self.units))
        self.peep = self.add_weight(shape=(self.units,), initializer="random_normal", name="peep")
        self.built = True

    def call(self, x, states):
        h, c = states
        i, f, a, o = ops.split(self.dense(ops.concatenate([x, h], -1)), 4, axis=-1)
        c = ops.sigmoid(f + self.peep * c) * c + ops.sigmoid(i) * ops.tanh(a)
        h = ops.sigmoid(o) * ops.tanh(c)
        return h, [h, c]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("tests")
class Minimal(L.Layer):
    """Keras's own example of a cell."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units), name="kernel")
        self.recurrent = self.add_weight(shape=(self.units, self.units), initializer="orthogonal", name="recurrent")
        self.built = True

    def call(self, inputs, states):
        output = ops.matmul(inputs, self.kernel) + ops.matmul(states[0], self.recurrent)
        return output, [output]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("tests")
class Leaky(Minimal):
    """A gate between the state and a candidate; its output is no state."""

    def call(self, inputs, states):
        (h,) = states
        f = ops.sigmoid(ops.matmul(inputs, self.kernel) + ops.matmul(h, self.recurrent))
        h = (1 - f) * h + f * ops.tanh(ops.matmul(inputs, self.kernel))
        return h * 2.0, [h]


@keras.saving.register_keras_serializable("tests")
class MinimalGated(L.Layer):
    """Zhou et al. 2016: the gate's product with the state is joined with the sequence."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units
        self.gate, self.candidate = L.Dense(units, activation="sigmoid"), L.Dense(units, activation="tanh")

    def build(self, input_shape):
        for layer in (self.gate, self.candidate):
            layer.build((None, input_shape[-1] + self.units))
        self.built = True

    def call(self, x, states):
        (h,) = states
        f = self.gate(ops.concatenate([x, h], -1))
        h = (1 - f) * h + f * self.candidate(ops.concatenate([x, f * h], -1))
        return h, [h]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def masked(layer):
    return lambda x: layer()(L.Masking()(x))


def encoder_decoder(cls):
    def build(x):
        _, *states = cls(6, return_state=True, name="encoder")(x)
        return L.Dense(3)(cls(6, return_sequences=True, name="decoder")(L.Dense(4)(x), initial_state=states))

    return build


def with_states(layer):
    """All outputs and last states."""
    return lambda x: list(layer()(x))


def called_thrice(x):
    """Once on another length, once with states."""
    layer = L.LSTM(6, return_sequences=True, return_state=True)
    y, *states = layer(x)
    again, *_ = layer(L.Dense(x.shape[-1])(y), initial_state=states)
    return L.Dense(3)(again + layer(L.ZeroPadding1D((2, 0))(x))[0][:, 2:])


def twins(x):
    layer = L.Bidirectional(L.GRU(6, return_sequences=True), merge_mode="sum")
    return L.Multiply()([layer(x), layer(L.ReLU()(x))])


CASES = {
    "lstm": (LONG, lambda x: L.LSTM(6, return_sequences=True)(x)),
    "lstm_short": (SHORT, lambda x: L.LSTM(6, return_sequences=True)(x)),
    "lstm_last": (LONG, lambda x: L.LSTM(6)(x)),
    "lstm_unrolled": (LONG, lambda x: L.LSTM(6, unroll=True)(x)),
    "lstm_prime_length": (23, lambda x: L.LSTM(6, return_sequences=True)(x)),
    "lstm_one_step": (1, lambda x: L.LSTM(6)(x)),
    "lstm_without_bias": (LONG, lambda x: L.LSTM(6, use_bias=False)(x)),
    "lstm_backwards": (LONG, lambda x: L.LSTM(6, return_sequences=True, go_backwards=True)(x)),
    "lstm_backwards_short": (SHORT, lambda x: L.LSTM(6, return_sequences=True, go_backwards=True)(x)),
    "lstm_relu": (LONG, lambda x: L.LSTM(6, activation="relu")(x)),
    "lstm_hard": (LONG, lambda x: L.LSTM(6, recurrent_activation="hard_sigmoid")(x)),
    "lstm_dropout": (LONG, lambda x: L.LSTM(6, dropout=0.2, recurrent_dropout=0.2)(x)),
    "lstm_states": (LONG, with_states(lambda: L.LSTM(6, return_sequences=True, return_state=True))),
    "gru": (LONG, lambda x: L.GRU(6, return_sequences=True)(x)),
    "gru_last": (LONG, lambda x: L.GRU(6)(x)),
    "gru_reset_before": (LONG, lambda x: L.GRU(6, reset_after=False, return_sequences=True)(x)),
    "gru_reset_before_short": (SHORT, lambda x: L.GRU(6, reset_after=False)(x)),
    "gru_without_bias": (LONG, lambda x: L.GRU(6, use_bias=False)(x)),
    "gru_states": (LONG, with_states(lambda: L.GRU(6, return_state=True))),
    "simple": (LONG, lambda x: L.SimpleRNN(6, return_sequences=True)(x)),
    "simple_short": (SHORT, lambda x: L.SimpleRNN(6)(x)),
    "simple_relu": (LONG, lambda x: L.SimpleRNN(6, activation="relu")(x)),
    "simple_states": (LONG, with_states(lambda: L.SimpleRNN(6, return_state=True))),
    "stacked_layers": (LONG, lambda x: L.LSTM(4)(L.GRU(6, return_sequences=True)(x))),
    "stacked_cells": (LONG, lambda x: L.RNN([L.LSTMCell(6), L.GRUCell(4)], return_sequences=True)(x)),
    "peephole": (LONG, lambda x: L.RNN(Peephole(6), return_sequences=True)(x)),
    "minimal": (LONG, lambda x: L.RNN(Minimal(6))(x)),
    "leaky": (LONG, lambda x: L.RNN(Leaky(6), return_sequences=True)(x)),
    "leaky_last": (LONG, lambda x: L.RNN(Leaky(6))(x)),
    "called_thrice": (LONG, called_thrice),
    "twins": (LONG, twins),
    "minimal_gated": (LONG, lambda x: L.RNN(MinimalGated(6), return_sequences=True)(x)),
    "both_ways": (LONG, lambda x: L.Bidirectional(L.LSTM(6, return_sequences=True))(x)),
    "both_ways_sum": (LONG, lambda x: L.Bidirectional(L.GRU(6), merge_mode="sum")(x)),
    "both_ways_mul": (LONG, lambda x: L.Bidirectional(L.LSTM(6), merge_mode="mul")(x)),
    "both_ways_ave": (SHORT, lambda x: L.Bidirectional(L.GRU(6, return_sequences=True), merge_mode="ave")(x)),
    "both_ways_apart": (SHORT, lambda x: list(L.Bidirectional(L.GRU(6), merge_mode=None)(x))),
    "masked_lstm": (LONG, masked(lambda: L.LSTM(6, return_sequences=True))),
    "masked_gru": (SHORT, masked(lambda: L.GRU(6))),
    "masked_simple": (LONG, masked(lambda: L.SimpleRNN(6, return_sequences=True))),
    "masked_leaky": (LONG, masked(lambda: L.RNN(Leaky(6), return_sequences=True))),
    "masked_leaky_last": (LONG, masked(lambda: L.RNN(Leaky(6)))),
    "masked_zeros": (LONG, masked(lambda: L.RNN(L.GRUCell(6), return_sequences=True, zero_output_for_mask=True))),
    "masked_both_ways": (LONG, masked(lambda: L.Bidirectional(L.LSTM(6)))),
    "masked_backwards": (LONG, masked(lambda: L.LSTM(6, go_backwards=True, return_sequences=True))),
    "masked_stacked": (LONG, masked(lambda: L.RNN([L.LSTMCell(6), L.GRUCell(4)]))),
    "encoder_decoder_lstm": (LONG, encoder_decoder(L.LSTM)),
    "encoder_decoder_gru": (SHORT, encoder_decoder(L.GRU)),
    "encoder_decoder_simple": (LONG, encoder_decoder(L.SimpleRNN)),
}
FAST = "lstm", "gru_last", "simple_short", "masked_lstm", "leaky_last", "encoder_decoder_lstm", "both_ways_sum"


def words(length, count=24, features=5):
    """Sequences with parts that `Masking` leaves out: at the end, at the beginning and in between."""
    x = np.random.default_rng(length).standard_normal((count, length, features)).astype("float32")
    x[:8, length // 2 :], x[8:12, : length // 3], x[12:16, length // 3 : length // 2] = 0, 0, 0
    return x


@pytest.mark.parametrize("name", few(CASES, *FAST))
def test_a_recurrent_layer_ships(name, tmp_path):
    length, build = CASES[name]
    model, x = shake(functional(build, (length, 5))), words(length)
    qmodel = kq.quantize(model, "int8", x)
    ship(qmodel, tmp_path, x)
    for wanted, got in zip(*(keras.tree.flatten(m(x, training=False)) for m in (model, qmodel))):
        assert signal_to_noise(wanted, got) >= 20


POLICIES = "int4", "w4a8", "w8a6", "dynamic_int8", "float16", "float32"


def test_calls_of_a_layer_share_its_weights():
    model = functional(called_thrice, (LONG, 5))
    qmodel = kq.quantize(model, "int8", words(LONG))
    trained = lambda m: sum(math.prod(v.shape) for v in m.trainable_variables)
    assert trained(qmodel) == trained(model)


def test_calls_with_a_mask_and_without_warn():
    layer = L.GRU(6)
    model = functional(lambda x: L.Add()([layer(x), layer(L.Masking()(x))]), (LONG, 5))
    with pytest.warns(UserWarning, match="'gru.*' is recurrent and called with a mask and without"):
        kq.quantize(model, "int8", words(LONG))


@pytest.mark.parametrize("policy", few(POLICIES, "w4a8", "dynamic_int8"))
@pytest.mark.parametrize("cls", [L.LSTM, L.GRU, L.SimpleRNN])
def test_in_any_precision(policy, cls, tmp_path):
    model, x = shake(functional(masked(lambda: cls(6, return_sequences=True)), (LONG, 5))), words(LONG)
    qmodel = kq.quantize(model, policy, x)
    ship(qmodel, tmp_path, x)
    assert signal_to_noise(model(x, training=False), qmodel(x, training=False)) >= 10


@pytest.mark.parametrize("cls", [L.LSTM, L.GRU])
def test_integers_only(cls, tmp_path):
    model, x = shake(functional(lambda x: cls(6)(x), (LONG, 5))), words(LONG)
    report, _ = ship(kq.quantize(model, "int8", x, integer_only=True), tmp_path, x)
    assert not [op for op in report.operators if op.is_float]


CONVOLUTIONAL = {
    "1d": lambda: (L.ConvLSTM1D(3, 3, strides=2), (LONG, 8, 2)),
    "2d": lambda: (L.ConvLSTM2D(3, 3, padding="same", return_sequences=True), (SHORT, 6, 6, 2)),
    "2d_long": lambda: (L.ConvLSTM2D(3, 3), (LONG, 6, 6, 2)),
    "3d": lambda: (L.ConvLSTM3D(3, 2, padding="same"), (SHORT, 4, 4, 4, 2)),
    "2d_both_ways": lambda: (L.Bidirectional(L.ConvLSTM2D(3, 3, padding="same")), (SHORT, 6, 6, 2)),
}


@pytest.mark.parametrize("name", few(CONVOLUTIONAL, "2d_long"))
def test_a_convolutional_one_ships(name, tmp_path):
    layer, shape = CONVOLUTIONAL[name]()
    x = np.random.default_rng(0).standard_normal((8, *shape)).astype("float32")
    model = shake(sequential(layer, shape=shape))
    qmodel = kq.quantize(model, "int8", x)
    ship(qmodel, tmp_path, x)
    assert signal_to_noise(model(x, training=False), qmodel(x, training=False)) >= 20


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("length", [SHORT, LONG])
def test_batches(batch_size, length, tmp_path):
    model, x = (
        shake(functional(masked(lambda: L.Bidirectional(L.GRU(6, return_sequences=True))), (length, 5))),
        words(length),
    )
    ship(kq.quantize(model, "int8", x), tmp_path, x, batch_size=batch_size)


DISTRIBUTED = {
    "around": lambda x: L.TimeDistributed(L.LSTM(6))(x),
    "sequences": lambda x: L.TimeDistributed(L.GRU(6, return_sequences=True))(x),
    "sequences_both_ways": lambda x: L.TimeDistributed(L.Bidirectional(L.LSTM(4, return_sequences=True)))(x),
    "short_sequences": lambda x: L.TimeDistributed(L.GRU(6, return_sequences=True))(x[:, :, :SHORT]),
    "model": lambda x: L.TimeDistributed(sequential(L.GRU(4, return_sequences=True), L.LSTM(4), shape=(LONG, 5)))(x),
    "around_again": lambda x: L.GRU(4)(L.TimeDistributed(L.GRU(6))(x)),
}


@pytest.mark.parametrize("batch_size", [1, slow(2)])
@pytest.mark.parametrize("name", few(DISTRIBUTED, "sequences", "short_sequences"))
def test_time_distributed(name, batch_size, tmp_path):
    """Sequences in the batch, several rows a sample."""
    model = shake(functional(DISTRIBUTED[name], (3, LONG, 5)))
    x = np.random.default_rng(0).standard_normal((8, 3, LONG, 5)).astype("float32")
    qmodel = kq.quantize(model, "int8", x)
    ship(qmodel, tmp_path, x, batch_size=batch_size)
    assert signal_to_noise(model(x, training=False), qmodel(x, training=False)) >= 20


def test_steps_of_images(tmp_path):
    layers = L.TimeDistributed(L.Conv2D(2, 3)), L.TimeDistributed(L.Flatten()), L.GRU(6)
    x = np.random.default_rng(0).standard_normal((8, SHORT, 6, 6, 1)).astype("float32")
    ship(kq.quantize(shake(sequential(*layers, shape=x.shape[1:])), "int8", x), tmp_path, x)


def texts(count=8, sentences=3):
    """Ids of words in sentences, with zeros behind each one's end."""
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 30, (count, sentences, LONG)).astype("int32")
    return ids * (np.arange(LONG) < rng.integers(2, LONG, (count, sentences, 1)))


def of_texts(layer, behind=lambda x, here: x):
    x = keras.Input((3, LONG), dtype="int32")
    y = L.TimeDistributed(layer)(L.Embedding(30, 8, "normal", mask_zero=True)(x))
    return shake(keras.Model(x, behind(y, ops.not_equal(x, 0))))


MASKED_APART = {
    "last": lambda: of_texts(L.GRU(6)),
    "sequences_both_ways": lambda: of_texts(L.Bidirectional(L.LSTM(4, return_sequences=True))),
    "model": lambda: of_texts(sequential(L.GRU(4, return_sequences=True), L.LSTM(4), shape=(LONG, 8))),
    "sentences": lambda: of_texts(L.GRU(6), lambda x, here: L.LSTM(4)(x, mask=ops.any(here, axis=-1))),
}


@pytest.mark.parametrize("name", few(MASKED_APART, "last", "model"))
def test_time_distributed_with_a_mask_for_each_part(name, tmp_path):
    model, x = MASKED_APART[name](), texts()
    qmodel = kq.quantize(model, "int8", x)
    ship(qmodel, tmp_path, x)
    assert signal_to_noise(model.predict(x, verbose=0), qmodel.predict(x, verbose=0)) >= 25


def test_a_mask_of_parts_of_steps_is_refused():
    model = of_texts(L.GRU(6), lambda x, _: L.LSTM(4, name="sentences")(x))
    with pytest.raises(kq.UnsupportedLayerError, match=r"'sentences' .* one entry a step, `\(batch, 3\)`.*'batch', 3, 22"):
        kq.quantize(model)


def test_ids_with_a_mask(tmp_path):
    ids = np.tril(np.random.default_rng(0).integers(1, 30, (LONG, LONG))).astype("int32")
    x = keras.Input((LONG,), dtype="int32")
    model = keras.Model(x, L.Dense(1)(L.Bidirectional(L.LSTM(6))(L.Embedding(30, 8, mask_zero=True)(x))))
    ship(kq.quantize(shake(model), "int8", ids), tmp_path, ids)


def test_states_as_inputs_of_the_model(tmp_path):
    x, h, c = keras.Input((LONG, 5)), keras.Input((6,)), keras.Input((6,))
    model = shake(keras.Model([x, h, c], list(L.LSTM(6, return_sequences=True, return_state=True)(x, initial_state=[h, c]))))
    first = np.random.default_rng(0).standard_normal((2, 24, 6)).astype("float32")
    arrays = [words(LONG), np.tanh(first[0]), 3 * first[1]]
    qmodel = kq.quantize(model, "int8", arrays)
    ship(qmodel, tmp_path, arrays)
    for wanted, got in zip(model(arrays), qmodel(arrays, training=False)):
        assert signal_to_noise(wanted, got) >= 20


def task(length=LONG, count=256):
    x = np.random.default_rng(3).standard_normal((count, length, 3)).astype("float32")
    return x, (0.3 * np.cumsum(x[..., :1], 1) + x[..., 1:2]).astype("float32")


@pytest.mark.parametrize("policy", ["int8", "w4a8", "dynamic_int8"])
@pytest.mark.parametrize("cls", [L.LSTM, L.GRU, L.SimpleRNN])
def test_training_learns_and_ships(policy, cls, tmp_path):
    keras.utils.set_random_seed(0)
    x, y = task()
    layer = cls(8, return_sequences=True, dropout=0.05, recurrent_dropout=0.05)
    qmodel = kq.quantize(sequential(layer, L.Dense(1), shape=x.shape[1:]), policy, x)
    qmodel.compile(keras.optimizers.Adam(0.01), "mse")
    losses = qmodel.fit(x, y, epochs=6, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]
    ship(qmodel, tmp_path, x[:24])


def test_training_without_calibration(tmp_path):
    keras.utils.set_random_seed(0)
    x, y = task()
    qmodel = kq.quantize(sequential(L.GRU(8, return_sequences=True), L.Dense(1), shape=x.shape[1:]))
    qmodel.compile(keras.optimizers.Adam(0.01), "mse")
    losses = qmodel.fit(x, y, epochs=6, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]
    ship(qmodel, tmp_path, x[:24])


@pytest.mark.parametrize("cls", [L.LSTM, L.GRU, L.SimpleRNN])
def test_gradients_are_those_of_keras(cls):
    """In float; what is kept of each step, and computed again on the way back, is the state alone."""
    keras.utils.set_random_seed(0)
    x, y = task(count=8)
    # The two biases of a GRU are one here, which moves half as far.
    model = functional(masked(lambda: cls(4, use_bias=False, return_sequences=True)), x.shape[1:])
    qmodel = kq.quantize(model, "float32", x)
    losses = []
    for m in (model, qmodel):
        m.compile(keras.optimizers.SGD(0.5), "mse")
        losses.append(m.fit(x, np.repeat(y, 4, -1), epochs=4, batch_size=8, verbose=0).history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_it_is_saved_and_loaded(tmp_path):
    x = words(LONG)
    qmodel = kq.quantize(shake(functional(masked(lambda: encoder_decoder(L.LSTM)), (LONG, 5))), "int8", x)
    qmodel.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), qmodel.predict(x, verbose=0))
    kq.export(qmodel, tmp_path / "a.tflite")
    kq.export(again, tmp_path / "b.tflite")
    assert (tmp_path / "a.tflite").read_bytes() == (tmp_path / "b.tflite").read_bytes()


def test_a_state_keeps_to_its_range(tmp_path):
    """A cell that counts further than in calibration: clipped, alike on both sides."""
    model = functional(lambda x: L.LSTM(4, bias_initializer="ones", return_sequences=True)(x), (60, 2))
    x = np.abs(np.random.default_rng(0).standard_normal((8, 60, 2))).astype("float32")
    qmodel = kq.quantize(shake(model), "int8", 0.1 * x)
    ship(qmodel, tmp_path, 4 * x)


DROP_IN = {
    "lstm": lambda x: kq.layers.QuantLSTM(6, return_sequences=True)(x),
    "gru_after_dense": lambda x: kq.layers.QuantGRU(6)(kq.layers.QuantDense(4)(x)),
    "simple_in_four_bits": lambda x: kq.layers.QuantSimpleRNN(6, policy="w4a8")(x),
    "cells": lambda x: kq.layers.QuantRNN([L.LSTMCell(4), L.GRUCell(3)])(x),
    "both_ways": lambda x: kq.layers.QuantBidirectional(L.LSTM(4))(x),
    "masked": lambda x: kq.layers.QuantLSTM(6)(L.Masking()(x)),
    "states": lambda x: kq.layers.QuantGRU(6)(x, initial_state=kq.layers.QuantGRU(6, return_state=True)(x)[1]),
}


@pytest.mark.parametrize("name", few(DROP_IN, "gru_after_dense"))
def test_built_by_hand(name, tmp_path):
    keras.utils.set_random_seed(0)
    x = keras.Input((LONG, 5))
    qmodel = keras.Model(x, kq.layers.QuantDense(2)(DROP_IN[name](x)))
    qmodel.compile("adam", "mse")
    data = words(LONG)
    qmodel.fit(data, np.zeros((24, *qmodel.output_shape[1:])), epochs=2, verbose=0)
    kq.calibrate(qmodel, data, verbose=0)
    ship(qmodel, tmp_path, data)
    qmodel.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(again.predict(data, verbose=0), qmodel.predict(data, verbose=0))
