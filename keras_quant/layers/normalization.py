"""Normalizations by statistics of the input itself: layer, group, root mean square, unit.

Each is one operation of float32 operators whose results are exact. Where the policy wants integers only, or float32 does not
hold the sums, it is a standardization and an affine layer of integer kernels.
"""

import math

import keras

from keras_quant.errors import UnsupportedLayerError
from keras_quant.layers.affine import QuantScaleShift
from keras_quant.layers.base import QuantComposite
from keras_quant.layers.constant import QuantAddConstant, QuantMultiplyConstant
from keras_quant.layers.registry import quantized_class, quantizes
from keras_quant.layers.reshape import QuantReshape
from keras_quant.layers.standardize import QuantExactStandardize, QuantStandardize
from keras_quant.policy import NARROW

# Scale first, as the Keras layers have their weights.
_AFFINE_WEIGHTS = ("scale", "offset", "constant")


class _OfShape(keras.regularizers.Regularizer, keras.constraints.Constraint):
    """A regularizer or constraint of a weight that the float layer has in another shape.

    Args:
        rule: of the float layer.
        shape: the weight's shape there.
    """

    def __init__(self, rule, shape):
        self.rule, self.shape = rule, shape

    def __call__(self, weight):
        result = self.rule(keras.ops.reshape(weight, self.shape))
        return keras.ops.reshape(result, weight.shape) if isinstance(self.rule, keras.constraints.Constraint) else result


def _regulate(weight, shape, regularizer, constraint):
    """Give a weight the rules of one of another shape."""
    if list(weight.shape) != shape:
        regularizer, constraint = (rule and _OfShape(rule, shape) for rule in (regularizer, constraint))
    weight.regularizer, weight.constraint = regularizer, constraint


class _Affine(QuantComposite):
    """Mixin: a standardization, then a trainable scale and offset, where the float layer has them."""

    # Whether the float layer has a scale, an offset.
    has_scale_and_offset = (False, False)
    # The arguments of `QuantStandardize` besides axes and epsilon.
    statistics = {}
    # What the float layer says of its weights.
    gamma_initializer, beta_initializer = keras.initializers.Ones(), keras.initializers.Zeros()
    gamma_regularizer = gamma_constraint = beta_regularizer = beta_constraint = None

    def axes(self, rank):
        """The axes that statistics are taken over, and along which scale and offset vary."""
        axes = self.axis if isinstance(self.axis, (list, tuple)) else [self.axis]
        return sorted(axis % rank for axis in axes)

    def groups_of(self, input_shape):
        """Into how many groups the channels fall, or `None`."""
        return None

    def build_parts(self, input_shape):
        self.affine, self.split, self.join = [], None, None
        exact = None if self.policy.integer_only else self._exact(input_shape)
        if exact is not None and exact.sums_are_exact:
            self.standardize = exact
        else:
            self._build_of_integers(input_shape)
        shape = [input_shape[axis] for axis in self.axes(len(input_shape))]
        for weight, role in zip(self._affine_weights(), self._affine_roles()):
            _regulate(weight, shape, getattr(self, f"{role}_regularizer"), getattr(self, f"{role}_constraint"))

    def _exact(self, input_shape):
        scale, offset = self.has_scale_and_offset
        layer = QuantExactStandardize(
            self.axes(len(input_shape)),
            self.epsilon,
            groups=self.groups_of(input_shape),
            use_scale=bool(scale),
            use_offset=bool(offset),
            scale_initializer=self.gamma_initializer,
            offset_initializer=self.beta_initializer,
            policy=self.policy,
            name=f"{self.name}_normalized",
            **self.statistics,
        )
        layer.build(input_shape)
        return layer

    def _build_of_integers(self, input_shape):
        groups, axes, shape = self.groups_of(input_shape), self.axes(len(input_shape)), input_shape
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
        axes, initializers = self.axes(rank), (self.gamma_initializer, self.beta_initializer)
        if axes == [rank - 1]:
            return [QuantScaleShift(scale, offset, *initializers, name=f"{self.name}_affine")]
        shape = [size if axis in axes else 1 for axis, size in enumerate(input_shape)]
        kinds = (QuantMultiplyConstant, "scale", scale), (QuantAddConstant, "offset", offset)
        return [
            kind(shape, constant_initializer=initializer, name=f"{self.name}_{part}")
            for (kind, part, has), initializer in zip(kinds, initializers)
            if has
        ]

    def _affine_weights(self):
        """Scale and offset, as far as there are."""
        parts = [self.standardize, *self.affine]
        return [weight for part in parts for weight in part.weights if weight.name in _AFFINE_WEIGHTS]

    def _affine_roles(self):
        """What the float layer calls them."""
        return [name for name, has in zip(("gamma", "beta"), self.has_scale_and_offset) if has]

    @property
    def last_part(self):
        return self.affine[-1] if self.affine else self.standardize.last_part

    @property
    def output_quantizer(self):
        return self.last_part.output_quantizer

    def compose(self, inputs, training=None):
        parts = [self.standardize, *self.affine]
        if self.split is not None:
            parts = [self.split, self.standardize, self.join, *self.affine]
        for layer in parts:
            inputs = layer(inputs, training=training)
        return inputs

    def compute_output_shape(self, input_shape):
        return input_shape

    def copy_weights(self, layer):
        """Take scale and offset of the float layer."""
        for weight, value in zip(self._affine_weights(), layer.weights):
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


def is_normalized_exactly(operation, policy):
    """Whether a float layer becomes a `QuantExactStandardize`, unless its means are over too many values.

    Args:
        operation: a Keras layer or operation.
        policy: `Policy` of it.
    """
    is_own = issubclass(quantized_class(operation) or object, _Affine)
    return is_own and policy.activations in NARROW and not policy.integer_only
