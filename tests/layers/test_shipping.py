"""Each layer, over its arguments: what Keras predicts is what LiteRT computes, and it runs where it should."""

import keras
import numpy as np
import pytest
from keras import ops

from tests.helpers import few, functional, quantize_and_ship, sequential

L = keras.layers
WORDS = (10, 8)


def windows(x):
    """A Dense layer on windows of 3 by 3 that are rows of the batch, and back."""
    order = (0, 1, 3, 2, 4, 5)
    x = ops.reshape(ops.transpose(ops.reshape(x, (-1, 4, 3, 4, 3, 6)), order), (-1, 9, 6))
    x = ops.reshape(L.Dense(4)(x), (-1, 4, 4, 3, 3, 4))
    return ops.reshape(ops.transpose(x, order), (-1, 12, 12, 4))


def squeeze_and_excite(x):
    gate = L.Dense(6, activation="sigmoid")(L.GlobalAveragePooling2D(keepdims=True)(x))
    return L.Multiply()([x, gate])


SHUFFLED = [i * 355 % 864 for i in range(100)]

ON_XNNPACK = {
    "conv_same_strided": lambda: sequential(L.Conv2D(8, 3, strides=2, padding="same")),
    "conv_valid_uneven": lambda: sequential(L.Conv2D(8, (3, 2), strides=(2, 1), activation="relu")),
    "conv_dilated": lambda: sequential(L.Conv2D(8, 3, dilation_rate=2, padding="same", activation="relu6")),
    "conv_grouped": lambda: sequential(L.Conv2D(12, 3, groups=3)),
    "conv_by_channel": lambda: sequential(L.Conv2D(12, 3, 2, groups=6, activation="relu"), L.Conv2D(12, (5, 1), groups=12)),
    "conv_without_bias": lambda: sequential(L.Conv2D(8, 1, use_bias=False)),
    "depthwise": lambda: sequential(L.DepthwiseConv2D(3, padding="same", activation="relu")),
    "depthwise_multiplied": lambda: sequential(L.DepthwiseConv2D(3, strides=2, depth_multiplier=3)),
    "depthwise_large": lambda: sequential(
        L.DepthwiseConv2D(7, padding="same"), L.DepthwiseConv2D((4, 7), depth_multiplier=2)
    ),
    "depthwise_large_in_blocks": lambda: sequential(
        L.Conv2D(24, 1), L.DepthwiseConv2D(6, 2, padding="same", depth_multiplier=2, activation="relu"), L.Conv2D(4, 1)
    ),
    "depthwise_dilated": lambda: sequential(L.DepthwiseConv2D(3, dilation_rate=2)),
    "separable": lambda: sequential(L.SeparableConv2D(8, 3, depth_multiplier=2, activation="relu")),
    "separable_normalized": lambda: sequential(L.SeparableConv2D(8, 3), L.BatchNormalization(), L.ReLU()),
    "transpose_same": lambda: sequential(L.Conv2DTranspose(8, 3, strides=2, padding="same", activation="relu")),
    "transpose_valid": lambda: sequential(L.Conv2DTranspose(8, 4, strides=2)),
    "transpose_small_kernel": lambda: sequential(L.Conv2DTranspose(8, 2, strides=3)),
    "transpose_pointwise": lambda: sequential(L.Conv2DTranspose(8, 1, strides=2, padding="same")),
    "transpose_dilated": lambda: sequential(L.Conv2DTranspose(8, 3, dilation_rate=(2, 1), padding="same")),
    "transpose_normalized": lambda: sequential(L.Conv2DTranspose(8, 3), L.BatchNormalization(), L.ReLU()),
    "dense": lambda: sequential(L.Flatten(), L.Dense(7, activation="relu"), L.Dense(3)),
    "dense_on_images": lambda: sequential(L.Dense(7), L.BatchNormalization(), L.Activation("relu6")),
    "dense_on_sequences": lambda: sequential(L.Reshape((16, 54)), L.Dense(7, activation="tanh")),
    "frames_in_the_batch": lambda: sequential(L.Reshape((3, 4, 12, 6)), L.TimeDistributed(L.Conv2D(4, 3)), L.Dense(3)),
    "windows_in_the_batch": lambda: functional(windows),
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
    "softplus": lambda: sequential(L.Conv2D(4, 1), L.Activation("softplus")),
    "mish": lambda: sequential(L.Conv2D(4, 1), L.Activation("mish")),
    "tables_of_operations": lambda: functional(lambda x: ops.log(ops.exp(x) + 1.0)),
    "log_softmax": lambda: sequential(L.Flatten(), L.Dense(10, activation="log_softmax")),
    "log_sum_exp": lambda: functional(lambda x: ops.logsumexp(x, axis=(-1,)) + ops.log_softmax(x, axis=2)[..., 0]),
    "running_sums_and_products": lambda: functional(lambda x: ops.cumsum(x, 1) * 0.1 + ops.cumprod(ops.tanh(x) + 1, -1)),
    "tables_with_parameters": lambda: functional(lambda x: ops.arctan2(x, 0.7) + ops.mod(x, 1.5)),
    "resizing_by_matrices": lambda: sequential(L.Resizing(7, 20, "bicubic")),
    "power": lambda: functional(lambda x: ops.power(ops.relu(x), 1.5)),
    "division_by_a_tensor": lambda: functional(lambda x: x / (ops.abs(x) + 1.0)),
    "attention": lambda: functional(lambda x: x + L.MultiHeadAttention(2, 4)(x, x), WORDS),
    "attention_with_dropout": lambda: functional(lambda x: L.MultiHeadAttention(2, 4, dropout=0.1)(x, x), WORDS),
    "normalizations_of_volumes": lambda: volume(
        L.LayerNormalization(), L.Conv3D(4, 1), L.GroupNormalization(2), L.PReLU("uniform", shared_axes=[1, 2, 3])
    ),
    "layer_normalization": lambda: sequential(L.Conv2D(8, 3), L.LayerNormalization(), L.Conv2D(3, 1)),
    "layer_normalization_of_all": lambda: sequential(L.LayerNormalization(axis=[1, 2, 3])),
    "layer_normalization_of_vectors": lambda: sequential(L.Flatten(), L.Dense(9), L.LayerNormalization(scale=False)),
    "group_normalization": lambda: sequential(L.Conv2D(8, 3), L.GroupNormalization(2), L.Conv2D(3, 1)),
    "unit_normalization": lambda: sequential(L.UnitNormalization()),
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
    "average_pooling_padded": lambda: sequential(L.AveragePooling2D(3, 1, padding="same"), L.AveragePooling2D(5, 3, "same")),
    "pooling_of_one": lambda: sequential(L.Conv2D(4, 1), L.MaxPooling2D(1, 2), L.AveragePooling2D(1, 2)),
    "average_pooling_of_all": lambda: sequential(L.AveragePooling2D(12), L.Flatten(), L.Dense(3)),
    "global_average_pooling": lambda: sequential(L.Conv2D(4, 3, activation="relu"), L.GlobalAveragePooling2D()),
    "global_max_pooling": lambda: sequential(L.GlobalMaxPooling2D(keepdims=True), L.Flatten(), L.Dense(3)),
    "global_max_pooling_of_conv": lambda: sequential(L.Conv2D(4, 3), L.GlobalMaxPooling2D(), L.Dense(3)),
    "pooling_operations": lambda: functional(
        lambda x: ops.average_pool(ops.max_pool(L.Conv2D(4, 3)(x), 2), (2, 1), strides=(1, 2), padding="valid")
    ),
    "padding_and_cropping": lambda: sequential(
        L.ZeroPadding2D(((1, 2), (3, 0))), L.Conv2D(4, 3), L.Cropping2D(((0, 1), (2, 1)))
    ),
    "upsampling_nearest": lambda: sequential(L.UpSampling2D(2), L.Conv2D(3, 1), L.UpSampling2D((3, 1))),
    "upsampling_nearest_large": lambda: sequential(L.UpSampling2D((7, 2))),
    "upsampling_bilinear": lambda: sequential(L.Conv2D(3, 1), L.UpSampling2D((2, 3), interpolation="bilinear")),
    "resizing_bilinear": lambda: sequential(L.Resizing(20, 17), L.Conv2D(3, 1), L.Resizing(7, 5)),
    "resizing_nearest_up": lambda: sequential(L.Resizing(18, 16, "nearest"), L.Conv2D(3, 1), L.Resizing(36, 16, "nearest")),
    "resizing_nearest_down": lambda: sequential(L.Resizing(4, 6, "nearest"), L.Conv2D(3, 1), L.Resizing(3, 4, "nearest")),
    "resizing_cropped": lambda: sequential(L.Resizing(10, 15, crop_to_aspect_ratio=True)),
    "resizing_padded": lambda: sequential(L.Resizing(6, 10, pad_to_aspect_ratio=True), L.Conv2D(3, 1)),
    "resizing_operation": lambda: functional(lambda x: ops.image.resize(x, (8, 24), interpolation="nearest")),
    "center_crop": lambda: sequential(L.CenterCrop(7, 4), L.Conv2D(3, 3), L.CenterCrop(5, 2)),
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
    "hard_sigmoid_and_hard_swish": lambda: sequential(L.Conv2D(4, 3, activation="hard_swish"), L.Activation("hard_sigmoid")),
    "hard_swish_spelled_out": lambda: functional(lambda x: L.ReLU(6.0)(x + 3.0) * (1 / 6) * x),
    "elu": lambda: sequential(L.Conv2D(4, 3, activation="elu"), L.ELU(0.5)),
    "selu": lambda: sequential(L.Conv2D(4, 3, activation="selu")),
    "clip": lambda: functional(lambda x: ops.clip(x, -0.5, 1) + ops.clip(x, -1, 1)),
    "absolute_and_square": lambda: functional(lambda x: ops.abs(x) - ops.square(x) + x**2),
    "arithmetic_with_numbers": lambda: functional(lambda x: 1 - (x * 2 + 1) / 3 - ops.maximum(x, 0)),
    "arithmetic_with_arrays": lambda: functional(
        lambda x: (x + np.arange(864.0).reshape(12, 12, 6) / 500) * np.ones((12, 1, 6))
    ),
    "extremes_with_a_value_a_channel": lambda: functional(
        lambda x: ops.maximum(x, np.linspace(-1, 0.5, 6)) - ops.minimum(np.linspace(-0.5, 1, 6), x)
    ),
    "reductions": lambda: functional(
        lambda x: ops.mean(x, (1, 2), True) * ops.max(x, -1, True) + ops.sum(x, 2, True) - ops.min(x, 1, True)
    ),
    "average": lambda: functional(lambda x: L.Average()([x, ops.relu(x), L.Conv2D(6, 1)(x)])),
    "maximum_and_minimum": lambda: functional(lambda x: L.Maximum()([x, L.Conv2D(6, 1)(x)]) - ops.minimum(x, ops.tanh(x))),
    "prelu_of_little_below_zero": lambda: sequential(L.Rescaling(1.0, 4.0), L.PReLU("ones")),
    "prelu": lambda: sequential(L.Conv2D(4, 3), L.PReLU("uniform", shared_axes=[1, 2]), L.PReLU("uniform")),
    "matmul": lambda: functional(lambda x: ops.matmul(x, L.Permute((2, 1))(x)), WORDS),
    "matmul_of_an_array": lambda: functional(lambda x: ops.matmul(x, np.linspace(-1, 1, 40).reshape(8, 5)), WORDS),
    "einsum": lambda: functional(lambda x: ops.einsum("abc,adc->adb", x, L.Dense(8)(x)), WORDS),
    "einsum_dense": lambda: sequential(
        L.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de", activation="relu"),
        L.EinsumDense("...cd,cde->...e", (5,), bias_axes="e"),
        shape=WORDS,
    ),
    "operations_fuse_activations": lambda: functional(lambda x: ops.relu(x + L.Conv2D(6, 1)(x))),
}

