"""The fine-tuning that keras_quant and its peer both get: two epochs, flips and shifts."""

EPOCHS, BATCH, RATE = 2, 64, 1e-5


def batches(x, y, seed=0):
    """Shuffled, flipped and shifted batches, as a `tf.data.Dataset`."""
    import tensorflow as tf

    def augment(images, labels):
        images = tf.image.random_flip_left_right(tf.cast(images, tf.float32), seed=seed)
        padded = tf.pad(images, [[0, 0], [4, 4], [4, 4], [0, 0]])
        return tf.image.random_crop(padded, tf.shape(images), seed=seed), labels

    data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=seed)
    return data.batch(BATCH, drop_remainder=True).map(augment).prefetch(4)


def fine_tune(keras, model, x, y, seed=0):
    """Fit `model`; `keras` is the Keras it was made with."""
    keras.utils.set_random_seed(seed)
    steps = EPOCHS * (len(x) // BATCH)
    rate = keras.optimizers.schedules.CosineDecay(RATE, steps)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(batches(x, y, seed), epochs=EPOCHS, verbose=2)
