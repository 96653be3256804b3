"""Normalizations by statistics of the input itself: layer, group, root mean square, unit.

No int8 kernel does any of them. They are taken apart into MEAN, SUB and MUL on XNNPACK and one table of 1/√v on the small
tensor of variances.
"""

import math

import keras

from keras_quant.errors import UnsupportedLayerError
from keras_quant.layers.add import QuantSubtract
from keras_quant.layers.affine import QuantScaleShift
from keras_quant.layers.base import QuantComposite
from keras_quant.layers.constant import QuantAddConstant, QuantMultiplyConstant
from keras_quant.layers.multiply import QuantMultiply, QuantSquare
from keras_quant.layers.reduce import QuantMean, QuantSum
from keras_quant.layers.registry import quantizes
from keras_quant.layers.reshape import QuantReshape
from keras_quant.layers.table import QuantTable

# Scale first, as the Keras layers have their weights.
_AFFINE_WEIGHTS = ("scale", "offset", "constant")


class _SameShape(QuantComposite):
    def compute_output_shape(self, input_shape):
        return input_shape

    @property
    def output_quantizer(self):
        return self.last_part.output_quantizer


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantStandardize(_SameShape, keras.layers.Layer):
    """`(x - mean) / √(variance + epsilon)` over some axes, the batch not among them.

    Args:
        axis: integers.
        epsilon: float.
        center: whether to subtract the mean.
        statistic: "mean" or "sum": what is taken of the squares.
    """

    def __init__(self, axis, epsilon=1e-3, center=True, statistic="mean", **kwargs):
        super().__init__(**kwargs)
        self.axis, self.epsilon, self.center, self.statistic = axis, epsilon, center, statistic
        reduction = QuantSum if statistic == "sum" else QuantMean
        self.mean = QuantMean(axis, keepdims=True, name=f"{self.name}_mean") if center else None
        self.centered = QuantSubtract(name=f"{self.name}_centered") if center else None
        self.square = QuantSquare(name=f"{self.name}_square")
        self.variance = reduction(axis, keepdims=True, name=f"{self.name}_variance")
        self.inverse = QuantTable("rsqrt", offset=epsilon, name=f"{self.name}_rsqrt")
        self.last_part_ = QuantMultiply(name=f"{self.name}_normalized")

    @property
    def last_part(self):
        return self.last_part_

    def build_parts(self, input_shape):
        self.variance.build(input_shape)
        small = self.variance.compute_output_shape(input_shape)
        if self.center:
            self.mean.build(input_shape)
            self.centered.build([input_shape, small])
        self.square.build(input_shape)
        self.inverse.build(small)
        self.last_part.build([input_shape, small])

    def compose(self, inputs, training=None):
        if self.center:
            inputs = self.centered([inputs, self.mean(inputs, training=training)], training=training)
        variance = self.variance(self.square(inputs, training=training), training=training)
        return self.last_part([inputs, self.inverse(variance, training=training)], training=training)

    def get_config(self):
        own = {"axis": self.axis, "epsilon": self.epsilon, "center": self.center, "statistic": self.statistic}
        return {**super().get_config(), **own}