# Operations that only move data, as functions of an image.
MOVEMENT = {
    "transpose": lambda x: ops.transpose(x, (0, 3, 1, 2)),
    "swapaxes": lambda x: ops.swapaxes(x, 1, -1),
    "moveaxis": lambda x: ops.moveaxis(x, (1, 3), (3, 2)),
    "reshape": lambda x: ops.reshape(x, (-1, 24, 36)),
    "reshape_of_open_batch": lambda x: ops.reshape(x, (ops.shape(x)[0], -1, 6))[:, ::2],
    "expand_and_squeeze": lambda x: ops.squeeze(ops.expand_dims(L.GlobalAveragePooling2D()(x), (1, -1)), 1),
    "flip": lambda x: ops.flip(x, 1),
    "flip_vector": lambda x: ops.flip(L.GlobalMaxPooling2D()(x), 1),
    "slice": lambda x: x[:, 1:-1, 2:, :3],
    "slice_steps": lambda x: x[:, 1::3, ::5, ::2],
    "slice_steps_back": lambda x: x[:, ::-1, 10:2:-3, :],
    "slice_integers": lambda x: x[:, 0, :, -2],
    "slice_new_axes": lambda x: x[:, None, 2:, ..., -1:, None],
    "split": lambda x: L.Add()(ops.split(L.Conv2D(6, 1)(x), 2, axis=-1)),
    "split_at": lambda x: ops.concatenate(ops.split(x, [2, 7], axis=1)[::-1], axis=1),
    "unstack": lambda x: ops.add(*ops.unstack(x, axis=-1)[1:3]),
    "stack": lambda x: ops.stack([L.Conv2D(6, 1)(x), x, L.Conv2D(6, 1)(x)], axis=1),
    "stack_unstacked": lambda x: ops.stack(ops.unstack(x, axis=1)[::-1], axis=-1),
    "stack_one": lambda x: ops.stack([x], axis=2),
    "hstack": lambda x: ops.hstack([x, L.Conv2D(6, 1)(x)]),
    "repeat": lambda x: ops.repeat(x, 3, axis=2),
    "repeat_unevenly": lambda x: ops.repeat(x, [1, 2, 3, 0, 1, 1], axis=-1),
    "repeat_vector": lambda x: L.RepeatVector(9)(L.GlobalAveragePooling2D()(x)),
    "tile": lambda x: ops.tile(x, (1, 2, 7, 1)),
    "tile_often": lambda x: ops.tile(x[:, :2, :2], 100),
    "broadcast_to": lambda x: ops.broadcast_to(x[:, :1, :, :1], (None, 5, 12, 9)),
    "pad": lambda x: ops.pad(x, ((0, 0), (1, 2), (0, 3), (1, 0))),
    "pad_reflect": lambda x: ops.pad(x, ((0, 0), (1, 2), (3, 3), (0, 0)), mode="reflect"),
    "pad_symmetric": lambda x: ops.pad(x, ((0, 0), (1, 2), (3, 3), (0, 0)), mode="symmetric"),
    "pad_edge": lambda x: ops.pad(x, ((0, 0), (8, 2), (3, 3), (0, 0)), mode="edge"),
    "take": lambda x: ops.take(x, [4, 5, 0, -1, 2], axis=1),
    "take_one": lambda x: ops.take(x, 3, axis=1),
    "take_matrix": lambda x: ops.take(x, [[0, 1], [5, 3]], axis=2),
    "roll": lambda x: ops.roll(x, (2, -5), axis=(1, 2)),
    "roll_round": lambda x: ops.roll(x, 15, axis=1),
}
ON_XNNPACK.update({name: lambda build=build: functional(build) for name, build in MOVEMENT.items()})
if hasattr(ops, "depth_to_space"):
    ON_XNNPACK["blocks"] = lambda: functional(
        lambda x: ops.space_to_depth(ops.depth_to_space(L.Conv2D(8, 3, padding="same")(x), 2), 3)
    )

