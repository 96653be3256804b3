"""`keras.ops` with weights among their operands, as layers of one's own call them."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_quant as kq
from tests.helpers import functional, quantize_and_ship

L = keras.layers
SIZES = {
    "conv": (3, 3, 6, 4),
    "dilated": (3, 2, 6, 4),
    "depthwise": (3, 2, 6, 2),
    "transposed": (3, 3, 4, 6),
    "matrix": (6, 4),
}
CALLS = {
    "conv": lambda x, k: ops.conv(x, k, strides=2, padding="same"),
    "dilated": lambda x, k: ops.conv(x, k, dilation_rate=2),
    "depthwise": lambda x, k: ops.depthwise_conv(x, k),
    "transposed": lambda x, k: ops.conv_transpose(x, k, strides=2, padding="same"),
    "matrix": lambda x, k: ops.matmul(x, k),
}
CLASSES = {
    "conv": kq.layers.QuantConv2D,
    "dilated": kq.layers.QuantConv2D,
    "depthwise": kq.layers.QuantDepthwiseConv2D,
    "transposed": kq.layers.QuantConv2DTranspose,
    "matrix": kq.layers.QuantDense,
}


@keras.saving.register_keras_serializable(package="tests")
class Own(L.Layer):
    """A kernel, a bias and a ReLU by operations."""

    def __init__(self, kind, calls=1, **kwargs):
        super().__init__(**kwargs)
        self.kind, self.calls = kind, calls

    def build(self, input_shape):
        size = SIZES[self.kind]
        channels = {"depthwise": 12, "transposed": 4}.get(self.kind, size[-1])
        self.k = self.add_weight(shape=size, name="k")
        self.b = self.add_weight(shape=(channels,), initializer="random_normal", name="b")

    def call(self, x):
        return ops.relu(CALLS[self.kind](x, self.k) + self.b)


@pytest.mark.parametrize("kind", CALLS)
def test_a_kernel_its_bias_and_its_relu_are_one_operator(kind, tmp_path):
    qmodel, report = quantize_and_ship(functional(Own(kind)), tmp_path)
    (layer,) = [layer for layer in qmodel.layers if isinstance(layer, CLASSES[kind])]
    # All phases of a transposed convolution are put in order by operators that compute nothing.
    moves = ("RESHAPE", "TRANSPOSE", "PAD", "STRIDED_SLICE") if kind == "transposed" else ()
    assert len([op for op in report.operators if op.name not in moves]) == 1
    assert layer.use_bias and layer.trainable and layer.activation is keras.activations.relu


def test_sequences_become_the_layers_of_sequences(tmp_path):
    kernel, depth = np.random.default_rng(0).normal(size=(3, 8, 4)), np.random.default_rng(1).normal(size=(3, 4, 1))
    build = lambda x: ops.depthwise_conv(ops.conv(x, kernel.astype("float32"), padding="same"), depth.astype("float32"))
    qmodel, _ = quantize_and_ship(functional(build, (16, 8)), tmp_path)
    assert [type(layer) for layer in qmodel.layers[2:4]] == [kq.layers.QuantConv1D, kq.layers.QuantDepthwiseConv1D]
    assert not any(layer.trainable_weights for layer in qmodel.layers)


class Shared(L.Layer):
    def build(self, shape):
        self.k = self.add_weight(shape=(1, 1, 6, 6), name="k")

    def call(self, x):
        return ops.conv(ops.conv(x, self.k), self.k) + 1.0


def test_calls_on_the_same_variable_share_it(tmp_path):
    qmodel, _ = quantize_and_ship(functional(Shared()), tmp_path)
    assert len([v for v in qmodel.trainable_variables if v.name == "kernel"]) == 1


NORMALIZATIONS = {
    "batch": (
        lambda x: ops.batch_normalization(x, np.zeros(6, "f"), np.ones(6, "f"), -1),
        kq.layers.QuantBatchNormalization,
    ),
    "unit": (lambda x: ops.normalize(x), kq.layers.QuantUnitNormalization),
}
if hasattr(ops, "layer_normalization"):
    NORMALIZATIONS["layer"] = (lambda x: ops.layer_normalization(x, axis=-1), kq.layers.QuantLayerNormalization)
if hasattr(ops, "rms_normalization"):
    NORMALIZATIONS["rms"] = (lambda x: ops.rms_normalization(x, axis=-1), kq.layers.QuantRMSNormalization)


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_normalizations(name, tmp_path):
    build, cls = NORMALIZATIONS[name]
    qmodel, _ = quantize_and_ship(functional(build), tmp_path)
    assert any(isinstance(layer, cls) for layer in qmodel.layers)


PRODUCTS = {
    "dot": lambda x, k: ops.dot(x, k),
    "tensordot": lambda x, k: ops.tensordot(x, k, axes=1),
    "einsum": lambda x, k: ops.einsum("bhwc,cd->bhwd", x, k),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_with_a_constant_matrix(name, tmp_path):
    kernel = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    _, report = quantize_and_ship(functional(lambda x: PRODUCTS[name](x, kernel)), tmp_path)
    assert "FULLY_CONNECTED" in [op.name for op in report.operators]


@pytest.mark.parametrize("bias", [np.ones((12, 12, 12), "f"), np.ones((12, 1, 1), "f"), np.ones(12, "f")])
def test_a_sum_that_varies_over_the_image_or_does_not_train_is_no_bias(bias, tmp_path):
    qmodel, _ = quantize_and_ship(functional(lambda x: L.Conv2D(12, 1, use_bias=False, name="a")(x) + bias), tmp_path)
    assert not qmodel.get_layer("a").use_bias
