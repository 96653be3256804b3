"""Functions with poles, such as log(x + 1e-6): a number that rounds to zero spoils neither ranges nor gradients."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_quant as kq
from tests.helpers import ship

L = keras.layers
X = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")

AT_ZERO = {
    "log": lambda x: ops.log(ops.relu(x) + 1e-6),
    "rsqrt": lambda x: ops.rsqrt(ops.relu(x) + 1e-2),
    "reciprocal": lambda x: 1 / (ops.square(x) + 1e-2),
    "quotient": lambda x: x / (ops.relu(x) + 1e-2),
    "sqrt": lambda x: ops.sqrt(ops.square(x)),
    "power": lambda x: ops.power(ops.relu(x) + 1e-2, -0.5),
    "arctanh": lambda x: ops.arctanh(0.999 * ops.tanh(x)),
    "arcsin": lambda x: ops.arcsin(0.999 * ops.tanh(x)),
    "cbrt": lambda x: ops.cbrt(x) if hasattr(ops, "cbrt") else x,
    "no_nan": lambda x: ops.divide_no_nan(1.0, ops.relu(x - 0.5)),
    "normalization": lambda x: L.LayerNormalization(epsilon=1e-12)(x * np.float32([[1, 1, 1, 1, 1, 1, 1, 20]])),
}


@pytest.mark.parametrize("name", AT_ZERO)
def test_training_keeps_ranges_and_weights_finite(name, tmp_path):
    x = keras.Input((6,))
    model = keras.Model(x, L.Dense(3)(AT_ZERO[name](L.Dense(8)(x))))
    qmodel = kq.quantize(model, "int8", X)
    ranges = {w.path: np.array(w) for w in qmodel.non_trainable_weights}
    qmodel.compile(keras.optimizers.SGD(1e-6), "mse")
    qmodel.fit(X, model.predict(X, verbose=0), epochs=2, verbose=0)
    assert all(np.all(np.isfinite(w)) for w in map(np.array, qmodel.weights))
    assert all(np.all(np.abs(w) <= 1.5 * np.abs(ranges[w.path]) + 0.1) for w in qmodel.non_trainable_weights)
    ship(qmodel, tmp_path, X)
