"""Batch normalization."""

import tensorflow as tf

from keras_quant.backend.arrays import constant
from keras_quant.backend.gradient import custom_gradient


def batch_normalize(x, gamma, beta, mean, variance, momentum, epsilon, unit=None):
    """Batch normalization by the batch's own statistics in one fused operation.

    Args:
        x: float32 tensor `(batch, height, width, channels)`.
        gamma, beta: float32 `(channels,)`.
        mean, variance: the moving statistics, `(channels,)`.
        momentum, epsilon: floats, as in `keras.layers.BatchNormalization`.
        unit: 1 that the result is divided by, see `times_unit`, or `None`. With `v` the gradient of the result `y`,
            `⟨v, y⟩ = ⟨∂L/∂γ, γ⟩ + ⟨∂L/∂β, β⟩`, so that it costs no pass over `y`.

    Returns:
        Normalized `x`, and what the moving statistics become: of the mean and the (biased, as in Keras) variance.
    """
    moved = []
    # The operation averages with the unbiased variance, n / (n - 1) times the biased one that Keras keeps. That of a single
    # value is 0, which no ratio changes, as long as the ratio is not 0.
    bias = constant(1.0) - constant(x.shape[-1] * 0.999999) / tf.cast(tf.size(x), tf.float32)

    @custom_gradient
    def forward(x, gamma, beta, *_unit):
        y, *statistics = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=gamma,
            offset=beta,
            mean=mean,
            variance=variance / bias,
            epsilon=epsilon,
            exponential_avg_factor=1.0 - momentum,
            is_training=True,
        )
        moved.extend([statistics[0], statistics[1] * bias])
        spaces = {f"reserve_space_{i}": space for i, space in enumerate(statistics[2:], 1)}

        def backward(upstream):
            of_x, of_gamma, of_beta, *_ = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=upstream, x=x, scale=gamma, epsilon=epsilon, is_training=True, **spaces
            )
            if unit is None:
                return of_x, of_gamma, of_beta
            return of_x, of_gamma, of_beta, -tf.reduce_sum(of_gamma * gamma + of_beta * beta)

        return y, backward

    y = forward(x, gamma, beta) if unit is None else forward(x, gamma, beta, unit)
    return y, *moved
