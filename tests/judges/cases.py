"""The float models that are judged, each made, calibrated and exported once."""

import functools
import pathlib
import tempfile

import keras

from tests.helpers import functional, sequential
from tests.judges.judges import Case

L = keras.layers


def conv_bn(x, filters, **options):
    return L.BatchNormalization()(L.Conv2D(filters, 3, padding="same", use_bias=False, **options)(x))


def residual(x):
    """Every operator that is judged, in one small network."""
    x = L.ReLU()(conv_bn(x, 8))
    y = L.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    y = L.ReLU(6.0)(L.BatchNormalization()(y))
    x = L.ReLU()(L.Add()([x, L.BatchNormalization()(L.Conv2D(8, 1)(y))]))
    x = L.MaxPooling2D(2)(x)
    x = L.Concatenate()([L.Conv2D(4, 3, padding="same", activation="relu")(x), L.Conv2D(6, 1, activation="relu6")(x)])
    x = L.ReLU()(conv_bn(x, 12, strides=2))
    return L.Dense(5)(L.Dense(16, activation="relu")(L.GlobalAveragePooling2D()(x)))


# Without batch normalization: the judges get the very weights that we quantize.
PLAIN = {
    "conv": lambda: sequential(L.Conv2D(5, 3, activation="relu"), L.Conv2D(4, (3, 2), strides=2, padding="same")),
    "conv_relu6": lambda: sequential(L.Conv2D(4, 3, dilation_rate=2), L.ReLU(6.0)),
    "depthwise": lambda: sequential(L.DepthwiseConv2D(3, padding="same"), L.DepthwiseConv2D(3, depth_multiplier=2)),
    "add": lambda: functional(lambda x: L.ReLU()(L.Add()([x, L.Conv2D(6, 1)(x)]))),
    "concatenate": lambda: functional(lambda x: L.Concatenate()([L.Conv2D(4, 1)(x), L.Conv2D(2, 1)(x), x])),
    "max_pooling": lambda: sequential(L.MaxPooling2D(3, 2, padding="same"), L.Conv2D(3, 1)),
    "global_average": lambda: sequential(L.Conv2D(4, 3, activation="relu"), L.GlobalAveragePooling2D(keepdims=True)),
}
NORMALIZED = {
    "conv_bn": lambda: sequential(L.Conv2D(5, 3), L.BatchNormalization(), L.ReLU(6.0)),
    "depthwise_bn": lambda: sequential(L.DepthwiseConv2D(3, use_bias=False), L.BatchNormalization(), L.ReLU()),
}
DENSE = {
    "dense": lambda: sequential(L.Flatten(), L.Dense(7, activation="relu"), L.Dense(3)),
    "dense_bn": lambda: sequential(L.Flatten(), L.Dense(7), L.BatchNormalization(), L.ReLU()),
    "residual": lambda: functional(residual),
}
AVERAGED = {
    "average_pooling": lambda: sequential(L.AveragePooling2D(2)),
    "average_pooling_before_conv": lambda: sequential(L.AveragePooling2D(2), L.Conv2D(3, 1)),
}
MODELS = PLAIN | NORMALIZED | DENSE | AVERAGED


@functools.cache
def case(name):
    """The `Case` of one of `MODELS`, the same in each process."""
    return made(MODELS[name])


def made(build, seed=0):
    """The `Case` of the model that `build` makes."""
    keras.utils.set_random_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        return Case(build(), pathlib.Path(folder))
