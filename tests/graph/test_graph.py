"""Computing a graph: what is held, and for how long."""

import keras
import numpy as np
from keras import ops

from keras_quant.graph import trace
from keras_quant.graph.graph import in_float

L = keras.layers
X = np.ones((1, 4), "float32")


def branched():
    """Four numbers in, eight and four beside each other, twelve, and two out."""
    x = keras.Input((4,))
    wide, narrow = L.Dense(8)(x), L.Dense(4)(x)
    return trace(keras.Model(x, L.Dense(2)(L.Concatenate()([wide, narrow]))))


def test_what_was_read_is_released():
    graph = branched()
    everything = graph.run([X], in_float)
    outputs = graph.run([X], in_float, release=True)
    assert set(outputs) == {graph.outputs} and len(everything) == 5
    np.testing.assert_array_equal(outputs[graph.outputs], everything[graph.outputs])


def test_most_held_counts_what_is_alive_at_once():
    graph = branched()
    # Both branches and what they are joined to.
    assert graph.most_held() == 8 + 4 + 12
    # The same in two ways, and four tensors for the twelve numbers that are being made.
    assert graph.most_held(ways=2, making=4) == 2 * (8 + 4) + 4 * 12


def test_outputs_of_the_model_and_tensors_that_are_read_twice_stay():
    x = keras.Input((4,))
    y = L.Dense(4)(x)
    graph = trace(keras.Model(x, [y, ops.multiply(y, y)]))
    outputs = graph.run([X], in_float, release=True)
    assert set(outputs) == set(graph.outputs)
    assert graph.most_held() == 8
