"""Layers that users write out of Keras layers and `keras.ops`."""

import keras

L, ops = keras.layers, keras.ops


@keras.saving.register_keras_serializable(package="tests")
class ConvUnit(L.Layer):
    """Convolution, batch normalization, ReLU."""

    def __init__(self, filters, strides=1, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.strides = filters, strides
        self.conv = L.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False)
        self.norm = L.BatchNormalization()

    def build(self, input_shape):
        self.conv.build(input_shape)
        self.norm.build(self.conv.compute_output_shape(input_shape))

    def call(self, x, training=None):
        return ops.relu(self.norm(self.conv(x), training=training))

    def get_config(self):
        return {**super().get_config(), "filters": self.filters, "strides": self.strides}


@keras.saving.register_keras_serializable(package="tests")
class SqueezeExcite(L.Layer):
    def __init__(self, channels, ratio, **kwargs):
        super().__init__(**kwargs)
        self.pool = L.GlobalAveragePooling2D(keepdims=True)
        self.down = L.Dense(channels // ratio, activation="relu")
        self.up = L.Conv2D(channels, 1, activation="sigmoid")

    def call(self, x):
        return x * self.up(self.down(self.pool(x)))


@keras.saving.register_keras_serializable(package="tests")
class InvertedResidual(L.Layer):
    """MobileNetV2's block."""

    def __init__(self, filters, strides, expand, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.strides, self.expand = filters, strides, expand

    def build(self, input_shape):
        channels = input_shape[-1]
        self.residual = self.strides == 1 and channels == self.filters
        self.parts = [
            *(L.Conv2D(channels * self.expand, 1, use_bias=False), L.BatchNormalization(), L.ReLU(6.0)),
            *(L.DepthwiseConv2D(3, self.strides, "same", use_bias=False), L.BatchNormalization(), L.ReLU(6.0)),
            *(L.Conv2D(self.filters, 1, use_bias=False), L.BatchNormalization()),
        ]
        shape = input_shape
        for part in self.parts:
            part.build(shape)
            shape = part.compute_output_shape(shape)

    def call(self, inputs, training=False):
        x = inputs
        for part in self.parts:
            x = part(x, training=training) if isinstance(part, L.BatchNormalization) else part(x)
        return inputs + x if self.residual else x

    def get_config(self):
        return {**super().get_config(), "filters": self.filters, "strides": self.strides, "expand": self.expand}


class Parallel(L.Layer):
    """Models side by side, joined."""

    def __init__(self, branches, **kwargs):
        super().__init__(**kwargs)
        self.branches = branches

    def call(self, x):
        return ops.concatenate([branch(x) for branch in self.branches], axis=-1)


class Patches(L.Layer):
    """An image as a sequence of its patches."""

    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.size = size

    def call(self, images):
        batch, height, width, channels = ops.shape(images)
        patches = ops.image.extract_patches(images, self.size)
        return ops.reshape(patches, (batch, height // self.size * (width // self.size), self.size**2 * channels))


class PatchEncoder(L.Layer):
    """Patches, projected, with a vector for each place added."""

    def __init__(self, count, units, **kwargs):
        super().__init__(**kwargs)
        self.count = count
        self.project, self.place = L.Dense(units), L.Embedding(count, units)

    def call(self, patches):
        return self.project(patches) + self.place(ops.expand_dims(ops.arange(self.count), 0))


class ClassToken(L.Layer):
    """A vector before each sequence; `repeat` says how it is repeated for each sample."""

    def __init__(self, repeat="tile", **kwargs):
        super().__init__(**kwargs)
        self.repeat = repeat

    def build(self, input_shape):
        self.token = self.add_weight(shape=(1, 1, input_shape[-1]), initializer="glorot_uniform", name="token")

    def call(self, x):
        batch, _, units = ops.shape(x)
        repeated = {
            "tile": lambda: ops.tile(self.token, (batch, 1, 1)),
            "repeat": lambda: ops.repeat(self.token, batch, axis=0),
            "broadcast": lambda: ops.broadcast_to(self.token, (batch, 1, units)),
        }
        return ops.concatenate([repeated[self.repeat](), x], axis=1)


class PositionEmbedding(L.Layer):
    """A vector for each place of a sequence, repeated for each sample, as KerasHub's layer of this name makes it."""

    def __init__(self, count, **kwargs):
        super().__init__(**kwargs)
        self.count = count

    def build(self, input_shape):
        self.vectors = self.add_weight(shape=(self.count, input_shape[-1]), initializer="glorot_uniform", name="vectors")

    def call(self, inputs):
        shape = ops.shape(inputs)
        return ops.broadcast_to(ops.slice(ops.convert_to_tensor(self.vectors), (0, 0), shape[1:]), shape)


class SequencePooling(L.Layer):
    """A sum over the sequence, with weights that attend to it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attend = L.Dense(1)

    def call(self, x):
        weights = ops.transpose(ops.softmax(self.attend(x), axis=1), (0, 2, 1))
        return ops.squeeze(ops.matmul(weights, x), 1)