SEQUENCE = (24, 6)


def sequence(*layers):
    return sequential(*layers, shape=SEQUENCE)


ON_XNNPACK |= {
    "conv1d_same_strided": lambda: sequence(L.Conv1D(8, 3, strides=2, padding="same")),
    "conv1d_dilated": lambda: sequence(L.Conv1D(8, 3, dilation_rate=3, activation="relu6"), L.Conv1D(4, 1)),
    "conv1d_causal": lambda: sequence(L.Conv1D(8, 3, padding="causal", dilation_rate=2, activation="tanh")),
    "conv1d_causal_strided": lambda: sequence(L.Conv1D(8, 4, strides=3, padding="causal", use_bias=False)),
    "conv1d_grouped": lambda: sequence(L.Conv1D(12, 3, groups=3, padding="same")),
    "conv1d_normalized": lambda: sequence(L.Conv1D(8, 3), L.BatchNormalization(), L.ReLU(), L.Flatten(), L.Dense(3)),
    "conv1d_between_sums": lambda: functional(
        lambda x: L.ReLU()(L.Add()([x, L.BatchNormalization()(L.Conv1D(6, 3, padding="same")(x))])), SEQUENCE
    ),
    "depthwise1d": lambda: sequence(L.DepthwiseConv1D(3, strides=2, padding="same", depth_multiplier=2)),
    "depthwise1d_normalized": lambda: sequence(L.DepthwiseConv1D(5), L.BatchNormalization(), L.ReLU(6.0)),
    "depthwise1d_dilated": lambda: sequence(L.DepthwiseConv1D(3, dilation_rate=2, activation="silu")),
    "separable1d": lambda: sequence(L.SeparableConv1D(8, 3, strides=2, depth_multiplier=2, activation="relu")),
    "separable1d_normalized": lambda: sequence(L.SeparableConv1D(8, 3), L.BatchNormalization(), L.ReLU()),
    "transpose1d_same": lambda: sequence(L.Conv1DTranspose(8, 3, strides=2, padding="same", activation="relu")),
    "transpose1d_valid": lambda: sequence(L.Conv1DTranspose(8, 2, strides=3), L.Conv1DTranspose(4, 5)),
    "transpose1d_dilated": lambda: sequence(L.Conv1DTranspose(8, 3, dilation_rate=2), L.BatchNormalization()),
    "max_pooling1d": lambda: sequence(L.MaxPooling1D(3, 2, padding="same"), L.Conv1D(4, 3), L.MaxPooling1D(2)),
    "average_pooling1d": lambda: sequence(L.AveragePooling1D(2), L.Conv1D(4, 1), L.AveragePooling1D(3, 2)),
    "average_pooling1d_of_all": lambda: sequence(L.AveragePooling1D(24), L.Flatten(), L.Dense(3)),
    "pooling1d_operations": lambda: functional(lambda x: ops.max_pool(ops.average_pool(x, 3, 2), 2), SEQUENCE),
    "global_average_pooling1d": lambda: sequence(L.Conv1D(4, 3, activation="relu"), L.GlobalAveragePooling1D(keepdims=True)),
    "global_pooling1d_joined": lambda: functional(
        lambda x: L.Concatenate()([L.GlobalAveragePooling1D()(x), L.GlobalMaxPooling1D()(x)]), SEQUENCE
    ),
    "padding_and_cropping1d": lambda: sequence(L.ZeroPadding1D((1, 3)), L.Conv1D(4, 3), L.Cropping1D((2, 0))),
    "rotary": lambda: functional(
        lambda x: ops.matmul(rotary(L.Dense(8)(x)), L.Permute((2, 1))(rotary(L.Dense(8)(x)))), WORDS
    ),
    "upsampling1d": lambda: sequence(L.UpSampling1D(3), L.Conv1D(4, 3), L.UpSampling1D(2)),
}

