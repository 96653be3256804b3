"""Normalizations by statistics of the input itself: layer, group, root mean square, unit.

Each is one operation of float32 operators whose results are exact, or where the policy wants integers only a standardization
and an affine layer of integer kernels.
"""

import math

import keras

from keras_quant.errors import UnsupportedLayerError
from keras_quant.layers.affine import QuantScaleShift
from keras_quant.layers.base import QuantComposite
from keras_quant.layers.constant import QuantAddConstant, QuantMultiplyConstant
from keras_quant.layers.registry import quantizes
from keras_quant.layers.reshape import QuantReshape
from keras_quant.layers.standardize import QuantExactStandardize, QuantStandardize

# Scale first, as the Keras layers have their weights.
_AFFINE_WEIGHTS = ("scale", "offset", "constant")


class _Affine(QuantComposite):
    """Mixin: a standardization, then a trainable scale and offset, where the float layer has them."""

    # Whether the float layer has a scale, an offset.
    has_scale_and_offset = (False, False)
    # The arguments of `QuantStandardize` besides axes and epsilon.
    statistics = {}

    def axes(self, rank):
        """The axes that statistics are taken over, and along which scale and offset vary."""
        axes = self.axis if isinstance(self.axis, (list, tuple)) else [self.axis]
        return sorted(axis % rank for axis in axes)

    def groups_of(self, input_shape):
        """Into how many groups the channels fall, or `None`."""
        return None

    def build_parts(self, input_shape):
        self.affine = []
        if self.policy.integer_only:
            self._build_of_integers(input_shape)
            return
        scale, offset = self.has_scale_and_offset
        self.standardize = QuantExactStandardize(
            self.axes(len(input_shape)),
            self.epsilon,
            groups=self.groups_of(input_shape),
            use_scale=bool(scale),
            use_offset=bool(offset),
            policy=self.policy,
            name=f"{self.name}_normalized",
            **self.statistics,
        )
        self.standardize.build(input_shape)

    def _build_of_integers(self, input_shape):
        groups, axes, shape = self.groups_of(input_shape), self.axes(len(input_shape)), input_shape
        self.split = self.join = None
        if groups is not None:
            grouped = (math.prod(shape[1:-1]), groups, shape[-1] // groups)
            self.split = QuantReshape(grouped, name=f"{self.name}_split")
            self.join = QuantReshape(input_shape[1:], name=f"{self.name}_join")
            self.split.build(input_shape)
            axes, shape = [1, 3], (None, *grouped)
            self.join.build(shape)
        self.standardize = QuantStandardize(axes, self.epsilon, name=f"{self.name}_standardize", **self.statistics)
        self.standardize.build(shape)
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
        return self.affine[-1] if self.affine else self.standardize.last_part

    @property
    def output_quantizer(self):
        return self.last_part.output_quantizer

    def compose(self, inputs, training=None):
        parts = [self.standardize, *self.affine]
        if self.policy.integer_only and self.split is not None:
            parts = [self.split, self.standardize, self.join, *self.affine]
        for layer in parts:
            inputs = layer(inputs, training=training)
        return inputs

    def compute_output_shape(self, input_shape):
        return input_shape

    def copy_weights(self, layer):
        """Take scale and offset of the float layer."""
        parts = [self.standardize, *self.affine]
        own = [weight for part in parts for weight in part.weights if weight.name in _AFFINE_WEIGHTS]
        for weight, value in zip(own, layer.weights):
            weight.assign(keras.ops.reshape(value, weight.shape))


@quantizes(keras.layers.LayerNormalization)
class QuantLayerNormalization(_Affine, keras.layers.LayerNormalization):
    """`keras.layers.LayerNormalization` on int8. Args: those of `keras.layers.LayerNormalization`, but `rms_scaling`."""

    def build_parts(self, input_shape):
        if getattr(self, "rms_scaling", False):
            raise UnsupportedLayerError(
                f"Layer '{self.name}' has `rms_scaling`, which divides by the deviation and keeps the mean. "
                "Use `keras.layers.RMSNormalization`."
            )
        super().build_parts(input_shape)

    @property
    def has_scale_and_offset(self):
        return self.scale, self.center


@quantizes(keras.layers.GroupNormalization)
class QuantGroupNormalization(_Affine, keras.layers.GroupNormalization):
    """`keras.layers.GroupNormalization` over the last axis on int8. Args: those of `keras.layers.GroupNormalization`."""

    def build_parts(self, input_shape):
        if self.axes(len(input_shape)) != [len(input_shape) - 1]:
            raise UnsupportedLayerError(
                f"Layer '{self.name}' has its groups along axis {self.axis}; on int8 they lie along the last. Use `axis=-1`."
            )
        super().build_parts(input_shape)

    def groups_of(self, input_shape):
        return input_shape[-1] if self.groups == -1 else self.groups

    @property
    def has_scale_and_offset(self):
        return self.scale, self.center


# From Keras 3.9 on.
_RMSNormalization = getattr(keras.layers, "RMSNormalization", None)


@quantizes(*filter(None, [_RMSNormalization]))
class QuantRMSNormalization(_Affine, _RMSNormalization or keras.layers.Layer):
    """`keras.layers.RMSNormalization` on int8. Args: those of `keras.layers.RMSNormalization`."""

    has_scale_and_offset = (True, False)
    statistics = {"center": False}


@quantizes(keras.layers.UnitNormalization)
class QuantUnitNormalization(_Affine, keras.layers.UnitNormalization):
    """`keras.layers.UnitNormalization` on int8. Args: those of `keras.layers.UnitNormalization`."""

    epsilon = 1e-12
    statistics = {"center": False, "statistic": "sum"}
