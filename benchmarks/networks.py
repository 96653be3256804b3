"""The networks and data that the benchmarks share."""

import pathlib

import keras
import numpy as np

DATA = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
L = keras.layers


def need(path):
    """The path, or an exit that says what is missing."""
    if not path.exists():
        raise SystemExit(f"{path} is not there; pass the folder that holds it with --data.")
    return path


def cifar10(part, folder=DATA):
    """CIFAR-10 as arrays: images `(n, 32, 32, 3)` of uint8 and labels `(n,)`; `part` is "train" or "test"."""
    import tensorflow as tf

    features = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}

    def parse(record):
        example = tf.io.parse_single_example(record, features)
        return tf.io.decode_jpeg(example["image"]), example["label"]

    records = tf.data.TFRecordDataset(str(need(folder / f"cifar10_jpeg_{part}.tfrecord"))).map(parse).batch(5000)
    images, labels = zip(*((x.numpy(), y.numpy()) for x, y in records))
    return np.concatenate(images), np.concatenate(labels)


def sentences(words, tokens, folder=DATA):
    """Polarity of sentences: ids of tokens and labels, to train on and to test on.

    Args:
        words: how many words have an id.
        tokens: length of a sentence, cut or filled up with zeros.
        folder: with the data.
    """
    lines = need(folder / "sentence_polarity.tsv").read_text(encoding="utf-8").splitlines()
    labels, texts = zip(*(line.split("\t", 1) for line in lines))
    vectorize, test = L.TextVectorization(words, output_sequence_length=tokens), 1066
    vectorize.adapt(list(texts[:-test]))
    ids, labels = np.asarray(vectorize(list(texts)), "int32"), np.int32(labels)
    return (ids[:-test], labels[:-test]), (ids[-test:], labels[-test:])


def spoken_digits(folder=DATA, floor=1e-3):
    """Spoken digits as logarithms of Mel spectra: a second of 61 frames in 40 bands.

    Args:
        folder: with the data.
        floor: power that silence has.

    Returns:
        Dict of arrays: `x` `(n, 61, 40)`, between about -1 and 4, each recording at the begin of its second; `room`, the
        frames of silence behind it; `label`; `take`, whose lowest five are the test set.
    """
    with np.load(need(folder / "spoken_digits_8khz.npz")) as file:
        samples, ends, label, take = (file[name] for name in ("samples", "ends", "label", "take"))
    second, frame, hop, bands = 8000, 256, 128, 40
    sound, room = np.zeros((len(ends), second), "float32"), np.zeros(len(ends), "int32")
    for index, recording in enumerate(np.split(samples, ends[:-1])):
        recording = recording[:second] / 32768
        sound[index, : len(recording)], room[index] = recording, (second - len(recording)) // hop
    frames = np.lib.stride_tricks.sliding_window_view(sound, frame, 1)[:, ::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(frame).astype("float32"))) ** 2
    mel = L.MelSpectrogram(frame, hop, sampling_rate=second, num_mel_bins=bands)
    weights = np.asarray(mel.linear_to_mel_weight_matrix(bands, frame // 2 + 1, second, 60, second // 2))
    x = np.log(power.astype("float32") @ weights + floor)
    return {"x": (x + 4) / 3, "room": room, "label": label.astype("int32"), "take": take}


def resnet8(folder=DATA):
    return keras.models.load_model(need(folder / "resnet8_cifar10.keras"))


def mobilenet_v2(size=224, alpha=1.0):
    return _sane(keras.applications.MobileNetV2(input_shape=(size, size, 3), alpha=alpha, weights=None))


def resnet50():
    return _sane(keras.applications.ResNet50(weights=None))


def unet(size=128):
    """A U-Net with transposed convolutions and one bilinear upsampling."""

    def block(x, filters):
        for _ in range(2):
            x = L.Conv2D(filters, 3, padding="same", use_bias=False)(x)
            x = L.ReLU()(L.BatchNormalization()(x))
        return x

    x = inputs = keras.Input((size, size, 3))
    skips = []
    for filters in (16, 32, 64):
        x = block(x, filters)
        skips.append(x)
        x = L.MaxPooling2D()(x)
    x = block(x, 128)
    for filters in (64, 32, 16):
        if filters == 32:
            x = L.UpSampling2D(2, interpolation="bilinear")(x)
        else:
            x = L.Conv2DTranspose(filters, 2, strides=2, padding="same")(x)
        x = block(L.Concatenate()([x, skips.pop()]), filters)
    return _sane(keras.Model(inputs, L.Conv2D(4, 1)(x), name="unet"))


@keras.saving.register_keras_serializable(package="benchmarks")
class Positions(keras.layers.Layer):
    """A trained vector for each place of a sequence, added."""

    def build(self, input_shape):
        self.vectors = self.add_weight(name="vectors", shape=input_shape[1:], initializer="random_normal")

    def call(self, inputs):
        return inputs + self.vectors


def vision_transformer(size=32, patch=4, units=64, heads=4, blocks=4, classes=10):
    """Keras's example of one, small; its input is pixels from 0 to 255."""
    x = inputs = keras.Input((size, size, 3))
    x = keras.ops.image.extract_patches(L.Rescaling(1 / 127.5, -1)(x), patch)
    x = Positions()(L.Dense(units)(L.Reshape(((size // patch) ** 2, 3 * patch**2))(x)))
    for _ in range(blocks):
        y = L.LayerNormalization(epsilon=1e-6)(x)
        x = x + L.MultiHeadAttention(heads, units // heads)(y, y)
        y = L.LayerNormalization(epsilon=1e-6)(x)
        x = x + L.Dense(units)(L.Dense(2 * units, activation="gelu")(y))
    x = L.GlobalAveragePooling1D()(L.LayerNormalization(epsilon=1e-6)(x))
    return keras.Model(inputs, L.Dense(classes)(x), name="vision_transformer")


def chain(length):
    """Convolutions one after the other, normalized so that a long chain neither fades nor explodes."""
    x = inputs = keras.Input((16, 16, 8))
    for _ in range(length):
        x = L.Conv2D(8, 3, padding="same", use_bias=False)(x)
        x = L.ReLU()(L.BatchNormalization()(x))
    return _sane(keras.Model(inputs, x, name=f"chain_{length}"))


def images(model, count, seed=1):
    """Smooth random images in [-1, 1] of the size that the model takes."""
    height, width, channels = model.input_shape[1:]
    coarse = np.random.default_rng(seed).standard_normal((count, 8, 8, channels))
    smooth = np.asarray(keras.ops.image.resize(coarse.astype("float32"), (height, width), interpolation="bicubic"))
    return np.clip(smooth / 2, -1, 1).astype("float32")


def _sane(model, seed=0):
    """Random weights with the gains and batch statistics of a network in use: every layer's output near unit variance."""
    rng = np.random.default_rng(seed)
    norms = [layer for layer in model.layers if isinstance(layer, L.BatchNormalization)]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.gamma.assign(rng.uniform(0.7, 1.3, layer.gamma.shape))
        layer.beta.assign(rng.normal(0, 0.2, layer.beta.shape))
        layer.momentum = 0.0
    model(images(model, 16, seed), training=True)
    for layer, momentum in zip(norms, momenta):
        layer.momentum = momentum
    return model


NETWORKS = {"MobileNetV2": mobilenet_v2, "ResNet50": resnet50, "U-Net": unet}