VOLUME = (6, 8, 8, 4)


def volume(*layers):
    return sequential(*layers, shape=VOLUME)


VOLUMES = {
    "conv3d": lambda: volume(L.Conv3D(6, 3, padding="same"), L.BatchNormalization(), L.ReLU(), L.Conv3D(4, 2, strides=2)),
    "conv3d_uneven": lambda: volume(L.Conv3D(5, (2, 3, 1), (2, 1, 2), activation="relu6"), L.Conv3D(3, 1, strides=2)),
    "conv3d_same_strided": lambda: volume(L.Conv3D(5, 3, strides=2, padding="same", use_bias=False)),
    "conv3d_dilated": lambda: volume(L.Conv3D(5, 3, dilation_rate=2, padding="same", activation="tanh")),
    "conv3d_grouped": lambda: volume(L.Conv3D(6, 3, groups=2, padding="same")),
    "conv3d_by_channel": lambda: volume(
        L.Conv3D(8, (3, 3, 2), 2, groups=4, padding="same", activation="relu"), L.Conv3D(8, (1, 2, 3), groups=8)
    ),
    "conv3d_in_two_steps": lambda: volume(L.Conv3D(6, (1, 3, 3)), L.Conv3D(6, (7, 1, 1), padding="same"), L.ReLU()),
    "transpose3d": lambda: volume(L.Conv3DTranspose(5, 2, strides=2), L.BatchNormalization(), L.ReLU()),
    "transpose3d_same": lambda: volume(L.Conv3DTranspose(5, 3, strides=2, padding="same"), L.Conv3DTranspose(4, 3)),
    "transpose3d_valid": lambda: volume(L.Conv3DTranspose(5, (4, 1, 2), strides=(3, 1, 2), activation="relu")),
    "transpose3d_small_kernel": lambda: volume(L.Conv3DTranspose(5, 1, 2, padding="same"), L.Conv3DTranspose(3, 2, 3)),
    "max_pooling3d": lambda: volume(L.MaxPooling3D(3, 2, padding="same"), L.MaxPooling3D((1, 2, 2))),
    "max_pooling3d_along_axes": lambda: volume(L.MaxPooling3D((2, 1, 1)), L.MaxPooling3D((1, 2, 1)), L.MaxPooling3D(1, 2)),
    "average_pooling3d": lambda: volume(L.AveragePooling3D(2), L.Conv3D(4, 1), L.AveragePooling3D((2, 3, 3), 1)),
    "average_pooling3d_padded": lambda: volume(L.AveragePooling3D(3, 1, "same"), L.AveragePooling3D((2, 3, 2), 2, "same")),
    "average_pooling3d_of_all": lambda: volume(L.AveragePooling3D((6, 8, 8)), L.Flatten(), L.Dense(3)),
    "pooling3d_operations": lambda: functional(lambda x: ops.average_pool(ops.max_pool(x, 2), (1, 2, 2), 1), VOLUME),
    "global_pooling3d": lambda: functional(
        lambda x: L.Add()([L.GlobalAveragePooling3D()(x), L.Flatten()(L.GlobalMaxPooling3D(keepdims=True)(x))]),
        VOLUME,
    ),
    "padding_and_cropping3d": lambda: volume(
        L.ZeroPadding3D(((1, 0), (2, 1), (0, 3))), L.Conv3D(4, 3), L.Cropping3D(((0, 1), (1, 0), (2, 1)))
    ),
    "upsampling3d": lambda: volume(L.UpSampling3D(2), L.SpatialDropout3D(0.1), L.UpSampling3D((1, 3, 2))),
    "bn_alone_on_volumes": lambda: volume(L.ReLU(), L.BatchNormalization(), L.Conv3D(3, 1)),
    "movement_of_volumes": lambda: functional(
        lambda x: L.Concatenate(axis=1)([L.Permute((1, 3, 2, 4))(x), L.Add()([x, L.Conv3D(1, 1)(x)])])[:, 1:, ::2], VOLUME
    ),
}
ON_XNNPACK |= VOLUMES

