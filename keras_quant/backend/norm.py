"""Batch normalization."""

import tensorflow as tf


def batch_normalize(x, gamma, beta, epsilon):
    """Batch normalization by the batch's own statistics in one fused operation.

    Args:
        x: float32 tensor `(batch, height, width, channels)`.
        gamma, beta: float32 `(channels,)`.
        epsilon: float.

    Returns:
        Normalized `x`, batch mean and (biased, as in Keras) batch variance, both `(channels,)`.
    """
    # The operation reports the unbiased variance, n / (n - 1) times the biased one that Keras keeps.
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=gamma, offset=beta, mean=[], variance=[], epsilon=epsilon, is_training=True
    )
    return y, mean, variance * (1.0 - x.shape[-1] / tf.cast(tf.size(x), tf.float32))
