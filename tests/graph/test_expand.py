import keras
import numpy as np
from keras import ops

import keras_quant as kq
from keras_quant.graph import expand, trace
from tests.helpers import functional, images, ship

L = keras.layers


def paths(build):
    nodes = expand(trace(functional(build))).nodes
    assert all(len(keras.tree.flatten(node.outputs)) == 1 for node in nodes)
    return [node.path for node in nodes]


class Gate(L.Layer):
    def call(self, x):
        a, _, c = ops.split(x, 3, axis=-1)
        return ops.concatenate([a, c], axis=-1)


def test_each_piece_of_a_split_is_a_slice_with_the_split_in_its_path():
    found = paths(lambda x: Gate(name="gate")(x))
    split = found[0].removesuffix("/0")
    assert split.startswith("gate/split")
    assert found[:3] == [f"{split}/0", f"{split}/1", f"{split}/2"]


def test_unstack_becomes_slices():
    found = paths(lambda x: ops.add(*ops.unstack(x[:, :2], axis=1)))
    assert [path.rpartition("/")[2] for path in found[1:3]] == ["0", "1"]


def test_stack_becomes_a_concatenation_that_keeps_its_path():
    found = paths(lambda x: ops.stack([x, x], axis=1))
    assert found == [f"{found[-1]}/0", f"{found[-1]}/1", found[-1]]


def test_pieces_that_are_outputs_keep_order_and_function(tmp_path):
    x = keras.Input((12, 12, 6))
    model = keras.Model(x, ops.split(L.ReLU()(x), [1, 3], axis=-1))
    data = images()
    qmodel = kq.quantize(model, "int8", data)
    for ours, theirs in zip(qmodel.predict(data, verbose=0), model.predict(data, verbose=0)):
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() < 0.1 * np.abs(theirs).max()
    ship(qmodel, tmp_path, data)


def test_an_operation_that_splits_the_same_tensor_twice():
    nodes = expand(trace(functional(lambda x: L.Add()([*ops.split(x, 2, axis=1), *ops.split(x, 2, axis=1)])))).nodes
    assert len({node.path for node in nodes}) == len(nodes) == 5