# Keras 3.5 computes other shapes than it says there, and has no hard tanh yet.
if hasattr(keras.activations, "hard_tanh"):
    ON_XNNPACK |= {
        "hard_tanh": lambda: sequential(L.Conv2D(4, 3, activation="hard_tanh")),
        "transpose_output_padding": lambda: sequential(
            L.Conv2DTranspose(8, 3, strides=2, padding="same", output_padding=0),
            L.Conv2DTranspose(4, 3, 3, output_padding=2),
        ),
        "transpose1d_output_padding": lambda: sequence(L.Conv1DTranspose(8, 3, 2, output_padding=1)),
    }


def masked(function):
    """A network of sequences: `function` of a tensor, and of a mask that is computed."""

    def build(x):
        mask = L.Dense(1)(x)[:, :, 0] > -0.3
        return function(L.Dense(8)(x), mask)

    return functional(build, WORDS)


def mean_of_kept(x, mask):
    ones = ops.cast(mask, "float32")
    return ops.sum(x * ones[:, :, None], axis=1) / ops.maximum(ops.sum(ones, axis=1, keepdims=True), 1.0)


def added_mask(x, mask):
    scores = ops.matmul(x, ops.transpose(x, (0, 2, 1))) / 8.0**0.5
    constant = (np.arange(10) > 7).astype("float32")[None] * -1e4
    added = (1.0 - ops.cast(mask, "float32"))[:, None, :] * -1e9
    return ops.matmul(ops.softmax(scores + (added + constant)), x)


