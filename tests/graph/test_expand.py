import keras
import numpy as np
import pytest
from keras import ops

import keras_quant as kq
from keras_quant.graph import trace
from keras_quant.graph.expand import expand
from tests.custom_layers import ClassToken
from tests.helpers import functional, images, quantize_and_ship, sequential, ship

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


def with_class_token(how):
    return lambda x: ClassToken(how)(L.Reshape((144, 6))(x))


class Framed(L.Layer):
    def call(self, x):
        row = ops.broadcast_to(np.ones((1, 12, 6), "float32"), (ops.shape(x)[0], 1, 12, 6))
        return ops.concatenate([row, x, 2 * row, ops.relu(x), -row, row / 2], axis=1)


EXPANDED = {
    "var": lambda x: ops.var(x, axis=-1),
    "var_of_images": lambda x: ops.var(x, axis=[1, 2], keepdims=True),
    "std": lambda x: ops.std(x, axis=-1, keepdims=True),
    "clip_above_zero": lambda x: ops.clip(x, 0.25, 2.0),
    "clip_below_zero": lambda x: ops.clip(x, -2.0, -0.25),
    "clip_by_channel": lambda x: ops.clip(x, np.linspace(-1, 0, 6), np.linspace(0.5, 2, 6)),
    "distance": lambda x: ops.sqrt(ops.maximum(ops.sum(ops.square(x - ops.flip(x, 1)), axis=-1), 1e-7)),
    "norm": lambda x: x / ops.norm(x, axis=-1, keepdims=True),
    "norm_of_images": lambda x: ops.norm(x, "fro", axis=(1, 2)),
    "glu": lambda x: keras.activations.glu(x),
    "glu_of_rows": lambda x: keras.activations.glu(x, axis=1),
    "crop_images": lambda x: ops.image.crop_images(x, 1, 2, target_height=8, target_width=7),
    "crop_images_from_the_end": lambda x: ops.image.crop_images(
        x, bottom_cropping=3, right_cropping=0, target_height=8, target_width=7
    ),
    "rows_of_constants": lambda x: Framed()(x),
    **{f"class_token_{how}": with_class_token(how) for how in ("tile", "repeat", "broadcast")},
    "patches": lambda x: ops.image.extract_patches(x, 4),
    "patches_that_leave_a_rest": lambda x: ops.image.extract_patches(x, (5, 2)),
    "patches_of_a_padded_image": lambda x: ops.image.extract_patches(x, 5, padding="same"),
    "patches_that_overlap": lambda x: ops.image.extract_patches(x, 3, strides=(2, 1), padding="same"),
    "patches_with_gaps": lambda x: ops.image.extract_patches(x, 2, strides=1, dilation_rate=2),
    "pad_images": lambda x: ops.image.pad_images(x, 1, 2, target_height=16, target_width=15),
}
for _name in ("AdaptiveAveragePooling2D", "AdaptiveMaxPooling2D"):
    if hasattr(L, _name):
        EXPANDED[_name] = getattr(L, _name)((4, 6))


@pytest.mark.parametrize("name", EXPANDED)
def test_operations_of_operations_ship_on_xnnpack(name, tmp_path):
    _, report = quantize_and_ship(functional(EXPANDED[name]), tmp_path)
    assert report.partitions == 1 and report.off_xnnpack == ()


SOFTMAXES = {
    "of_rows": lambda x: ops.softmax(x, axis=1),
    "of_places": L.Softmax(axis=(1, 2)),
    "of_columns_and_channels": L.Softmax(axis=[2, 3]),
    "in_attention_over_places": L.MultiHeadAttention(2, 3),
}


@pytest.mark.parametrize("name", SOFTMAXES)
def test_softmax_over_any_axes_ships(name, tmp_path):
    build = SOFTMAXES[name]
    model = functional((lambda x: build(x, x)) if "attention" in name else build, (6, 5, 4))
    _, report = quantize_and_ship(model, tmp_path)
    off_xnnpack = {operator.name for operator in report.off_xnnpack}
    assert off_xnnpack == (set() if "attention" in name else {"SOFTMAX", "QUANTIZE"})


def test_a_softmax_over_the_batch_is_refused():
    with pytest.raises(kq.UnsupportedLayerError, match="SOFTMAX runs over the last axis"):
        kq.quantize(functional(lambda x: ops.softmax(x, axis=0)))


@pytest.mark.skipif(not hasattr(L, "AdaptiveAveragePooling2D"), reason="this Keras has no adaptive pooling")
def test_adaptive_pooling_with_windows_of_several_sizes_ships(tmp_path):
    layers = L.AdaptiveAveragePooling2D((5, 7)), L.AdaptiveMaxPooling2D((3, 4), data_format="channels_last")
    _, report = quantize_and_ship(sequential(*layers), tmp_path)
    assert report.off_xnnpack == ()
