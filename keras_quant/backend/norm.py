"""Batch normalization."""

import tensorflow as tf

from keras_quant.backend.gradient import custom_gradient


def batch_normalize(x, gamma, beta, epsilon, unit=None):
    """Batch normalization by the batch's own statistics in one fused operation.

    Args:
        x: float32 tensor `(batch, height, width, channels)`.
        gamma, beta: float32 `(channels,)`.
        epsilon: float.
        unit: 1 that the result is divided by, see `times_unit`, or `None`. With `v` the gradient of the result `y`,
            `⟨v, y⟩ = ⟨∂L/∂γ, γ⟩ + ⟨∂L/∂β, β⟩`, so that it costs no pass over `y`.

    Returns:
        Normalized `x`, batch mean and (biased, as in Keras) batch variance, both `(channels,)` and without gradient.
    """
    statistics = []

    @custom_gradient
    def forward(x, gamma, beta, *_unit):
        y, mean, variance, *reserved = tf.raw_ops.FusedBatchNormV3(
            x=x, scale=gamma, offset=beta, mean=[], variance=[], epsilon=epsilon, is_training=True
        )
        statistics.extend([mean, variance])
        spaces = {f"reserve_space_{i}": space for i, space in enumerate(reserved, 1)}

        def backward(upstream):
            of_x, of_gamma, of_beta, *_ = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=upstream, x=x, scale=gamma, epsilon=epsilon, is_training=True, **spaces
            )
            if unit is None:
                return of_x, of_gamma, of_beta
            return of_x, of_gamma, of_beta, -tf.reduce_sum(of_gamma * gamma + of_beta * beta)

        return y, backward

    y = forward(x, gamma, beta) if unit is None else forward(x, gamma, beta, unit)
    mean, variance = statistics
    # The operation reports the unbiased variance, n / (n - 1) times the biased one that Keras keeps.
    return y, mean, variance * (1.0 - x.shape[-1] / tf.cast(tf.size(x), tf.float32))
