"""Channels between two layers, scaled so that the grid between them and the second's weights lose little."""

import numpy as np
from keras import ops

from keras_quant import layers
from keras_quant.errors import QuantizationError
from keras_quant.graph.loops import everywhere, inner_graph
from keras_quant.layers.conv import QuantTransposedConvolution
from keras_quant.layers.dropout import QuantIdentityInInference
from keras_quant.layers.pooling import QuantMaxPooling
from keras_quant.layers.weighted import QuantWeighted
from keras_quant.posttraining import windows
from keras_quant.posttraining.method import Change, Method, register
from keras_quant.posttraining.walk import is_weighted, walk
from keras_quant.quantizers import Distribution, ranges
from keras_quant.quantizers.weight import on_grid

# What a positive factor of each channel passes through.
PASSES = (QuantMaxPooling, layers.QuantZeroPadding2D, layers.QuantZeroPadding3D, QuantIdentityInInference)
# Channels that are never used, and inputs that hardly count, need no larger factor.
LARGEST_RATIO = 64.0


@register("equalization")
class CrossLayerEqualization(Method):
    """Scales each channel between two layers by `1/s` in the first and by `s` in the second, which changes nothing in float.

    `s = aᵖ / r¹⁻ᵖ` of each channel, where `a` is the largest value that it has on the data and `r` its largest weight in the
    second layer: from `p = 1`, where all channels of the tensor between reach equally far, to `p = 0`, where all columns of
    the kernel do. Of several `p`, and no change, that is taken with which the second layer's output loses least. A ReLU lets
    factors through; one with an upper bound those that bring no channel above it. The model's ranges are calibrated anew.

    Pairs are two layers with kernels, the first's output read by the second only, with nothing between but maximum
    pooling, padding and dropout. Layers that are called more than once are left alone.

    Args:
        strengths: the `p` that are tried.
        places: how many places of the second layer's output are looked at.
        seed: of their choice.

    References:
        - [Data-Free Quantization Through Weight Equalization and Bias Correction](https://arxiv.org/abs/1906.04721), for the
          factors between layers
        - [SmoothQuant](https://arxiv.org/abs/2211.10438), for activations in the balance and the strength `p`
    """

    keeps_function = True

    def __init__(self, strengths=(0.0, 0.25, 0.5, 0.75, 1.0), places=4096, seed=0):
        if not strengths or not all(0 <= strength <= 1 for strength in strengths):
            raise QuantizationError(f"`strengths` lie between 0 and 1. Received: strengths={strengths!r}")
        self.strengths, self.places, self.seed = tuple(strengths), places, seed

    def apply(self, task):
        graphs = [task.graph, *filter(None, (inner_graph(place.node) for place in everywhere(task.graph)))]
        found = {id(second.operation): first.operation for graph in graphs for first, second in pairs(graph)}
        changes = {}

        def visit(place):
            if id(place.layer) in found:
                changes[place.path] = self._equalize(found[id(place.layer)], place)
                task.progress(place.path)

        walk(task.graph, task.batches, task.reference, visit, exact=False)
        task.calibrate()
        return changes

    def _equalize(self, first, place):
        second = place.layer
        norm = first.batch_norm
        if norm is not None and not norm.scale:
            return Change(0.0, 0.0, f"the normalization before it, '{norm.name}', has no gamma")
        reach = np.max([ops.convert_to_numpy(ops.max(ops.abs(x), range(len(x.shape) - 1))) for x in place.inputs], axis=0)
        sample = windows.sample(second, place.inputs, place.targets, self.places, self.seed)
        bound = first.bounds[1]
        trials = [np.ones_like(reach)] + [_factors(reach, _largest_weights(second), p, bound) for p in self.strengths]
        losses = [_noise(first.output_quantizer, second, sample, factors) for factors in trials]
        best = int(np.argmin(losses))
        if best:
            divide_outputs(first, trials[best])
            multiply_inputs(second, trials[best])
        return Change(losses[0], losses[best], "" if best else "no factors are better")

    def get_config(self):
        return {"strengths": self.strengths, "places": self.places, "seed": self.seed}


