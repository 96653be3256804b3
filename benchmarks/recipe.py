"""The fine-tuning that keras_quant and its peer both get: two epochs of flips and small shifts, the rate falling to zero.

Milder pictures than the shifts by four black pixels that the network was trained on: its batch statistics then end closer to
those of the test images.
"""

EPOCHS, BATCH, RATE, SHIFT = 2, 128, 1e-4, 2


def batches(x, y, seed=0):
    """Shuffled, flipped and shifted batches, as a `tf.data.Dataset`."""
    import tensorflow as tf

    def augment(image, label):
        image = tf.image.random_flip_left_right(tf.cast(image, tf.float32), seed=seed)
        padded = tf.pad(image, [[SHIFT, SHIFT], [SHIFT, SHIFT], [0, 0]], mode="REFLECT")
        return tf.image.random_crop(padded, image.shape, seed=seed), label

    data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=seed)
    return data.map(augment).batch(BATCH, drop_remainder=True).prefetch(4)


def fine_tune(keras, model, x, y, seed=0, rate=RATE, from_logits=False, teacher=None):
    """Fit `model`; `keras` is the Keras it was made with, `from_logits` whether it ends without softmax.

    With a teacher, which takes `keras_quant`, half of the loss is the distance from what that says.
    """
    if teacher is not None:
        import keras_quant as kq

        model = kq.distill(model, teacher, loss="logits" if from_logits else "probabilities")
    keras.utils.set_random_seed(seed)
    steps = EPOCHS * (len(x) // BATCH)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
    falling = keras.optimizers.schedules.CosineDecay(rate, steps)
    model.compile(keras.optimizers.Adam(falling), loss, metrics=["accuracy"])
    model.fit(batches(x, y, seed), epochs=EPOCHS, verbose=2)
