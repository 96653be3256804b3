"""Small models that train in a second, and what is asked of all of them."""

import keras
import numpy as np

import keras_quant as kq
from tests.helpers import functional, images, shake, ship

L, Q = keras.layers, kq.layers
X, Y = images(64, (8, 8, 4)), np.arange(64) % 3
FEW_BITS = kq.Policy("int4", "int4", kernel_quantizer="lsq", output_quantizer="lsq")


def network(x):
    """Kernels of two kinds, fused and other activations, a sum, a concatenation, a softmax."""
    a = L.BatchNormalization(name="norm")(L.Conv2D(6, 3, padding="same", use_bias=False, name="conv")(x))
    a = L.ReLU()(a)
    b = L.Activation("relu6")(L.BatchNormalization()(L.DepthwiseConv2D(3, padding="same", name="depthwise")(a)))
    c = L.Activation("silu")(L.Add()([a, b]))
    x = L.ReLU(max_value=2.0)(L.Concatenate()([c, L.Conv2D(4, 1, activation="relu", name="pointwise")(b)]))
    x = L.GlobalAveragePooling2D()(keras.ops.clip(x, -1.0, 1.5) * 0.5 + L.MaxPooling2D(1)(x))
    return L.Dense(3, activation="softmax", name="classes")(x)


def small_network(x):
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(6, 3, strides=2, use_bias=False, name="conv")(x)))
    return L.Dense(3, activation="softmax", name="classes")(L.Flatten()(x))


def float_model(build=small_network):
    return shake(functional(build, (8, 8, 4)))


def quantized(policy="int8", calibrate=True, model=None, **compiling):
    return compiled(kq.quantize(float_model() if model is None else model, policy, X if calibrate else None), **compiling)


def compiled(model, optimizer=None, **options):
    optimizer = keras.optimizers.Adam(3e-3) if optimizer is None else optimizer
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], **options)
    return model


def fit(model, callbacks=(), epochs=1, batch_size=16, **options):
    return model.fit(X, Y, batch_size=batch_size, epochs=epochs, verbose=0, callbacks=list(callbacks), **options).history


class ByHand(keras.Model):
    """A subclassed model, built of quantized layers by hand."""

    def __init__(self):
        super().__init__()
        self.conv = Q.QuantConv2D(
            6, 3, use_bias=False, batch_norm=L.BatchNormalization(), activation="relu", policy=FEW_BITS, name="conv"
        )
        self.flat = Q.QuantFlatten()
        self.dense = Q.QuantDense(3, activation="softmax", policy=FEW_BITS, name="classes")

    def call(self, x, training=None):
        return self.dense(self.flat(self.conv(x, training=training)), training=training)


def by_hand():
    model = ByHand()
    model(X[:1])
    return compiled(model)


class Each(keras.callbacks.Callback):
    """Keeps what a function says after each epoch, or before each step."""

    def __init__(self, function, steps=False):
        super().__init__()
        self.function, self.steps, self.seen = function, steps, []

    def on_train_batch_begin(self, batch, logs=None):
        if self.steps:
            self.seen.append(self.function())

    def on_epoch_end(self, epoch, logs=None):
        if not self.steps:
            self.seen.append(self.function())


def exact(qmodel, folder):
    """The model's file computes what the model predicts, and so does the model from its own file."""
    ship(qmodel, folder, X[:16])
    qmodel.save(folder / "model.keras")
    loaded = keras.models.load_model(folder / "model.keras", compile=False)
    np.testing.assert_array_equal(loaded.predict(X[:16], verbose=0), qmodel.predict(X[:16], verbose=0))
    return loaded