class _Affine(_SameShape):
    """Mixin: a standardization, then a trainable scale and offset, where the float layer has them."""

    # Whether the float layer has a scale, an offset.
    has_scale_and_offset = (False, False)

    def axes(self, rank):
        """The axes that statistics are taken over, and along which scale and offset vary."""
        axes = self.axis if isinstance(self.axis, (list, tuple)) else [self.axis]
        return sorted(axis % rank for axis in axes)

    def standardization(self, axes, **arguments):
        """The `QuantStandardize` over these axes."""
        return QuantStandardize(axes, self.epsilon, name=f"{self.name}_standardize", **arguments)

    def build_standardization(self, input_shape):
        self.standardize = self.standardization(self.axes(len(input_shape)))
        self.standardize.build(input_shape)

    def build_parts(self, input_shape):
        self.build_standardization(input_shape)
        self.affine = self._affine_layers(input_shape)
        for layer in self.affine:
            layer.build(input_shape)

    def _affine_layers(self, input_shape):
        rank, (scale, offset) = len(input_shape), self.has_scale_and_offset
        if not (scale or offset):
            return []
        axes = self.axes(rank)
        if axes == [rank - 1]:
            return [QuantScaleShift(scale, offset, name=f"{self.name}_affine")]
        shape = [size if axis in axes else 1 for axis, size in enumerate(input_shape)]
        gain = QuantMultiplyConstant(shape, name=f"{self.name}_scale")
        gain.constant.assign(keras.ops.ones(shape))
        return ([gain] if scale else []) + ([QuantAddConstant(shape, name=f"{self.name}_offset")] if offset else [])

    @property
    def last_part(self):
        return (self.affine or [self.standardize.last_part])[-1]

    def standardized(self, inputs, training=None):
        return self.standardize(inputs, training=training)

    def compose(self, inputs, training=None):
        outputs = self.standardized(inputs, training)
        for layer in self.affine:
            outputs = layer(outputs, training=training)
        return outputs

    def copy_weights(self, layer):
        """Take scale and offset of the float layer."""
        own = [weight for part in self.affine for weight in part.weights if weight.name in _AFFINE_WEIGHTS]
        for weight, value in zip(own, layer.weights):
            weight.assign(keras.ops.reshape(value, weight.shape))


@quantizes(keras.layers.LayerNormalization)
class QuantLayerNormalization(_Affine, keras.layers.LayerNormalization):
    """`keras.layers.LayerNormalization` on int8. Args: those of `keras.layers.LayerNormalization`, but `rms_scaling`."""

    def build_standardization(self, input_shape):
        if getattr(self, "rms_scaling", False):
            raise UnsupportedLayerError(
                f"Layer '{self.name}' has `rms_scaling`, which divides by the deviation and keeps the mean. "
                "Use `keras.layers.RMSNormalization`."
            )
        super().build_standardization(input_shape)

    @property
    def has_scale_and_offset(self):
        return self.scale, self.center


@quantizes(keras.layers.GroupNormalization)
class QuantGroupNormalization(_Affine, keras.layers.GroupNormalization):
    """`keras.layers.GroupNormalization` over the last axis on int8. Args: those of `keras.layers.GroupNormalization`."""

    def build_standardization(self, input_shape):
        if self.axes(len(input_shape)) != [len(input_shape) - 1]:
            raise UnsupportedLayerError(
                f"Layer '{self.name}' has its groups along axis {self.axis}; on int8 they lie along the last. Use `axis=-1`."
            )
        channels = input_shape[-1]
        groups = channels if self.groups == -1 else self.groups
        grouped = (math.prod(input_shape[1:-1]), groups, channels // groups)
        self.split = QuantReshape(grouped, name=f"{self.name}_split")
        self.join = QuantReshape(input_shape[1:], name=f"{self.name}_join")
        self.standardize = self.standardization([1, 3])
        self.split.build(input_shape)
        self.standardize.build((None, *grouped))
        self.join.build((None, *grouped))

    def standardized(self, inputs, training=None):
        outputs = self.standardize(self.split(inputs, training=training), training=training)
        return self.join(outputs, training=training)

    @property
    def has_scale_and_offset(self):
        return self.scale, self.center


# From Keras 3.9 on.
_RMSNormalization = getattr(keras.layers, "RMSNormalization", None)


@quantizes(*filter(None, [_RMSNormalization]))
class QuantRMSNormalization(_Affine, _RMSNormalization or keras.layers.Layer):
    """`keras.layers.RMSNormalization` on int8. Args: those of `keras.layers.RMSNormalization`."""

    has_scale_and_offset = (True, False)

    def standardization(self, axes):
        return super().standardization(axes, center=False)


@quantizes(keras.layers.UnitNormalization)
class QuantUnitNormalization(_Affine, keras.layers.UnitNormalization):
    """`keras.layers.UnitNormalization` on int8. Args: those of `keras.layers.UnitNormalization`."""

    epsilon = 1e-12

    def standardization(self, axes):
        return super().standardization(axes, center=False, statistic="sum")
