"""Layers of volumes: they train, save, load, take every policy, and keep the batch open."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import keras_quant as kq
from keras_quant.graph import trace
from keras_quant.graph.expand import expand
from keras_quant.graph.macs import macs
from tests.helpers import functional, images, sequential, shake, ship

L = keras.layers
SHAPE = (6, 8, 8, 4)


def network(pooling="same"):
    return sequential(
        L.Conv3D(6, 3, padding="same", use_bias=False, name="conv"),
        L.BatchNormalization(),
        L.ReLU(),
        L.MaxPooling3D(2),
        L.BatchNormalization(name="norm"),
        L.Conv3DTranspose(4, 3, strides=2, padding="same", activation="relu", name="up"),
        L.AveragePooling3D((2, 3, 2), 2, padding=pooling),
        L.ZeroPadding3D(1),
        L.Conv3D(6, (3, 3, 1), groups=2, activation="relu", name="grouped"),
        L.UpSampling3D((1, 2, 2)),
        L.Cropping3D((0, 1, 1)),
        L.GlobalAveragePooling3D(),
        L.Dense(3),
        shape=SHAPE,
    )


@pytest.mark.slow
def test_volumes_train_save_load_and_ship(tmp_path):
    x, y = images(shape=SHAPE), np.arange(32) % 3
    qmodel = kq.quantize(shake(network()), "int8", x)
    assert qmodel.get_layer("conv").batch_norm is not None
    qmodel.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    learned = [*qmodel.trainable_variables, *(v for v in qmodel.variables if "moving_mean" in v.path)]
    before = [np.array(v) for v in learned]
    qmodel.fit(x, y, epochs=1, verbose=0)
    assert all(np.any(v != old) for v, old in zip(learned, before))
    qmodel.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), qmodel.predict(x, verbose=0))
    ship(again, tmp_path, x)


@pytest.mark.slow
def test_without_quantization_gradients_are_those_of_float():
    x = images(8, SHAPE)
    model = shake(network("valid"))
    qmodel = kq.quantize(model, "int8", x)
    for layer in qmodel._flatten_layers():
        for name in ("kernel_quantizer", "output_quantizer"):
            if getattr(layer, name, None) is not None:
                getattr(layer, name).fake_quant_enabled = False
    found = []
    for each in (model, qmodel):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(each(x, training=True)))
        names = ["/".join(v.path.split("/")[-2:]) for v in each.trainable_variables]
        found.append(dict(zip(names, map(np.asarray, tape.gradient(loss, each.trainable_variables)))))
    float_ones, own = found
    kernels = [name for name in float_ones if name.endswith("kernel")]
    assert len(kernels) == 4
    for name in kernels:
        largest = np.abs(float_ones[name]).max()
        np.testing.assert_allclose(own[name], float_ones[name], rtol=1e-3, atol=1e-3 * largest, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["int4", "w2a8", "w4a4", "int16"])
def test_integers_of_every_width_are_exact(policy, tmp_path):
    x = images(12, SHAPE)
    # On int16 there are no transposed convolutions, no average pooling of volumes, and no normalization by itself.
    missing = (L.Conv3DTranspose, L.AveragePooling3D, L.BatchNormalization) if policy == "int16" else ()
    layers = [layer for layer in network().layers if not isinstance(layer, missing)]
    model = shake(sequential(*(type(layer).from_config(layer.get_config()) for layer in layers), shape=SHAPE))
    report, _ = ship(kq.quantize(model, policy, x), tmp_path, x)
    assert report.float_operators == () and report.partitions == (policy != "int16")


def test_weights_of_four_bits_take_half_the_bytes(tmp_path):
    x = images(4, (4, 6, 6, 16))
    sizes = []
    for policy in ("int8", "int4"):
        model = sequential(L.Conv3D(64, 3, padding="same"), shape=(4, 6, 6, 16))
        report, _ = ship(kq.quantize(model, policy, x), tmp_path, x)
        assert report.off_xnnpack == ()
        sizes.append((tmp_path / "model.tflite").stat().st_size)
    assert sizes[1] < 0.75 * sizes[0]


@pytest.mark.parametrize("policy", ["float32", "float16"])
@pytest.mark.slow
def test_volumes_in_float(policy, tmp_path):
    x = images(12, SHAPE)
    qmodel = kq.quantize(shake(network()), policy, x)
    report = kq.export(qmodel, tmp_path / "m.tflite")
    assert report.off_xnnpack == () and "CONV_3D" not in [operator.name for operator in report.operators]
    assert kq.verify(qmodel, tmp_path / "m.tflite", x, intermediates=True, verbose=0).equal


@pytest.mark.slow
def test_batch_stays_open(tmp_path):
    x = images(7, SHAPE)
    qmodel = kq.quantize(shake(network()), "int8", x)
    for batch_size in (None, 7):
        report, _ = ship(qmodel, tmp_path, x, batch_size=batch_size)
        assert report.off_xnnpack == ()


@pytest.mark.slow
@pytest.mark.parametrize(
    "layer",
    [
        L.Conv2DTranspose(8, 3, strides=(2, 3), padding="same", activation="relu"),
        L.Conv2DTranspose(8, 4, dilation_rate=(2, 1)),
        L.Conv2DTranspose(8, 2, strides=3),
        L.Conv2DTranspose(8, 5, strides=(1, 2)),
    ],
)
def test_transposed_convolutions_of_images_leave_the_batch_open(layer, tmp_path):
    x = images(5)
    ship(
        kq.quantize(shake(sequential(type(layer).from_config(layer.get_config()))), "int8", x), tmp_path, x, batch_size=None
    )


def test_operations_with_weights_become_layers():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 4, 6)).astype("float32")
    up = keras.Variable(np.ones((2, 2, 2, 5, 6), "float32"))
    build = lambda x: ops.conv_transpose(ops.conv(x, kernel, 2, padding="same"), up, (2, 2, 2))
    qmodel = kq.quantize(functional(build, SHAPE))
    assert [type(layer) for layer in qmodel.layers[2:]] == [kq.layers.QuantConv3D, kq.layers.QuantConv3DTranspose]
    assert [layer.trainable for layer in qmodel.layers[2:]] == [False, True]


@pytest.mark.skipif(not hasattr(L, "AdaptiveMaxPooling3D"), reason="this Keras has no adaptive pooling")
def test_adaptive_pooling_has_windows_of_one_size():
    model = sequential(L.AdaptiveAveragePooling3D((3, 4, 4)), L.AdaptiveMaxPooling3D((3, 2, 1)), shape=SHAPE)
    nodes = expand(trace(model)).nodes
    assert [type(node.operation) for node in nodes] == [L.AveragePooling3D, L.MaxPooling3D]
    assert [node.operation.pool_size for node in nodes] == [(2, 2, 2), (1, 2, 4)]


def test_multiply_accumulates():
    counts = {node.path: macs(node) for node in trace(kq.quantize(network())).nodes}
    assert counts["conv"] == 27 * 4 * 6 * 6 * 8 * 8
    assert counts["up"] == 27 * 6 * 4 * 3 * 4 * 4
    assert counts["grouped"] == 9 * 2 * 6 * 3 * 4 * 6


@pytest.mark.parametrize("layer", [L.Conv3D, L.MaxPooling3D, L.ZeroPadding3D, L.UpSampling3D])
def test_channels_first_is_refused(layer):
    arguments = (4, 3) if layer is L.Conv3D else ()
    model = sequential(layer(*arguments, data_format="channels_first", name="odd"), shape=(4, 6, 8, 8))
    with pytest.raises(kq.UnsupportedLayerError, match="'odd' has `data_format='channels_first'`"):
        kq.quantize(model, "int8")
