"""Operations that only move data: what is refused, how they train and save, and grids that cross in concatenations."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_quant as kq
from keras_quant import layers
from tests.helpers import SHAPE, few, functional, images, quantize_and_ship, sequential, ship

L = keras.layers

TOUCHES_THE_BATCH = {
    "transpose": lambda x: ops.transpose(x),
    "reshape": lambda x: ops.reshape(x, (12, -1, 72)),
    "expand_dims": lambda x: ops.expand_dims(x, 0),
    "slice": lambda x: x[1:, :],
    "index": lambda x: x[0],
    "new_axis": lambda x: x[None, :],
    "split": lambda x: ops.split(x, [2], axis=0)[1],
    "stack": lambda x: ops.stack([x, x], axis=0),
    "concatenate": lambda x: ops.concatenate([x, x], axis=0),
    "repeat": lambda x: ops.repeat(x, 2, axis=0),
    "tile": lambda x: ops.tile(x, (2, 1, 1, 1)),
    "pad": lambda x: ops.pad(x, 1),
    "take": lambda x: ops.take(x, [0], axis=0),
    "flip": lambda x: ops.flip(x),
    "roll": lambda x: ops.roll(x, 1, axis=0),
}


@pytest.mark.parametrize("name", TOUCHES_THE_BATCH)
def test_the_batch_stays_whole(name):
    with pytest.raises(kq.UnsupportedLayerError, match=r"(?s)(Operation|Layer) '[\w.]+'.* batch.*Received:"):
        kq.quantize(functional(TOUCHES_THE_BATCH[name]))


def test_padding_with_another_value_is_refused():
    with pytest.raises(kq.UnsupportedLayerError, match=r"Operation 'pad\w*' pads with a value .*constant_values=1"):
        kq.quantize(functional(lambda x: ops.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)), constant_values=1.0)))


def test_padding_modes_that_compute_are_refused():
    with pytest.raises(kq.UnsupportedLayerError, match=r"padding 'mean' has no quantized form.*Received: mode='mean'"):
        layers.QuantPad([(1, 1)], mode="mean")


def test_computed_indices_are_refused():
    x, indices = keras.Input(SHAPE), keras.Input((), dtype="int32")
    with pytest.raises(kq.UnsupportedLayerError, match="only constant indices"):
        kq.quantize(keras.Model([x, indices], ops.take(x, indices, axis=1)))


@pytest.mark.parametrize("samples, axis", [(2, -1), (1, 0)])
def test_joining_a_constant_of_several_samples_or_along_the_batch_is_refused(samples, axis):
    with pytest.raises(kq.UnsupportedLayerError, match=r"'concatenate\w*' .*(constant operand|along the batch)"):
        kq.quantize(functional(lambda x: ops.concatenate([x, np.zeros((samples, 12, 12, 6), "float32")], axis=axis)))


def test_taking_nothing_is_refused():
    with pytest.raises(kq.UnsupportedLayerError, match="takes nothing"):
        kq.quantize(functional(lambda x: x[:, 3:3]))


def test_indices_out_of_range_are_refused():
    with pytest.raises(kq.UnsupportedLayerError, match="Use indices from -6 to 5"):
        sequential(layers.QuantTake([6]))


def everything(x):
    y = L.Conv2D(8, 3, padding="same", activation="relu")(x)
    a, b = ops.split(y, 2, axis=-1)
    a = ops.pad(a[:, ::2, 1:-1], ((0, 0), (1, 1), (0, 0), (0, 0)), mode="reflect")
    b = ops.roll(ops.flip(b, 1), 2, axis=2)[:, :8, :10]
    c = ops.take(ops.concatenate([a, b], axis=-1), [0, 7, 1, 6, 2, 5], axis=1)
    d = ops.stack([c, ops.repeat(c[:, :3], 2, axis=1)], axis=1)
    return L.Dense(3)(ops.reshape(ops.transpose(ops.tile(d, (1, 1, 1, 1, 2)), (0, 2, 1, 3, 4)), (-1, 2 * 6 * 10 * 16)))


@pytest.mark.lowest
def test_trains_saves_loads_and_ships(tmp_path):
    x = images()
    qmodel = kq.quantize(functional(everything), "int8", x)
    qmodel.compile("adam", "mse")
    before = qmodel.evaluate(x, np.ones((len(x), 3)), verbose=0)
    qmodel.fit(x, np.ones((len(x), 3)), epochs=3, verbose=0)
    assert qmodel.evaluate(x, np.ones((len(x), 3)), verbose=0) < before
    qmodel.save(tmp_path / "q.keras")
    loaded = keras.models.load_model(tmp_path / "q.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), qmodel.predict(x, verbose=0))
    report, _ = ship(loaded, tmp_path, x)
    assert report.off_xnnpack == ()
    ship(loaded, tmp_path, x, batch_size=None)


@pytest.mark.parametrize("shape", [(1, 12, 6), (4, 12, 6)])
def test_a_fixed_batch_is_kept(shape, tmp_path):
    x = keras.Input(batch_shape=shape)
    y = ops.reshape(x[:, 1:, ..., :4], (shape[0], 11, 2, 2))
    qmodel = kq.quantize(keras.Model(x, ops.flip(y, 1)), "int8", images(shape[0], shape[1:]))
    assert qmodel.output_shape == (shape[0], 11, 2, 2)
    ship(qmodel, tmp_path, images(shape[0], shape[1:]), batch_size=shape[0])


def conv(x, filters=6):
    return L.Conv2D(filters, 1)(x)


def join(*tensors):
    return ops.concatenate(tensors, axis=-1)


def residual_around_concatenation(x):
    y = join(L.Add()([x, conv(x)]), conv(x))
    return L.Add()([y, conv(y, 12)])


def cross_stage(x):
    a, b = ops.split(L.Conv2D(6, 3, padding="same", activation="relu")(x), 2, axis=-1)
    return conv(join(b, L.Add()([a, conv(join(a, b), 3)]), a))


def in_two_concatenations(x):
    y = conv(x)
    return [join(y, conv(x)), ops.concatenate([x, y], axis=1)]


def halves_of_a_concatenation(x):
    y = join(conv(x), L.ReLU()(conv(x)))
    return L.Add()([y[..., :6], y[..., 6:]])


def with_itself(x):
    y = conv(x)
    return join(y, y, x, y)


def with_a_fixed_grid_twice(x):
    y = ops.tanh(x)
    return join(y[..., :3], conv(x), y[..., 3:], y, ops.sigmoid(y))


def channel_shuffle(x):
    y = ops.reshape(join(x, conv(x)), (-1, 12, 12, 2, 6))
    return ops.reshape(ops.swapaxes(y, 3, 4), (-1, 12, 12, 12))


def clamps_of_different_height(x):
    y = L.Conv2D(6, 3, padding="same", activation="relu6")(x)
    return join(y, conv(y), L.ReLU(3.0)(y), L.MaxPooling2D(3, 1, padding="same")(y))


CROSSING = {
    "concatenations_of_concatenations": lambda x: join(join(conv(x), x), join(conv(x, 3), conv(x, 2)), x),
    **{
        f.__name__: f
        for f in (
            residual_around_concatenation,
            cross_stage,
            in_two_concatenations,
            halves_of_a_concatenation,
            with_itself,
            with_a_fixed_grid_twice,
            channel_shuffle,
            clamps_of_different_height,
        )
    },
}


@pytest.mark.parametrize("name", few(CROSSING, "cross_stage", "channel_shuffle"))
def test_grids_that_cross_ship_before_and_after_training(name, tmp_path):
    x = images(16)
    model = functional(CROSSING[name])
    qmodel, report = quantize_and_ship(model, tmp_path, x)
    assert report.off_xnnpack == () and report.partitions == 1
    float_outputs, outputs = (keras.tree.flatten(m.predict(x, verbose=0)) for m in (model, qmodel))
    for theirs, ours in zip(float_outputs, outputs):
        assert np.abs(ours - theirs).max() < 0.2 * np.abs(theirs).max()
    qmodel.compile("sgd", "mse")
    qmodel.fit(x, [2 * y for y in outputs] if len(outputs) > 1 else 2 * outputs[0], epochs=2, verbose=0)
    ship(qmodel, tmp_path, x)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_random_graphs_of_joins_slices_and_sums_ship(seed, tmp_path):
    rng = np.random.default_rng(seed)

    def build(x):
        tensors = [x, conv(x), ops.sigmoid(x)]
        for _ in range(10):
            a, b = (tensors[i] for i in rng.integers(len(tensors), size=2))
            kind = rng.integers(5)
            if kind == 0:
                y = join(a, b, a)[..., int(rng.integers(6)) :][..., :6]
            elif kind == 1:
                y = L.Add()([a, b])
            elif kind == 2:
                y = ops.relu(conv(a))
            elif kind == 3:
                y = ops.concatenate([*ops.split(a, 2, axis=1)[::-1], b], axis=1)[:, ::2][:, :9]
                y = ops.pad(y, ((0, 0), (0, 3), (0, 0), (0, 0)), mode="edge")
            else:
                y = ops.flip(ops.roll(a, 5, axis=2), 1)
            tensors.append(y)
        return join(*tensors)

    _, report = quantize_and_ship(functional(build, SHAPE), tmp_path, images(8), near_float=False)
    assert all(op.is_float for op in report.off_xnnpack)  # at the end, where ranges lie far apart