def rotary(x):
    angles = np.tile(np.outer(np.arange(10), [1.0, 0.1, 0.01, 0.001]), 2).astype("float32")
    turned = ops.concatenate([-x[..., 4:], x[..., :4]], -1)
    return x * np.cos(angles) + turned * np.sin(angles)


def of_integers(x):
    """Whole numbers and booleans of every kind, counted in a tensor and turned into rows."""
    x = L.Dense(8)(x)
    counts = ops.sum(ops.cast(ops.greater_equal(x, 0.1), "int32"), axis=-1)
    odd = ops.equal(ops.mod(counts, 2), 1)
    few_or_many = ops.logical_or(ops.less(counts, 3), ops.less_equal(ops.negative(counts), -6))
    running = ops.cumsum(ops.cast(ops.logical_xor(odd, few_or_many), "int32"), axis=1)
    ids = ops.minimum(ops.maximum(ops.floor_divide(running + counts, 2), 1), 8)
    spread = ops.max(counts, axis=1, keepdims=True) - ops.min(counts, axis=1, keepdims=True)
    some = ops.logical_and(ops.any(odd, 1, keepdims=True), ops.logical_not(ops.all(few_or_many, 1, keepdims=True)))
    table = lambda indices: L.Embedding(9, 8, keras.initializers.RandomNormal(stddev=1.0, seed=1))(indices)
    places = ops.one_hot(ops.argmax(x, axis=-1), 8) + ops.one_hot(ops.argmin(x, axis=-1), 8)
    rows = table(ids) + table(spread) * ops.expand_dims(ops.cast(some, "float32"), -1)
    return L.Dense(4)(ops.concatenate([rows, places, ops.top_k(x, 3)[0]], -1))


