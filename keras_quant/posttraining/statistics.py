"""Means and variances of what layers make, set right after rounding."""

import numpy as np
from keras import ops

from keras_quant.layers import QuantBatchNormalization
from keras_quant.posttraining.method import LayerMethod, register
from keras_quant.posttraining.walk import is_weighted
from keras_quant.quantizers.weight import on_grid


@register("bias_correction")
class BiasCorrection(LayerMethod):
    """The mean of each channel, which rounding shifts, is put back where it is in float.

    `b ← b + E[y] - E[ŷ]` before the activation, `ŷ` of the layer's integers on the inputs that it has in inference. The bias
    is the layer's own, or the offset of the batch normalization that it has.

    References:
        - [Data-Free Quantization Through Weight Equalization and Bias Correction](https://arxiv.org/abs/1906.04721),
          section 4.2 and appendix D
    """

    def change(self, place):
        norm = getattr(place.layer, "batch_norm", None)
        variable = place.layer.bias if norm is None else norm.beta
        if variable is None:
            return "the layer has no bias"
        wanted, made = (_moments(batches)[0] for batches in (place.targets, place.outputs()))
        variable.assign(ops.convert_to_numpy(variable) + np.float32(wanted - made).reshape(variable.shape))
        return ""


@register("batch_norm")
class BatchNormReestimation(LayerMethod):
    """Moving means and variances of batch normalizations become those of what the integers make of the data.

    Training with few bits leaves averages behind that belong to weights which are no more; rounding alone shifts them, too.

    References:
        - [Overcoming Oscillations in Quantization-Aware Training](https://arxiv.org/abs/2203.11086), section 4.1
    """

    def takes(self, layer):
        return isinstance(layer, QuantBatchNormalization) or getattr(layer, "batch_norm", None) is not None

    def change(self, place):
        layer, norm, batches = place.layer, place.layer, place.inputs
        if is_weighted(layer):
            norm, kernel = layer.batch_norm, on_grid(layer.kernel_quantizer, layer.kernel, layer.kernel_axes)
            batches = [layer.add_bias(layer.scaled_product(x, kernel)) for x in batches]
        mean, variance = _moments(batches)
        norm.moving_mean.assign(np.float32(mean))
        norm.moving_variance.assign(np.float32(variance))
        return ""


def _moments(batches):
    """Mean and variance of each channel, float64."""
    count = total = squares = 0
    for batch in batches:
        rows = np.float64(ops.convert_to_numpy(batch)).reshape(-1, batch.shape[-1])
        count, total, squares = count + len(rows), total + rows.sum(0), squares + (rows**2).sum(0)
    mean = total / count
    return mean, np.maximum(squares / count - mean**2, 0.0)
