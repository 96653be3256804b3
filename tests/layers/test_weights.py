"""Weights are quantized per channel for every layer with a kernel, in training and in the file."""

import keras
import numpy as np
import pytest

import keras_quant as kq
from tests.helpers import images, sequential

L = keras.layers

# Layer, channel axis of the Keras kernel after moving to (..., channels), axis in the file.
WEIGHTED = {
    "convolution": (lambda: L.Conv2D(5, 3), lambda k: k, 0),
    "depthwise": (lambda: L.DepthwiseConv2D(3, depth_multiplier=2), lambda k: k.reshape(*k.shape[:2], -1), 3),
    "transposed": (lambda: L.Conv2DTranspose(5, 3), lambda k: k.transpose(0, 1, 3, 2), 0),
    "dense": (lambda: L.Dense(5), lambda k: k, 0),
}


def quantized(make, *after):
    layer = make()
    model = sequential(layer, *after)
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal(layer.kernel.shape)
    # Channels of very different size: one scale for all of them would round most of them away.
    gains = 10.0 ** rng.uniform(-2, 1, layer.kernel.shape[-2:])
    layer.kernel.assign(kernel * gains)
    return kq.quantize(model, "int8", images())


@pytest.mark.parametrize("kind", WEIGHTED)
def test_scales_are_per_channel_in_the_file(kind, tmp_path):
    make, channels_last, axis = WEIGHTED[kind]
    qmodel = quantized(make)
    report = kq.export(qmodel, tmp_path / "m.tflite")
    (kernel,) = [t for t in report.tensors if t.name.endswith("/kernel")]
    weights = channels_last(np.asarray(qmodel.layers[-1].kernel))
    largest = np.abs(weights.reshape(-1, weights.shape[-1])).max(axis=0)
    np.testing.assert_allclose(kernel.scale, largest / 127, rtol=1e-6)
    assert kernel.shape[axis] == len(kernel.scale)


@pytest.mark.parametrize("kind", WEIGHTED)
def test_training_uses_one_scale_a_channel(kind):
    make, channels_last, _ = WEIGHTED[kind]
    layer = quantized(make).layers[-1]
    seen = np.asarray(layer.kernel_quantizer.fake_quant(layer.kernel, layer.kernel_axes))
    weights, seen = (channels_last(np.asarray(k)) for k in (layer.kernel, seen))
    scale = np.abs(weights.reshape(-1, weights.shape[-1])).max(axis=0) / 127
    np.testing.assert_allclose(seen / scale, np.rint(seen / scale), atol=1e-3)
    assert np.all(np.abs(seen - weights) <= scale / 2 * 1.001)


def test_convolution_before_a_separate_relu_trains_on_quantized_weights():
    """The ReLU stands apart (two layers read the convolution), where tfmot drops the weights' fake quantization."""
    x = keras.Input((8, 8, 3))
    y = L.Conv2D(4, 3, use_bias=False, name="conv")(x)
    model = keras.Model(x, [L.ReLU(3.0)(y), L.Flatten()(y)])
    qmodel = kq.quantize(model, "int8", images(shape=(8, 8, 3)))
    conv = qmodel.get_layer("conv")
    assert conv.bounds == (None, None)
    coarse = conv.kernel_quantizer.bits = 2  # two bits, so that a float kernel could not pass for a quantized one
    qmodel.trainable = False
    values = images(4, (8, 8, 3))
    seen = conv.train_arithmetic(keras.ops.convert_to_tensor(values))
    kernel = conv.kernel_quantizer.fake_quant(conv.kernel, conv.kernel_axes)
    assert len(np.unique(np.sign(np.asarray(kernel)))) <= 2**coarse - 1
    np.testing.assert_allclose(seen, keras.ops.conv(values, kernel), rtol=1e-4, atol=1e-5)
    assert not np.allclose(seen, keras.ops.conv(values, conv.kernel), atol=1e-2)


def test_fused_batch_norm_leaves_the_integer_weights_of_training(tmp_path):
    conv, bn = L.Conv2D(6, 3, use_bias=False), L.BatchNormalization()
    model = sequential(conv, bn)
    bn.gamma.assign([1.0, -0.5, 2.0, 1e-3, -3.0, 0.7])
    bn.moving_variance.assign([0.1, 1.0, 9.0, 0.5, 2.0, 1.0])
    qmodel = kq.quantize(model, "int8", images())
    layer = qmodel.get_layer(conv.name)
    x, y = qmodel.layers[1].output_quantizer.params(), layer.output_quantizer.params()
    folded = np.asarray(layer.folded_weights(x, y).kernel)
    scale = np.asarray(layer.kernel_quantizer.scale(layer.kernel, layer.kernel_axes))
    trained = np.rint(np.asarray(layer.kernel) * (np.float32(1) / scale)) * np.sign(np.asarray(bn.gamma))
    np.testing.assert_array_equal(folded, trained)


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_integers_and_scales_are_the_same_to_the_last_bit_in_every_executor(mode):
    import tensorflow as tf

    qmodel = quantized(lambda: L.Conv2D(33, 3), L.BatchNormalization(), L.ReLU())
    entrance, layer = qmodel.layers[1:3]

    def everything():
        x, y = entrance.output_quantizer.params(), layer.output_quantizer.params()
        w = layer.folded_weights(x, y)
        return x.scale, x.zero_point, y.scale, y.zero_point, w.kernel, w.bias, w.scale, w.multiplier

    compiled = tf.function(everything, autograph=False, jit_compile=mode == "xla")
    for eager, other in zip(everything(), compiled()):
        np.testing.assert_array_equal(np.asarray(eager), np.asarray(other))