TABLE = ["CAST", "ADD", "GATHER"]
INTEGERS = (
    "GREATER_EQUAL CAST SUM FLOOR_MOD EQUAL LESS NEG LESS_EQUAL LOGICAL_OR NOT_EQUAL CAST CUMSUM ADD FLOOR_DIV MAXIMUM "
    "MINIMUM GATHER REDUCE_MAX REDUCE_MIN SUB GATHER REDUCE_ANY REDUCE_ALL LOGICAL_NOT LOGICAL_AND CAST ARG_MAX ONE_HOT "
    "ARG_MIN ONE_HOT TOPK_V2"
).split()
NEAREST = ["RESIZE_NEAREST_NEIGHBOR"]
# The same integers on another grid, which DEQUANTIZE reads as they are.
OFF_XNNPACK = {
    "flip_channels": (lambda: functional(lambda x: ops.flip(x, -1)), ["REVERSE_V2"]),
    "take_channels": (lambda: functional(lambda x: ops.take(x, [5, 3, 0], axis=-1)), ["GATHER"]),
    "take_at_random": (lambda: functional(lambda x: ops.take(ops.reshape(x, (-1, 864)), SHUFFLED, axis=1)), ["GATHER"]),
    "resizing_nearest_odd": (lambda: sequential(L.Resizing(37, 41, "nearest"), L.Resizing(36, 35, "nearest")), NEAREST),
    "gelu": (lambda: sequential(L.Conv2D(4, 1, activation="gelu")), ["GELU"]),
    "gelu_approximate": (lambda: functional(keras.ops.gelu), ["GELU"]),
    "where": (lambda: masked(lambda x, m: ops.where(m[:, :, None], x, x * 0.5)), ["GREATER", "RESHAPE", "SELECT_V2"]),
    "where_constants": (
        lambda: masked(lambda x, m: ops.where(np.eye(10, 8) > 0, 0.25, ops.where(m[:, :, None], x, -0.5))),
        ["GREATER", "RESHAPE", "SELECT_V2", "SELECT_V2"],
    ),
    "max_of_kept": (
        lambda: masked(lambda x, m: ops.max(ops.where(m[:, :, None], x, -np.inf), axis=1)),
        ["GREATER", "RESHAPE", "SELECT_V2"],
    ),
    "mean_of_kept": (lambda: masked(mean_of_kept), ["GREATER", "RESHAPE", "CAST", "CAST"]),
    "integers": (lambda: functional(of_integers, WORDS), INTEGERS),
    "attention_causal": (
        lambda: functional(lambda x: L.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True), WORDS),
        ["SELECT_V2"],
    ),
    "attention_masked": (
        lambda: masked(lambda x, m: L.MultiHeadAttention(2, 4, dropout=0.1)(x, x, attention_mask=m[:, None, :])),
        ["GREATER", "RESHAPE", "SELECT_V2", "SELECT_V2"],
    ),
    "attention_with_added_mask": (
        lambda: masked(added_mask),
        ["GREATER", "RESHAPE", "LOGICAL_AND", "SELECT_V2"],
    ),
    "softplus_of_many": (lambda: sequential(L.UpSampling2D(3), L.Conv2D(4, 1, activation="softplus")), TABLE),
    "softmax": (lambda: sequential(L.Flatten(), L.Dense(10, activation="softmax")), ["SOFTMAX", "QUANTIZE"]),
    "softmax_layer": (lambda: sequential(L.Conv2D(4, 1), L.Softmax()), ["SOFTMAX", "QUANTIZE"]),
}


