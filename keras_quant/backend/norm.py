"""Normalizations by the statistics of a batch, and of each sample."""

import math

import tensorflow as tf

from keras_quant.backend.arrays import constant, shape_with
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


def standardize(x, axes, epsilon, center, statistic, scale, offset):
    """`(x - mean) / √(variance + epsilon) · scale + offset`, with a gradient that takes few passes and keeps two tensors.

    With `x̂` what is scaled, `u` the gradient of it and `r` what takes the statistic, that of `x` is
    `(u - mean(u) - x̂·r(u·x̂)) / √(variance + epsilon)`, without the first mean where none is subtracted.

    Args:
        x: float32 tensor.
        axes: integers, those that the statistics are taken over.
        epsilon: float.
        center: whether to subtract the mean.
        statistic: "mean" or "sum", of the squares.
        scale, offset: float32, of the rank of `x`, 1 where they do not vary and along the batch; or `None`.
    """
    reduce = tf.reduce_sum if statistic == "sum" else tf.reduce_mean
    given = [w for w in (scale, offset) if w is not None]

    @custom_gradient
    def forward(x, *_weights):
        centered = x - tf.reduce_mean(x, axes, keepdims=True) if center else x
        inverse = tf.math.rsqrt(reduce(tf.square(centered), axes, keepdims=True) + epsilon)
        standard = centered * inverse
        y = standard if scale is None else standard * scale
        y = tf.identity(y) if offset is None else y + offset

        def backward(upstream):
            along = upstream * standard
            of_weights = [_sum_like(g, w) for g, w in ((along, scale), (upstream, offset)) if w is not None]
            means = [] if not center else [_of_scaled(tf.reduce_mean, upstream, scale, axes)]
            slope = _of_scaled(reduce, along, scale, axes)
            inner = upstream if scale is None else upstream * scale
            for mean in means:
                inner = inner - mean
            return (inner - standard * slope) * inverse, *of_weights

        return y, backward

    return forward(x, *given)


def _of_scaled(reduce, x, scale, axes):
    """`reduce(x * scale, axes, keepdims=True)`; of the last axis alone a product of matrices, which makes no tensor."""
    if scale is None or list(axes) != [len(x.shape) - 1] or math.prod(scale.shape) != x.shape[-1]:
        return reduce(x if scale is None else x * scale, axes, keepdims=True)
    share = 1.0 if reduce is tf.reduce_sum else 1.0 / x.shape[-1]
    rows = tf.reshape(x, (-1, x.shape[-1]))
    return tf.reshape(tf.linalg.matmul(rows, tf.reshape(scale * share, (-1, 1))), shape_with(x, 1))


def _sum_like(x, weight):
    """The sum of `x` over the axes that `weight` has one value along."""
    if math.prod(weight.shape) == weight.shape[-1]:
        return tf.reshape(tf.raw_ops.BiasAddGrad(out_backprop=x), weight.shape)
    axes = [axis for axis, size in enumerate(weight.shape) if size == 1]
    return tf.reduce_sum(x, axes, keepdims=True)
