"""Functions of TensorFlow as people call them in layers of their own, and layers in the manner of keras.io's examples."""

import keras
import numpy as np
import tensorflow as tf

L = keras.layers
RNG = np.random.default_rng(3)
KERNEL = RNG.normal(0, 0.3, (3, 3, 6, 4)).astype("float32")
VECTOR = RNG.normal(0, 1, 6).astype("float32")
PLACES = RNG.integers(0, 12, (1, 12, 5)).astype("int32")
POSITIVE = np.abs(VECTOR) + 0.5


def _batch(x):
    return tf.shape(x)[0]


def _rows(x):
    return tf.reshape(x, [_batch(x), -1, x.shape[-1]])


def _window(x, size):
    height, width, channels = x.shape[1:]
    x = tf.reshape(x, [_batch(x), height // size, size, width // size, size, channels])
    return tf.reshape(tf.transpose(x, [0, 1, 3, 2, 4, 5]), [_batch(x), -1, size * size * channels])


def _tanh_gelu(x):
    return 0.5 * x * (1.0 + tf.tanh(tf.sqrt(2 / np.pi) * (x + 0.044715 * tf.pow(x, 3))))


def _erf_gelu(x):
    return x * 0.5 * (1.0 + tf.math.erf(x / tf.sqrt(2.0)))


def _class_token(x):
    return tf.concat([tf.tile(tf.constant(VECTOR[None, None]), [_batch(x), 1, 1]), _rows(x)], axis=1)


def _attention(x):
    return tf.matmul(tf.nn.softmax(tf.matmul(x, x, transpose_b=True) / 2.0), x)


def _instance_norm(x):
    mean, variance = tf.nn.moments(x, axes=[1, 2], keepdims=True)
    return (x - mean) * tf.math.rsqrt(variance + 1e-3)


# What each does to a tensor of shape (batch, 12, 12, 6), in groups that make a model each.
FUNCTIONS = {
    "activations": {
        "relu": tf.nn.relu,
        "relu6": tf.nn.relu6,
        "leaky_relu": lambda x: tf.nn.leaky_relu(x, 0.1),
        "elu": tf.nn.elu,
        "selu": tf.nn.selu,
        "gelu": tf.nn.gelu,
        "gelu_approximate": lambda x: tf.nn.gelu(x, approximate=True),
        "silu": tf.nn.silu,
        "sigmoid": tf.sigmoid,
        "tanh": tf.tanh,
        "softmax": tf.nn.softmax,
        "softmax_of_another_axis": lambda x: tf.nn.softmax(x, axis=1),
    },
    "spelled_out": {
        "tanh_gelu": _tanh_gelu,
        "erf_gelu": _erf_gelu,
        "swish": lambda x: x * tf.sigmoid(x),
        "mish": lambda x: x * tf.tanh(tf.math.softplus(x)),
        "hard_swish": lambda x: x * tf.nn.relu6(x + 3.0) / 6.0,
        "instance_norm": _instance_norm,
        "attention": _attention,
        "l2_normalize": lambda x: tf.math.l2_normalize(x, axis=-1),
        "quick_gelu": lambda x: x * tf.sigmoid(1.702 * x),
    },
    "curves": {
        "softplus": tf.math.softplus,
        "softsign": tf.nn.softsign,
        "exp": lambda x: tf.exp(-tf.abs(x)),
        "log": lambda x: tf.math.log(tf.abs(x) + 1.0),
        "log1p": lambda x: tf.math.log1p(tf.abs(x)),
        "expm1": tf.math.expm1,
        "sqrt": lambda x: tf.sqrt(tf.abs(x)),
        "rsqrt": lambda x: tf.math.rsqrt(tf.square(x) + 1.0),
        "sin": tf.sin,
        "cos": tf.cos,
        "erf": tf.math.erf,
        "erfc": tf.math.erfc,
        "pow": lambda x: tf.pow(tf.abs(x) + 0.1, 1.5),
        "reciprocal": lambda x: tf.math.reciprocal(tf.abs(x) + 1.0),
    },
    "arithmetic": {
        "add": lambda x: tf.add(x, 1.0),
        "subtract": lambda x: 1.0 - x,
        "multiply": lambda x: tf.multiply(x, VECTOR),
        "divide": lambda x: x / 3.0,
        "divide_no_nan": lambda x: tf.math.divide_no_nan(x, 3.0),
        "add_n": lambda x: tf.add_n([x, tf.nn.relu(x), x]),
        "negative": tf.negative,
        "maximum": lambda x: tf.maximum(x, 0.1),
        "minimum": lambda x: tf.minimum(x, tf.nn.relu(x)),
        "clip_by_value": lambda x: tf.clip_by_value(x, -1.0, 1.0),
        "squared_difference": lambda x: tf.math.squared_difference(x, tf.nn.relu(x)),
        "bias_add": lambda x: tf.nn.bias_add(x, VECTOR),
        "ones_like": lambda x: x + tf.ones_like(x),
        "broadcast_to": lambda x: x + tf.broadcast_to(tf.range(6.0), tf.shape(x)),
        "a_grid_of_coordinates": lambda x: x + tf.reshape(tf.meshgrid(tf.range(12.0), tf.range(12.0))[0], [1, 12, 12, 1]),
    },
    "shapes": {
        "reshape": lambda x: tf.reshape(x, [-1, 36, 24]),
        "reshape_by_shape": _rows,
        "transpose": lambda x: tf.transpose(x, [0, 2, 1, 3]),
        "expand_dims": lambda x: tf.expand_dims(x, 1),
        "squeeze": lambda x: tf.squeeze(x[:, :1], axis=1),
        "concat": lambda x: tf.concat([x, tf.nn.relu(x)], -1),
        "stack": lambda x: tf.stack([x, tf.nn.relu(x)], axis=1),
        "unstack": lambda x: tf.add(*tf.unstack(x, axis=1)[:2]),
        "split": lambda x: tf.concat(tf.split(x, 3, axis=-1)[::-1], -1),
        "split_by_sizes": lambda x: tf.split(x, [1, 2, -1], axis=-1)[1],
        "slice": lambda x: tf.slice(x, [0, 1, 1, 0], [-1, 4, 5, 6]),
        "index": lambda x: x[..., 0],
        "index_with_new_axis": lambda x: x[:, 1:-1, ::2, None],
        "reshape_twice": lambda x: tf.reshape(_rows(x), tf.shape(x)),
        "window": lambda x: _window(x, 4),
    },
    "moves": {
        "gather": lambda x: tf.gather(x, [0, 2, 4], axis=-1),
        "gather_of_each": lambda x: tf.gather(x, tf.tile(PLACES, [_batch(x), 1, 1]), axis=2, batch_dims=2),
        "reverse": lambda x: tf.reverse(x, axis=[1]),
        "roll": lambda x: tf.roll(x, [1, -2], [1, 2]),
        "pad": lambda x: tf.pad(x, [[0, 0], [1, 1], [2, 2], [0, 0]]),
        "pad_reflect": lambda x: tf.pad(x, [[0, 0], [1, 1], [2, 2], [0, 0]], "REFLECT"),
        "tile": lambda x: tf.tile(x, [1, 2, 1, 1]),
        "repeat": lambda x: tf.repeat(x, 2, axis=1),
        "depth_to_space": lambda x: tf.nn.depth_to_space(x[..., :4], 2),
        "space_to_depth": lambda x: tf.nn.space_to_depth(x, 2),
        "extract_patches": lambda x: tf.image.extract_patches(x, [1, 4, 4, 1], [1, 4, 4, 1], [1, 1, 1, 1], "VALID"),
        "class_token": _class_token,
        "zeros_for_each_sample": lambda x: tf.concat([tf.zeros([_batch(x), 1, 6]), _rows(x)], axis=1),
        "repeated_for_each_sample": lambda x: tf.concat(
            [tf.repeat(tf.constant(VECTOR[None, None]), _batch(x), axis=0), _rows(x)], axis=1
        ),
    },
    "reductions": {
        "reduce_mean": lambda x: tf.reduce_mean(x, axis=[1, 2], keepdims=True),
        "reduce_sum": lambda x: tf.reduce_sum(x, axis=-1),
        "reduce_max": lambda x: tf.reduce_max(x, axis=[1, 2]),
        "reduce_min": lambda x: tf.reduce_min(x, axis=1),
        "reduce_std": lambda x: tf.math.reduce_std(x, axis=1),
        "reduce_variance": lambda x: tf.math.reduce_variance(x, axis=-1),
        "moments": lambda x: tf.nn.moments(x, [1, 2])[0],
        "norm": lambda x: tf.norm(x, axis=-1),
        "fft": lambda x: tf.math.imag(tf.signal.fft(tf.complex(x, tf.nn.relu(x)))),
        "fft2d": lambda x: tf.math.real(tf.signal.fft2d(tf.cast(x, tf.complex64))),
        "rfft": lambda x: tf.math.real(tf.signal.rfft(x)),
        "avg_pool": lambda x: tf.nn.avg_pool2d(x, 2, 2, "VALID"),
        "max_pool": lambda x: tf.nn.max_pool2d(x, 3, 2, "SAME"),
        "resize": lambda x: tf.image.resize(x, (24, 24)),
        "resize_between_corners": lambda x: tf.compat.v1.image.resize(x, (20, 7), align_corners=True),
        "resize_nearest": lambda x: tf.image.resize(x, (24, 24), method="nearest"),
    },
    "weighted": {
        "conv2d": lambda x: tf.nn.conv2d(x, KERNEL, 1, "SAME"),
        "conv2d_strided": lambda x: tf.nn.conv2d(x, KERNEL, 2, "VALID"),
        "conv2d_dilated": lambda x: tf.nn.conv2d(x, KERNEL, 1, "SAME", dilations=2),
        "conv2d_explicit": lambda x: tf.nn.conv2d(x, KERNEL, 2, [[0, 0], [1, 1], [1, 1], [0, 0]]),
        "depthwise_conv2d": lambda x: tf.nn.depthwise_conv2d(x, KERNEL[..., :1], [1, 1, 1, 1], "SAME"),
        "depthwise_dilated": lambda x: tf.nn.depthwise_conv2d(x, KERNEL[..., :1], [1] * 4, "SAME", dilations=(2, 2)),
        "depthwise_dilated_valid": lambda x: tf.nn.depthwise_conv2d(x, KERNEL[..., :1], [1] * 4, "VALID", dilations=(2, 2)),
        "separable_conv2d": lambda x: tf.nn.separable_conv2d(x, KERNEL[..., :1], KERNEL[:1, :1], [1] * 4, "SAME"),
        "conv2d_transpose": lambda x: tf.nn.conv2d_transpose(
            x, KERNEL.transpose(0, 1, 3, 2), [_batch(x), 24, 24, 4], 2, "SAME"
        ),
        "conv1d": lambda x: tf.nn.conv1d(x[:, 0], KERNEL[0], 1, "SAME"),
        "matmul": lambda x: tf.matmul(x, KERNEL[0, 0]),
        "matmul_transposed": lambda x: tf.matmul(x, KERNEL[0, 0].T, transpose_b=True),
        "tensordot": lambda x: tf.tensordot(x, KERNEL[0, 0], [[3], [0]]),
        "einsum": lambda x: tf.einsum("bhwc,cd->bhwd", x, KERNEL[0, 0]),
        "einsum_of_tensors": lambda x: tf.einsum("bhqc,bhkc->bhqk", x, x),
        "batch_normalization": lambda x: tf.nn.batch_normalization(x, VECTOR, POSITIVE, VECTOR, POSITIVE, 1e-3),
        "fused_batch_norm": lambda x: tf.compat.v1.nn.fused_batch_norm(
            x, POSITIVE, VECTOR, VECTOR, POSITIVE, is_training=False
        )[0],
    },
}
# Read as well, whatever has a quantized form of it.
READ_ONLY = {
    "where": lambda x: tf.where(x > 0, x, 0.1 * x),
    "logic": lambda x: tf.cast(tf.logical_and(x > 0, x <= 1) | tf.logical_not(x >= -1.0), "float32"),
    "equal": lambda x: tf.cast(tf.equal(tf.round(x), 1.0), "float32"),
    "argmax": lambda x: tf.argmax(x, axis=-1),
    "argmin": lambda x: tf.argmin(x, axis=1, output_type=tf.int32),
    "one_hot": lambda x: tf.one_hot(tf.argmax(x, axis=-1), 6),
    "top_k": lambda x: tf.math.top_k(x, 2)[0],
    "cumsum": lambda x: tf.cumsum(x, axis=1),
    "cumsum_reverse": lambda x: tf.cumsum(x, axis=1, reverse=True),
    "log_softmax": tf.nn.log_softmax,
    "embedding_lookup": lambda x: tf.nn.embedding_lookup(KERNEL[0, 0], tf.argmax(x, axis=-1)),
    "pad_constant": lambda x: tf.pad(x, [[0, 0], [1, 1], [0, 0], [0, 0]], constant_values=2.0),
    "floor": lambda x: tf.floor(x) + tf.math.ceil(x) + tf.sign(x),
    "floormod": lambda x: tf.math.floormod(tf.abs(x), 2.0),
    "prod": lambda x: tf.reduce_prod(x, axis=1),
    "any": lambda x: tf.cast(tf.reduce_any(x > 1, axis=-1), "float32"),
    "shape_as_numbers": lambda x: x * tf.cast(tf.shape(x)[1] * tf.size(x[0]) // tf.rank(x), "float32"),
    "matvec": lambda x: tf.linalg.matvec(x, VECTOR),
    "triangle": lambda x: x * tf.linalg.band_part(tf.ones((12, 12)), -1, 0)[None, :, :, None],
    "sequence_mask": lambda x: x * tf.sequence_mask([5], 12, dtype="float32")[:, :, None, None],
}


class Patches(L.Layer):
    """Vision transformer: an image as a sequence of its patches."""

    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.size = size

    def call(self, images):
        batch_size = tf.shape(images)[0]
        sizes = [1, self.size, self.size, 1]
        patches = tf.image.extract_patches(images, sizes=sizes, strides=sizes, rates=[1, 1, 1, 1], padding="VALID")
        return tf.reshape(patches, [batch_size, -1, patches.shape[-1]])


class PatchEncoder(L.Layer):
    """Patches, projected, with a vector for each place added."""

    def __init__(self, count, units, **kwargs):
        super().__init__(**kwargs)
        self.count = count
        self.projection, self.position_embedding = L.Dense(units), L.Embedding(count, units)

    def call(self, patch):
        positions = tf.range(start=0, limit=self.count, delta=1)
        return self.projection(patch) + self.position_embedding(positions)


class SelfAttention(L.Layer):
    """Text transformer: attention of several heads, spelled out."""

    def __init__(self, units, heads, **kwargs):
        super().__init__(**kwargs)
        self.units, self.heads = units, heads
        self.query, self.key, self.value, self.combine = (
            L.Dense(units, name=n) for n in ("query", "key", "value", "combine")
        )
        self.dropout = L.Dropout(0.1)

    def separate(self, x, batch_size):
        x = tf.reshape(x, (batch_size, -1, self.heads, self.units // self.heads))
        return tf.transpose(x, perm=[0, 2, 1, 3])

    def call(self, inputs, training=False):
        batch_size = tf.shape(inputs)[0]
        query, key, value = (self.separate(d(inputs), batch_size) for d in (self.query, self.key, self.value))
        score = tf.matmul(query, key, transpose_b=True)
        weights = tf.nn.softmax(score / tf.math.sqrt(tf.cast(tf.shape(key)[-1], tf.float32)), axis=-1)
        attention = tf.transpose(tf.matmul(weights, value), perm=[0, 2, 1, 3])
        output = self.combine(tf.reshape(attention, (batch_size, -1, self.units)))
        return self.dropout(output, training=training)


class SqueezeExcite(L.Layer):
    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        self.down, self.up = L.Dense(channels // 2, "relu", name="down"), L.Dense(channels, "sigmoid", name="up")

    def call(self, x):
        return x * self.up(self.down(tf.reduce_mean(x, axis=[1, 2], keepdims=True)))


class InstanceNormalization(L.Layer):
    """CycleGAN's."""

    def build(self, input_shape):
        self.scale = self.add_weight(name="scale", shape=input_shape[-1:], initializer="ones")
        self.offset = self.add_weight(name="offset", shape=input_shape[-1:], initializer="zeros")

    def call(self, x):
        mean, variance = tf.nn.moments(x, axes=[1, 2], keepdims=True)
        return self.scale * (x - mean) * tf.math.rsqrt(variance + 1e-3) + self.offset


class DenseBlock(L.Layer):
    """Layers of several kinds inside one another."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.conv, self.norm = L.Conv2D(filters, 3, padding="same", use_bias=False, name="conv"), L.BatchNormalization()
        self.excite = SqueezeExcite(filters, name="excite")

    def call(self, x, training=None):
        y = tf.nn.relu(self.norm(self.conv(x), training=training))
        return tf.concat([x, self.excite(y)], axis=-1)


class Classifier(keras.Model):
    """A subclassed model with a whole model inside."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.block = DenseBlock(6, name="block")
        self.features = keras.Sequential(
            [L.Conv2D(8, 3, strides=2, name="conv"), L.BatchNormalization(), L.ReLU()], name="features"
        )
        self.head = L.Dense(3, name="head")

    def call(self, x, training=False):
        x = self.features(self.block(x, training=training), training=training)
        return self.head(tf.reduce_mean(x, axis=[1, 2]))


class SubPixel(L.Layer):
    """Super resolution."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.conv = L.Conv2D(filters * 4, 3, padding="same")

    def call(self, x):
        return tf.nn.depth_to_space(self.conv(x), 2)


class RandomFourier(L.Layer):
    def build(self, input_shape):
        self.kernel = self.add_weight(name="kernel", shape=(input_shape[-1], 16), initializer="normal", trainable=False)
        self.bias = self.add_weight(name="bias", shape=(16,), initializer="ones", trainable=False)

    def call(self, x):
        return tf.cos(tf.matmul(x, self.kernel) + self.bias)


class Project(L.Layer):
    """Weights of its own; the kernel lies as it was loaded."""

    def __init__(self, units, lies="straight", **kwargs):
        super().__init__(**kwargs)
        self.units, self.lies = units, lies

    def build(self, input_shape):
        shape = (input_shape[-1], self.units)
        shape = shape[::-1] if self.lies == "across" else shape
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer="glorot_uniform")
        self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="ones")

    def call(self, x):
        return tf.nn.relu(tf.matmul(x, self.kernel, transpose_b=self.lies == "across") + self.bias)


class ClassToken(L.Layer):
    def build(self, input_shape):
        _, count, units = input_shape
        self.token = self.add_weight(name="token", shape=(1, 1, units), initializer="glorot_uniform")
        self.places = self.add_weight(name="places", shape=(1, count + 1, units), initializer="glorot_uniform")

    def call(self, x):
        token = tf.broadcast_to(self.token, [tf.shape(x)[0], 1, x.shape[-1]])
        return tf.concat([token, x], axis=1) + self.places


class OfNoKerasVariables(L.Layer):
    """A matrix and a table that are a `tf.Variable` each, which Keras does not train."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        rng = np.random.default_rng(4)
        self.matrix = tf.Variable(rng.normal(0, 0.3, (6, 16)).astype("float32"))
        self.table = tf.Variable(rng.normal(0, 1, (20, 6)).astype("float32"))

    def call(self, x):
        places = tf.gather(self.table, tf.range(x.shape[1]))
        chosen = tf.gather(self.table, tf.argmax(x, -1))
        return tf.matmul(x, self.matrix[::-1], transpose_b=True) + places * tf.cast(self.table.shape[0], x.dtype) + chosen


class ChannelAttention(L.Layer):
    """ECA-Net's."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = L.Conv1D(1, 3, padding="same", use_bias=False, name="conv")

    def call(self, x):
        y = self.conv(tf.expand_dims(tf.reduce_mean(x, [1, 2]), -1))
        return x * tf.expand_dims(tf.nn.sigmoid(tf.transpose(y, [0, 2, 1])), 1)


class RectifiedDense(L.Dense):
    """More than the Keras layer that it derives from."""

    def call(self, x):
        return tf.nn.relu(super().call(x))


class Compiled(L.Layer):
    """`call` is a `tf.function`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = L.Dense(6, name="dense")

    def build(self, input_shape):
        # Before TensorFlow traces `call`, which keeps what it finds then.
        self.dense.build(input_shape)

    @tf.function
    def call(self, x):
        return tf.nn.relu(self.dense(x)) + x