# Keras traces these operations and cannot compute them in float on TensorFlow.
KERAS_CANNOT_RUN = ("reshape_of_open_batch", "broadcast_to", "pad_edge")
# Each does what others above do, with other arguments.
VARIANTS = """log_sum_exp running_sums_and_products tables_with_parameters resizing_by_matrices
    conv_valid_uneven depthwise_dilated depthwise_large depthwise_multiplied separable_normalized
    conv1d_dilated conv1d_grouped conv1d_causal_strided conv1d_same_strided depthwise1d depthwise1d_dilated
    depthwise1d_normalized separable1d separable1d_normalized transpose_dilated transpose_normalized
    transpose_output_padding transpose_same transpose_small_kernel transpose_valid transpose1d_dilated
    transpose1d_output_padding transpose1d_same transpose1d_valid bn_after_activation bn_alone_on_vectors
    bn_without_gain average_pooling1d average_pooling1d_of_all
    global_average_pooling1d global_pooling1d_joined max_pooling1d pooling1d_operations pooling_operations
    upsampling1d upsampling_nearest_large resizing_cropped resizing_nearest_down padding_and_cropping1d selu
    softplus mish hard_tanh prelu_of_little_below_zero concatenate_rows stack_one stack_unstacked unstack
    split_at take_one tile_often repeat_unevenly slice_steps_back slice_new_axes flip_vector pad_symmetric""".split()
VARIANTS += [name for name in VOLUMES if name not in ("conv3d", "transpose3d", "max_pooling3d")]


@pytest.mark.lowest
@pytest.mark.parametrize("name", few(ON_XNNPACK, *(name for name in ON_XNNPACK if name not in VARIANTS)))
def test_device_equals_keras_in_one_partition(name, tmp_path):
    _, report = quantize_and_ship(ON_XNNPACK[name](), tmp_path, near_float=name not in KERAS_CANNOT_RUN)
    assert report.off_xnnpack == ()
    assert report.partitions == 1


@pytest.mark.parametrize("name", OFF_XNNPACK)
def test_device_equals_keras_on_built_in_kernels(name, tmp_path):
    build, operators = OFF_XNNPACK[name]
    _, report = quantize_and_ship(build(), tmp_path, near_float=name != "integers")  # a step of x is one of counts
    assert [operator.name for operator in report.off_xnnpack] == operators


def test_adapted_normalization_ships(tmp_path):
    x = np.random.default_rng(0).uniform(0, 255, (40, 12, 12, 6)).astype("float32")
    normalization = L.Normalization()
    normalization.adapt(x)
    quantize_and_ship(sequential(normalization, L.Conv2D(4, 3)), tmp_path, x)
