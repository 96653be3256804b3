"""Random weights that a network in use could have: signals neither fade nor explode, and outputs depend on the input.

Layer by layer, on real inputs (after "All you need is a good init", https://arxiv.org/abs/1511.06422, and "Weight
Normalization", https://arxiv.org/abs/1602.07868, section 3): kernels are scaled so that their outputs vary by one, biases
centre these, batch statistics are those of the input, gains and shifts vary as training leaves them.
"""

import functools

import keras
import numpy as np
from keras.src.applications.convnext import LayerScale

L = keras.layers
# Mean and spread of the shifts, in standard deviations of what they shift. Where half of the units are shut, a deep random
# network is chaotic: a change of the input by 1 % alters every output, which no trained network does.
OPEN, SPREAD = 1.0, 0.3


def settle(model, x, seed=0):
    """Set every weight of a Functional model on a batch of inputs.

    Args:
        model: `keras.Model`, made with fresh weights.
        x: batch of inputs.
        seed: of the gains and shifts.

    Returns:
        `model`.
    """
    rng = np.random.default_rng(seed)

    def visit(operation):
        if isinstance(operation, keras.Model):
            inner = getattr(operation, "_functional", None) or operation
            return lambda x, **_: inner._run_through_graph(x, operation_fn=visit)

        def call(*args, **kwargs):
            set_weights(operation, args[0], rng)
            return operation(*args, **kwargs)

        return call

    visit(model)(keras.ops.convert_to_tensor(x))
    return model


@functools.singledispatch
def set_weights(layer, x, rng):
    """Set the weights of one layer, given its input; most layers have none."""


@set_weights.register(L.Conv2D)
@set_weights.register(L.DepthwiseConv2D)
@set_weights.register(L.SeparableConv2D)
@set_weights.register(L.Conv2DTranspose)
@set_weights.register(L.Dense)
def _(layer, x, rng):
    """The kernel is scaled so that what it makes varies by one in the mean over the channels; the bias centres it."""
    if hasattr(layer, "depthwise_initializer"):
        _raise_centre(layer.depthwise_kernel if isinstance(layer, L.SeparableConv2D) else layer.kernel, rng)
    if layer.use_bias:
        layer.bias.assign(np.zeros(layer.bias.shape))
    mean, deviation = _statistics(_linear(layer, x))
    spread = max(float(np.sqrt(np.mean(deviation**2))), 1e-6)
    kernel = layer.pointwise_kernel if isinstance(layer, L.SeparableConv2D) else layer.kernel
    kernel.assign(kernel / spread)
    if layer.use_bias:
        layer.bias.assign(_shift(rng, mean.shape) - mean / spread)


@set_weights.register(L.BatchNormalization)
def _(layer, x, rng):
    mean, deviation = _statistics(x)
    layer.moving_mean.assign(mean)
    layer.moving_variance.assign(deviation**2)
    _gain_and_shift(layer, rng)


@set_weights.register(L.LayerNormalization)
def _(layer, x, rng):
    _gain_and_shift(layer, rng)


@set_weights.register(LayerScale)
def _(layer, x, rng):
    layer.gamma.assign(rng.uniform(0.1, 0.5, layer.gamma.shape))


def _raise_centre(kernel, rng):
    """Depthwise kernels resemble their input, by the tap in the middle; on small inputs no other meets more than padding."""
    values = np.array(kernel)
    height, width, *channels = values.shape
    values /= max(values.std(), 1e-6)
    values[height // 2, width // 2] += 3 * rng.choice([1, 1, 1, -1], channels)
    kernel.assign(values)


def _linear(layer, x):
    """What the kernel makes, before the layer's own activation."""
    activation, layer.activation = layer.activation, keras.activations.linear
    try:
        return layer(x)
    finally:
        layer.activation = activation


def _statistics(x):
    """Mean and standard deviation of each channel."""
    flat = np.asarray(x, "float64").reshape(-1, x.shape[-1])
    return flat.mean(0), flat.std(0)


def _gain_and_shift(layer, rng):
    if layer.gamma is not None:
        layer.gamma.assign(rng.uniform(0.7, 1.3, layer.gamma.shape))
    if layer.beta is not None:
        layer.beta.assign(_shift(rng, layer.beta.shape))


def _shift(rng, shape):
    return rng.normal(OPEN, SPREAD, shape)