def pairs(graph):
    """The pairs of nodes between which factors can go."""
    consumers, calls = graph.consumers(), graph.calls()
    only = lambda node: calls[id(node.operation)] == 1 and _takes_factors(node.operation)
    for first in graph.nodes:
        if not only(first) or first.operation.bounds[0] not in (None, 0.0):
            continue
        if first.operation.bounds == (None, None) and first.operation.output_quantizer.bounds != (None, None):
            continue
        reader = first
        while reader is not None and (reader is first or isinstance(reader.operation, PASSES)):
            readers = consumers[reader.output]
            reader = readers[0] if len(readers) == 1 else None
        if reader is not None and only(reader) and reader is not first and _splits(reader.operation):
            yield first, reader


def _takes_factors(layer):
    return isinstance(layer, QuantWeighted) and is_weighted(layer)


def _splits(layer):
    """Whether each input channel has a slice of the kernel."""
    return getattr(layer, "groups", 1) == 1 or _is_depthwise(layer)


def _is_depthwise(layer):
    return hasattr(layer, "depthwise_initializer")


def _input_axis(layer):
    rank = len(layer.kernel.shape)
    return rank - 1 if isinstance(layer, QuantTransposedConvolution) else rank - 2


def _largest_weights(layer):
    """The largest weight of each input channel; 1 where each has scales of its own."""
    kernel, axis = np.abs(ops.convert_to_numpy(layer.kernel)), _input_axis(layer)
    if _is_depthwise(layer):
        return np.ones(kernel.shape[axis])
    return kernel.max(tuple(other for other in range(kernel.ndim) if other != axis))


def _factors(reach, weights, strength, bound):
    """`s` of each channel; those of channels without anything to scale are in the middle."""
    reach, weights = (np.maximum(np.float64(v), 1e-6 * max(v.max(), 1e-30)) for v in (reach, weights))
    factors = reach**strength / weights ** (1.0 - strength)
    middle = np.exp(np.mean(np.log(factors)))
    factors = np.clip(factors / middle, 1.0 / LARGEST_RATIO, LARGEST_RATIO)
    if bound is None:
        return factors
    return np.clip(factors / factors.max(), np.minimum(reach / bound, 1.0), 1.0)


def _noise(quantizer, layer, sample, factors):
    """What the second layer's output loses, with its input and kernel on grids."""
    grid = type(quantizer).from_config(quantizer.get_config())
    grid.bounds = quantizer.bounds
    inputs, seen = np.float32(sample.inputs / factors), Distribution()
    seen.add(inputs.ravel(), float(inputs.min()), float(inputs.max()))
    grid.set_range(*ranges.get("mse").range_of(seen.within(*grid.bounds), grid))
    axis, axes = _input_axis(layer), layer.kernel_axes
    shape = [-1 if other == axis else 1 for other in range(len(layer.kernel.shape))]
    kernel = np.float32(ops.convert_to_numpy(layer.kernel) * factors.reshape(shape))
    own = type(layer.kernel_quantizer).from_config(layer.kernel_quantizer.get_config())
    own.create(kernel.shape, axes)
    own.fit_to(kernel, axes)
    rounded = on_grid(own, ops.convert_to_tensor(kernel), axes)
    made = layer.activate(sample.call(grid.fake_quant(ops.convert_to_tensor(inputs)), rounded))
    wanted = layer.activate(ops.convert_to_tensor(sample.targets))
    return float(ops.sum((made - wanted) ** 2) / ops.maximum(ops.sum(wanted**2), 1e-30))


def divide_outputs(layer, factors):
    """Let each output channel of a layer be smaller by a factor."""
    norm = layer.batch_norm
    if norm is not None:
        scaled = [norm.gamma, *([norm.beta] if norm.center else [])]
    else:
        layer.kernel.assign(ops.convert_to_numpy(layer.kernel) / factors.reshape(layer.channel_shape()))
        layer.kernel_quantizer.reset()
        scaled = [layer.bias] if layer.bias is not None else []
    for variable in scaled:
        variable.assign(ops.convert_to_numpy(variable) / factors)


def multiply_inputs(layer, factors):
    """Let each input channel of a layer count for more by a factor."""
    axis = _input_axis(layer)
    shape = [-1 if other == axis else 1 for other in range(len(layer.kernel.shape))]
    layer.kernel.assign(ops.convert_to_numpy(layer.kernel) * factors.reshape(shape))
    layer.kernel_quantizer.reset()
