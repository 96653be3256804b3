"""Windows and frames in the batch, and a batch that is moved away from the front."""

import keras
import numpy as np
import pytest

import keras_quant as kq
from keras_quant.graph import trace
from keras_quant.graph.repeated import is_repeated, repeating_views
from tests.helpers import assert_near_float, few, functional, images, quantize_and_ship, shake, ship

L, ops = keras.layers, keras.ops


class Windows(L.Layer):
    """Attention in windows, as Swin has it: the batch holds them, with a mask for each window."""

    def __init__(self, side=2, heads=2, batch="open", **kwargs):
        super().__init__(**kwargs)
        self.side, self.heads, self.batch = side, heads, batch
        self.qkv, self.last = L.Dense(24), L.Dense(8)

    def call(self, x):
        batch, height, width, channels = ops.shape(x)
        side, open_batch = self.side, self.batch == "open"
        x = ops.reshape(x, (-1 if open_batch else batch, height // side, side, width // side, side, channels))
        windows = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, side * side, channels))
        x = self.attend(windows, height * width // side**2)
        batch = -1 if open_batch else ops.shape(x)[0] // (height * width // side**2)
        x = ops.reshape(x, (batch, height // side, width // side, side, side, channels))
        return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (batch, height, width, channels))

    def attend(self, x, count):
        rows, size, channels = ops.shape(x)
        qkv = ops.reshape(self.qkv(x), (rows, size, 3, self.heads, channels // self.heads))
        q, k, v = ops.unstack(ops.transpose(qkv, (2, 0, 3, 1, 4)), axis=0)
        scores = ops.matmul(q * (channels // self.heads) ** -0.5, ops.transpose(k, (0, 1, 3, 2)))
        mask = np.random.default_rng(0).normal(size=(1, count, 1, size, size)).astype("float32")
        scores = ops.reshape(scores, (rows // count, count, self.heads, size, size)) + mask
        weights = ops.softmax(ops.reshape(scores, (-1, self.heads, size, size)))
        return self.last(ops.reshape(ops.transpose(weights @ v, (0, 2, 1, 3)), (rows, size, channels)))


class HeadsInBatch(L.Layer):
    """Attention as Segment Anything has it: the heads join a batch that is not in front."""

    def __init__(self, heads=2, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.qkv = heads, L.Dense(24)

    def call(self, x):
        batch, size, channels = ops.shape(x)
        depth = channels // self.heads
        qkv = ops.transpose(ops.reshape(self.qkv(x), (batch, size, 3, self.heads, depth)), (2, 0, 3, 1, 4))
        q, k, v = ops.unstack(ops.reshape(qkv, (3, batch * self.heads, size, depth)), axis=0)
        x = ops.softmax(q @ ops.transpose(k, (0, 2, 1))) @ v
        x = ops.transpose(ops.reshape(x, (batch, self.heads, size, depth)), (0, 2, 1, 3))
        return ops.reshape(x, (batch, size, channels))


class Frames(keras.Model):
    """A network of images over the frames of a clip."""

    def __init__(self):
        super().__init__()
        self.cnn = keras.Sequential([L.Conv2D(4, 3, 2, activation="relu"), L.BatchNormalization(), L.Flatten()])
        self.last = L.Dense(4)

    def call(self, x):
        batch, time = ops.shape(x)[:2]
        y = self.cnn(ops.reshape(x, (batch * time, *x.shape[2:])))
        steps = ops.reshape(y, (ops.shape(y)[0] // time, time, -1))
        return self.last(ops.mean(steps, axis=1)), steps


def frames():
    model = Frames()
    model(np.zeros((2, 3, 8, 8, 3), "float32"))
    return model


def time_major(x):
    x = ops.transpose(x, (1, 0, 2))
    x = L.LayerNormalization()(ops.relu(L.Dense(6)(x)) * 2.0)
    return ops.transpose(x[1:, :], (1, 0, 2))


class NodesFirst(L.Layer):
    """What graph networks compute with the nodes in front, and rows `(nodes · batch)` in between."""

    def __init__(self, mixes=False, **kwargs):
        super().__init__(**kwargs)
        self.dense, self.mixes = L.Dense(6, activation="relu"), mixes

    def call(self, x):
        x = ops.transpose(x, (1, 0, 2))
        matrix = np.random.default_rng(0).normal(size=(4, 4)).astype("float32")
        by_place = np.linspace(0.5, 2, 4, dtype="float32")[:, None, None]
        x = ops.concatenate([x * by_place, ops.einsum("mn,nbf->mbf", ops.convert_to_tensor(matrix), x)], axis=-1)
        x = x + ops.segment_sum(ops.take(x, [3, 0, 1, 2, 0], axis=0), np.int32([0, 1, 2, 3, 3]), 4)
        nodes, batch, features = ops.shape(x)
        rows = self.dense(ops.reshape(x, (nodes * batch, features)))
        if self.mixes:
            return ops.reshape(rows, (batch, nodes, 6))
        x = ops.reshape(rows, (nodes, batch, 6))
        return ops.transpose(ops.sum(ops.stack([x, x * 0.5], axis=1), axis=1), (1, 0, 2))


def over_time(layer, shape):
    return functional(lambda x: L.TimeDistributed(layer)(x), shape)


def tower():
    return keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(4, 3, 2), L.BatchNormalization(), L.Flatten()])


MERGED = {
    "windows": lambda: functional(Windows(), (4, 4, 8)),
    "windows_by_shape": lambda: functional(Windows(batch="shape"), (4, 4, 8)),
    "heads": lambda: functional(HeadsInBatch(), (4, 8)),
    "frames": frames,
    "functional": lambda: functional(lambda x: ops.reshape(L.Dense(4)(ops.reshape(x, (-1, 6))), (-1, 3, 4)), (3, 6)),
    "rows_as_output": lambda: functional(lambda x: L.Dense(4)(ops.reshape(x, (-1, 6))), (3, 6)),
    "time_major": lambda: functional(time_major, (4, 6)),
    "nodes_first": lambda: functional(NodesFirst(), (4, 6)),
    "batch_second": lambda: functional(lambda x: ops.transpose(ops.expand_dims(x, 0) * 2.0, (1, 0, 3, 2)), (4, 6)),
    "time_distributed_network": lambda: over_time(tower(), (3, 8, 8, 3)),
    "time_distributed_twice": lambda: over_time(L.TimeDistributed(L.Dense(4)), (3, 2, 6)),
    "time_distributed_flatten": lambda: over_time(L.Flatten(), (3, 2, 6)),
    "time_distributed_normalization": lambda: over_time(L.LayerNormalization(), (3, 6)),
}


@pytest.mark.parametrize("name", few(MERGED, "frames", "functional"))
def test_rows_of_the_batch_train_save_and_ship(name, tmp_path):
    model = shake(MERGED[name]())
    shape = trace(model).inputs[0].shape[1:]
    qmodel = kq.quantize(model, "int8", images(8, shape))
    qmodel.compile("sgd", ["mse"] * len(qmodel.outputs))
    x = images(5, shape)
    wanted = [np.asarray(y) for y in keras.tree.flatten(model(x))]
    qmodel.train_on_batch(x, wanted if len(wanted) > 1 else wanted[0])
    qmodel.save(tmp_path / "q.keras")
    qmodel = keras.models.load_model(tmp_path / "q.keras", compile=False)
    for batch_size in (1, 3, None):
        ship(qmodel, tmp_path, x, batch_size=batch_size)


@pytest.mark.parametrize("name", few(MERGED, "frames"))
def test_rows_of_the_batch_export_as_onnx(name, tmp_path):
    pytest.importorskip("onnx")
    model = shake(MERGED[name]())
    shape = trace(model).inputs[0].shape[1:]
    qmodel = kq.quantize(model, "int8", x := images(8, shape))
    kq.export(qmodel, tmp_path / "m.onnx")
    report = kq.verify(qmodel, tmp_path / "m.onnx", x)
    assert report.elements and report.largest <= 3


def test_each_tensor_knows_its_rows_for_a_sample():
    graph = trace(frames())
    rows = {node.path.rpartition("/")[2].split("_")[0]: node.output.rows for node in graph.nodes}
    assert rows["conv2d"] == rows["flatten"] == 3 and rows["mean"] == rows["dense"] == 1
    assert {value.shape[0] for node in graph.nodes for value in [node.output]} == {None}


class Scaled(L.Layer):
    def __init__(self, factor, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x):
        return x * ops.cast(self.factor(ops.shape(x)[0]), "float32")


class Numbered(L.Layer):
    def call(self, x):
        return x + ops.cast(ops.arange(ops.shape(x)[0]), "float32")[:, None]


FACTORS = [lambda n: n, lambda n: 1 / n, lambda n: ops.cast(n, "float32") * 0.3]


@pytest.mark.parametrize("factor", FACTORS, ids=["itself", "mean", "half"])
def test_the_number_of_samples_in_the_arithmetic_is_refused(factor):
    with pytest.raises(kq.UnsupportedLayerError, match=r"'scaled\w*.* computes with the number of samples in a batch"):
        kq.quantize(functional(Scaled(factor), (6,)))


def test_a_constant_that_differs_between_samples_is_refused():
    with pytest.raises(
        kq.UnsupportedLayerError, match=r"'numbered\w*/add\w*' .*differs from sample to sample.*Make it an input"
    ):
        kq.quantize(functional(Numbered(), (6,)))


def test_a_batch_that_stays_behind_is_refused():
    with pytest.raises(
        kq.UnsupportedLayerError, match=r"'transpose\w*' moves, cuts or merges .*'conv1d\w*' \(Conv1D\) cannot"
    ):
        kq.quantize(functional(lambda x: L.Conv1D(3, 2)(ops.transpose(x, (1, 0, 2))), (5, 6)))
    with pytest.raises(kq.UnsupportedLayerError, match=r"moves, cuts or merges the batch.*order of axes \(1, 0, 2\)"):
        kq.quantize(functional(lambda x: ops.transpose(x, (1, 0, 2)), (5, 6)))


class RepeatedPositions(L.Layer):
    """Relative positions repeated for each sample before they are computed with, in the spellings that people have."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.made = []

    def call(self, x):
        batch, length, channels = ops.shape(x)
        distances = ops.expand_dims(ops.arange(length), 1) - ops.arange(length)
        table = np.sin(np.arange(2 * length * channels)).reshape(2 * length, channels).astype("float32")
        ids = ops.broadcast_to(distances + length, (batch, length, length))
        rows = ops.take(table, ids, axis=0)
        near = ops.where(ops.abs(ids - length) < 3, 1.0, 0.0)
        scale = ops.cast(ops.tile(distances[None], (batch, 1, 1)), "float32") / np.sqrt(8) + ops.ones((batch, 1, 1))
        turned = ops.transpose(ops.repeat(ops.full((batch, 1, 1), 2.0), length, axis=1), (0, 2, 1)) * scale
        weights = ops.softmax(ops.matmul(near * turned, ops.sum(rows, axis=2)))
        self.made = [ids, rows, near, scale, turned, weights, ops.cast(table, "float32")[:length] * ops.ones((batch, 1, 1))]
        return x + weights * self.made[-1]


def test_what_is_repeated_for_each_sample_is_computed_of_one(tmp_path):
    layer = RepeatedPositions()
    model = functional(lambda x: L.Dense(4)(layer(L.Dense(8)(x))), (6, 5))
    x = images(8, (6, 5))
    qmodel = kq.quantize(shake(model), "int8", x)
    assert [is_repeated(y) for y in layer.made] == 7 * [True]
    ship(qmodel, tmp_path, x)
    assert_near_float(model, qmodel, x)


def test_what_depends_on_the_other_samples_is_computed_of_all():
    with repeating_views():
        ones, table = ops.ones((10007, 1)), ops.full((10007, 1), 5)
        assert is_repeated(ones) and is_repeated(ones * 2)
        made = [ops.cumsum(ones, axis=0), ops.softmax(ones, axis=0), ops.less(table, 10007), ops.maximum(table, 10007)]
        assert ops.sum(ones) == 10007 and np.sum(ones) == 10007
    assert [float(y[-1, 0]) for y in made] == [10007, pytest.approx(1 / 10007), True, 10007]


def segments(function, ids, count):
    return functional(
        lambda x: ops.transpose(function(ops.transpose(L.Dense(6)(x), (1, 0, 2)), np.int32(ids), count), (1, 0, 2)), (4, 6)
    )


@pytest.mark.parametrize("name", few(["segment_max", "segment_min"], "segment_max"))
def test_extremes_of_constant_segments_ship(name, tmp_path):
    if not hasattr(ops, name):
        pytest.skip("new in Keras")
    quantize_and_ship(segments(getattr(ops, name), [2, 0, 0, 1], 3), tmp_path)


def test_segments_of_no_rows_are_refused_by_name():
    with pytest.raises(kq.UnsupportedLayerError, match=r"moves, cuts or merges .*'segment_max\w*' \(SegmentMax\) .*cannot"):
        kq.quantize(segments(ops.segment_max, [2, 0, 0, 0], 3))


def test_rows_that_mix_samples_are_refused():
    with pytest.raises(kq.UnsupportedLayerError, match="moves, cuts or merges the batch"):
        kq.quantize(functional(NodesFirst(mixes=True), (4, 6)))
