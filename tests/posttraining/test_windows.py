"""Rows that are sampled from a layer's output are what the layer makes at these places."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_quant as kq
from keras_quant.posttraining import windows
from tests.helpers import images

Q = kq.layers
IMAGE, SEQUENCE = (11, 9, 4), (13, 4)
LAYERS = {
    "conv": (Q.QuantConv2D(5, 3), IMAGE),
    "same": (Q.QuantConv2D(5, (3, 2), padding="same", strides=(2, 1)), IMAGE),
    "even and strided": (Q.QuantConv2D(5, 4, padding="same", strides=3), IMAGE),
    "dilated": (Q.QuantConv2D(5, 3, padding="same", dilation_rate=2), IMAGE),
    "groups": (Q.QuantConv2D(6, 3, groups=2, padding="same"), IMAGE),
    "normalized": (Q.QuantConv2D(5, 3, use_bias=False, batch_norm=keras.layers.BatchNormalization()), IMAGE),
    "scaled input": (Q.QuantConv2D(5, 3, input_scale=0.25), IMAGE),
    "depthwise": (Q.QuantDepthwiseConv2D(3, padding="same", strides=2, depth_multiplier=2), IMAGE),
    "transposed": (Q.QuantConv2DTranspose(3, 2, strides=2), IMAGE),
    "sequence": (Q.QuantConv1D(5, 3, padding="same", strides=2), SEQUENCE),
    "causal": (Q.QuantConv1D(5, 3, padding="causal", dilation_rate=2), SEQUENCE),
    "depthwise of a sequence": (Q.QuantDepthwiseConv1D(3, padding="same"), SEQUENCE),
    "dense": (Q.QuantDense(5), (7,)),
    "dense on rows": (Q.QuantDense(5, batch_norm=keras.layers.BatchNormalization()), SEQUENCE),
    "dynamic dense": (Q.DynamicDense(5), SEQUENCE),
    "dynamic conv": (Q.DynamicConv2D(6, 3, groups=2, padding="same"), IMAGE),
    "dynamic and causal": (Q.DynamicConv1D(5, 3, padding="causal", dilation_rate=2), SEQUENCE),
    "dynamic and transposed": (Q.DynamicConv2DTranspose(3, 2, strides=2), IMAGE),
    "dynamic volume": (Q.DynamicConv3D(5, 2, padding="same", strides=(1, 2, 1)), (5, 6, 4, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_rows_are_what_the_layer_makes_there(name):
    template, shape = LAYERS[name]
    layer = template.from_config(template.get_config())
    batches = [ops.convert_to_tensor(images(n, shape, seed=n)) for n in (3, 5)]
    layer.build((None, *shape))
    rng = np.random.default_rng(0)
    for variable in layer.weights:
        if "kernel" in variable.path:
            variable.assign(rng.normal(size=variable.shape))
        elif "bias" in variable.path or "beta" in variable.path or "moving_mean" in variable.path:
            variable.assign(rng.normal(size=variable.shape))
    targets = [layer.linear_call(x, layer.kernel) for x in batches]
    sample = windows.sample(layer, batches, targets, 40, seed=1)
    assert len(sample.inputs) == len(sample.targets) > 4
    made = np.asarray(sample.call(ops.convert_to_tensor(sample.inputs), layer.kernel))
    assert made.shape == sample.targets.shape
    np.testing.assert_allclose(made, sample.targets, rtol=1e-4, atol=1e-4)


def test_places_are_spread_over_batches_and_differ_by_seed():
    layer = Q.QuantConv2D(2, 1)
    layer.build((None, 4, 4, 4))
    batches = [ops.full((2, 4, 4, 4), float(n)) for n in range(8)]
    targets = [layer.linear_call(x, layer.kernel) for x in batches]
    first, again, other = (windows.sample(layer, batches, targets, 64, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.inputs, again.inputs)
    assert not np.array_equal(first.inputs, other.inputs)
    assert set(np.unique(first.inputs)) == set(range(8))
