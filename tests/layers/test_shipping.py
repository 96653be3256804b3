"""Each layer, over its arguments: what Keras predicts is what LiteRT computes, and it runs where it should."""

import keras
import pytest

from tests.helpers import functional, quantize_and_ship, sequential

L = keras.layers


def squeeze_and_excite(x):
    gate = L.Dense(6, activation="sigmoid")(L.GlobalAveragePooling2D(keepdims=True)(x))
    return L.Multiply()([x, gate])


ON_XNNPACK = {
    "conv_same_strided": lambda: sequential(L.Conv2D(8, 3, strides=2, padding="same")),
    "conv_valid_uneven": lambda: sequential(L.Conv2D(8, (3, 2), strides=(2, 1), activation="relu")),
    "conv_dilated": lambda: sequential(L.Conv2D(8, 3, dilation_rate=2, padding="same", activation="relu6")),
    "conv_grouped": lambda: sequential(L.Conv2D(12, 3, groups=3)),
    "conv_without_bias": lambda: sequential(L.Conv2D(8, 1, use_bias=False)),
    "depthwise": lambda: sequential(L.DepthwiseConv2D(3, padding="same", activation="relu")),
    "depthwise_multiplied": lambda: sequential(L.DepthwiseConv2D(3, strides=2, depth_multiplier=3)),
    "depthwise_dilated": lambda: sequential(L.DepthwiseConv2D(3, dilation_rate=2)),
    "separable": lambda: sequential(L.SeparableConv2D(8, 3, depth_multiplier=2, activation="relu")),
    "separable_normalized": lambda: sequential(L.SeparableConv2D(8, 3), L.BatchNormalization(), L.ReLU()),
    "transpose_same": lambda: sequential(L.Conv2DTranspose(8, 3, strides=2, padding="same", activation="relu")),
    "transpose_valid": lambda: sequential(L.Conv2DTranspose(8, 4, strides=2)),
    "transpose_small_kernel": lambda: sequential(L.Conv2DTranspose(8, 2, strides=3)),
    "transpose_pointwise": lambda: sequential(L.Conv2DTranspose(8, 1, strides=2, padding="same")),
    "transpose_normalized": lambda: sequential(L.Conv2DTranspose(8, 3), L.BatchNormalization(), L.ReLU()),
    "dense": lambda: sequential(L.Flatten(), L.Dense(7, activation="relu"), L.Dense(3)),
    "dense_on_images": lambda: sequential(L.Dense(7), L.BatchNormalization(), L.Activation("relu6")),
    "dense_on_sequences": lambda: sequential(L.Reshape((16, 54)), L.Dense(7, activation="tanh")),
    "bn_after_conv": lambda: sequential(L.Conv2D(8, 3), L.BatchNormalization(), L.ReLU(6.0)),
    "bn_before_conv": lambda: sequential(L.BatchNormalization(), L.Conv2D(8, 3, padding="same")),
    "bn_after_dense": lambda: sequential(L.Flatten(), L.Dense(7), L.BatchNormalization()),
    "bn_after_activation": lambda: sequential(L.Conv2D(8, 3, activation="relu"), L.BatchNormalization()),
    "bn_alone_on_vectors": lambda: sequential(L.Flatten(), L.ReLU(), L.BatchNormalization(), L.ReLU(), L.Dense(3)),
    "bn_without_gain": lambda: sequential(L.Conv2D(8, 3), L.BatchNormalization(scale=False, center=False)),
    "relu_alone": lambda: sequential(L.ReLU()),
    "relu_bounded": lambda: sequential(L.Conv2D(8, 3), L.ReLU(3.0), L.Conv2D(4, 1)),
    "relu_sloped": lambda: sequential(L.ReLU(1.5, negative_slope=0.2)),
    "leaky_relu": lambda: sequential(L.Conv2D(8, 3), L.LeakyReLU(0.3), L.Activation("leaky_relu")),
    "activations": lambda: sequential(L.Conv2D(8, 3, activation="silu"), L.Activation("tanh"), L.Activation("sigmoid")),
    "add": lambda: functional(lambda x: L.ReLU()(L.Add()([x, L.Conv2D(6, 1)(x)]))),
    "add_three": lambda: functional(lambda x: L.Add()([x, L.Conv2D(6, 1)(x), L.ReLU()(x)])),
    "add_broadcast": lambda: functional(lambda x: L.Add()([x, L.GlobalAveragePooling2D(keepdims=True)(x)])),
    "subtract": lambda: functional(lambda x: L.Subtract()([x, L.Conv2D(6, 1)(x)])),
    "multiply": lambda: functional(lambda x: L.Multiply()([x, L.Conv2D(6, 1, activation="relu")(x)])),
    "squeeze_and_excite": lambda: functional(squeeze_and_excite),
    "concatenate": lambda: functional(lambda x: L.Concatenate()([L.Conv2D(4, 1)(x), L.Conv2D(2, 1)(x), x])),
    "concatenate_rows": lambda: functional(lambda x: L.Concatenate(axis=1)([L.Conv2D(6, 1)(x), x])),
    "concatenate_seven": lambda: functional(lambda x: L.Concatenate()([L.Conv2D(i + 1, 1)(x) for i in range(7)])),
    "concatenate_fixed_grids": lambda: functional(
        lambda x: L.Concatenate()([x, L.Activation("sigmoid")(x), L.ReLU(2.0)(x), L.Conv2D(3, 1, activation="relu")(x)])
    ),
    "max_pooling": lambda: sequential(L.MaxPooling2D(3, 2, padding="same"), L.MaxPooling2D(2)),
    "average_pooling": lambda: sequential(L.AveragePooling2D(2), L.Conv2D(4, 1), L.AveragePooling2D(3, 2)),
    "average_pooling_of_all": lambda: sequential(L.AveragePooling2D(12), L.Flatten(), L.Dense(3)),
    "global_average_pooling": lambda: sequential(L.Conv2D(4, 3, activation="relu"), L.GlobalAveragePooling2D()),
    "global_max_pooling": lambda: sequential(L.GlobalMaxPooling2D(keepdims=True), L.Flatten(), L.Dense(3)),
    "padding_and_cropping": lambda: sequential(
        L.ZeroPadding2D(((1, 2), (3, 0))), L.Conv2D(4, 3), L.Cropping2D(((0, 1), (2, 1)))
    ),
    "upsampling_nearest": lambda: sequential(L.UpSampling2D(2), L.Conv2D(3, 1), L.UpSampling2D((3, 1))),
    "upsampling_nearest_large": lambda: sequential(L.UpSampling2D((7, 2))),
    "upsampling_bilinear": lambda: sequential(L.Conv2D(3, 1), L.UpSampling2D((2, 3), interpolation="bilinear")),
    "movement": lambda: sequential(L.Permute((2, 3, 1)), L.Reshape((6, 144)), L.Flatten(), L.Dense(3)),
    "dropout_and_kin": lambda: sequential(
        L.Conv2D(3, 3),
        L.Dropout(0.3),
        L.SpatialDropout2D(0.2),
        L.GaussianNoise(0.1),
        L.GaussianDropout(0.1),
        L.AlphaDropout(0.1),
        L.Identity(),
        L.ActivityRegularization(l2=0.1),
        L.Flatten(),
        L.Dense(3),
    ),
    "rescaling": lambda: sequential(L.Rescaling(1 / 127.5, -1), L.Conv2D(4, 3, padding="same")),
    "rescaling_by_channel": lambda: sequential(L.Rescaling([1, 2, 3, 4, 5, 6.0], [0, 1, 0, -1, 0, 2.0])),
    "normalization": lambda: sequential(L.Normalization(mean=[0.0, 1, 2, 3, 4, 5], variance=[1, 2, 3, 4, 5, 6.0])),
}

OFF_XNNPACK = {
    "softmax": (lambda: sequential(L.Flatten(), L.Dense(10, activation="softmax")), ["SOFTMAX", "QUANTIZE"]),
    "softmax_layer": (lambda: sequential(L.Conv2D(4, 1), L.Softmax()), ["SOFTMAX", "QUANTIZE"]),
    "average_pooling_padded": (lambda: sequential(L.AveragePooling2D(3, 1, padding="same")), ["AVERAGE_POOL_2D"]),
}


@pytest.mark.lowest
@pytest.mark.parametrize("name", ON_XNNPACK)
def test_device_equals_keras_in_one_partition(name, tmp_path):
    _, report = quantize_and_ship(ON_XNNPACK[name](), tmp_path)
    assert report.off_xnnpack == ()
    assert report.partitions == 1


@pytest.mark.parametrize("name", OFF_XNNPACK)
def test_device_equals_keras_on_built_in_kernels(name, tmp_path):
    build, operators = OFF_XNNPACK[name]
    _, report = quantize_and_ship(build(), tmp_path)
    assert [operator.name for operator in report.off_xnnpack] == operators


def test_adapted_normalization_ships(tmp_path):
    import numpy as np

    x = np.random.default_rng(0).uniform(0, 255, (40, 12, 12, 6)).astype("float32")
    normalization = L.Normalization()
    normalization.adapt(x)
    quantize_and_ship(sequential(normalization, L.Conv2D(4, 3)), tmp_path, x)
