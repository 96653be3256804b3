"""Quantized standardization: by integer kernels, or by float32 operators whose results are exact."""

import math

import keras
from keras import ops

from keras_quant import backend, integer
from keras_quant.layers.add import QuantSubtract
from keras_quant.layers.base import QuantComposite, QuantLayer
from keras_quant.layers.multiply import QuantMultiply, QuantSquare
from keras_quant.layers.reduce import QuantMean, QuantSum
from keras_quant.layers.table import QuantTable


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantStandardize(QuantComposite, keras.layers.Layer):
    """`(x - mean) / √(variance + epsilon)` over some axes, the batch not among them, by integer kernels.

    No int8 kernel does it. It is taken apart into MEAN, SUB and MUL on XNNPACK and one table of 1/√v on the small tensor of
    variances.

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

    @property
    def output_quantizer(self):
        return self.last_part.output_quantizer

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

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        own = {"axis": self.axis, "epsilon": self.epsilon, "center": self.center, "statistic": self.statistic}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantExactStandardize(QuantLayer, keras.layers.Layer):
    """`(x - mean) / √(variance + epsilon) · scale + offset`, by float32 operators whose results are exact.

    DEQUANTIZE, sums of integers, and ADD, SUB, MUL and DIV of single values, all on XNNPACK; the output is rounded once, by
    QUANTIZE. The formula is `integer.standardize`.

    Args:
        axis: integers, the batch not among them: those that a mean is taken over.
        epsilon: float.
        center: whether to subtract the mean.
        statistic: "mean" or "sum": what is taken of the squares.
        groups: into how many groups the channels of the last axis fall, each with all axes but the batch for a mean of its
            own; then `axis` is that which scale and offset vary along. `None` for none.
        use_scale, use_offset: whether there is a trainable scale, an offset, along `axis`.
        scale_initializer, offset_initializer: see `keras.initializers.get`.
        output_quantizer: name, config or object, see `quantizers.get`.
    """

    def __init__(
        self,
        axis,
        epsilon=1e-3,
        center=True,
        statistic="mean",
        groups=None,
        use_scale=False,
        use_offset=False,
        scale_initializer="ones",
        offset_initializer="zeros",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.axis, self.epsilon, self.center, self.statistic = axis, epsilon, center, statistic
        self.groups, self.use_scale, self.use_offset = groups, use_scale, use_offset
        self.scale_initializer = keras.initializers.get(scale_initializer)
        self.offset_initializer = keras.initializers.get(offset_initializer)

    def build(self, input_shape):
        rank = len(input_shape)
        varied = sorted(axis % rank for axis in self.axis)
        shape = [input_shape[axis] for axis in varied]
        add = lambda name, initializer: self.add_weight(name=name, shape=shape, initializer=initializer)
        self.scale = add("scale", self.scale_initializer) if self.use_scale else None
        self.offset = add("offset", self.offset_initializer) if self.use_offset else None
        if self.groups is None:
            self.whole, self.axes = tuple(input_shape[1:]), varied
            self.along = [size if axis in varied else 1 for axis, size in enumerate(input_shape)][1:]
        else:
            each = input_shape[-1] // self.groups
            self.whole, self.axes = (math.prod(input_shape[1:-1]), self.groups, each), [1, 3]
            self.along = [1, self.groups, each]
        super().build(input_shape)

    def own_axes(self):
        """The axes of `whole`.

        Returns:
            Lists of their sizes, of whether each is summed over, and of the place of each among them.
        """
        rank = len(self.whole)
        return list(self.whole), [axis in self.axes for axis in range(1, rank + 1)], list(range(rank))

    def joined_axes(self):
        """As `own_axes`, with neighbours as one that are all summed over, or none of them, and vary alike.

        Scale and offset vary along all of a joined axis, or not at all.
        """
        sizes, kinds, places = [], [], []
        for size, summed, along in zip(*self.own_axes()[:2], self.along):
            kind = summed, along > 1
            # An axis of one value at the end would take SUM a hundred times as long.
            if kinds and (kind == kinds[-1] or size == 1):
                sizes[-1] *= size
            else:
                sizes, kinds = [*sizes, size], [*kinds, kind]
            places.append(len(sizes) - 1)
        return sizes, [summed for summed, _ in kinds], places

    @property
    def sums_are_exact(self):
        """Whether float32 holds the sums that it takes."""
        return integer.sums_are_exact(*self.joined_axes()[:2])

    def gain_and_shift(self):
        """Scale and offset as they are laid along `whole`, the shape without batch that means are taken in; or `None`."""
        return [None if w is None else ops.reshape(w, [1, *self.along]) for w in (self.scale, self.offset)]

    def _taken_apart(self, x):
        return x if self.groups is None else ops.reshape(x, (-1, *self.whole))

    def _put_together(self, y, like):
        return y if self.groups is None else ops.reshape(y, (-1, *like.shape[1:]))

    def float_call(self, inputs):
        x, (scale, offset) = self._taken_apart(inputs), self.gain_and_shift()
        if self.center:
            x = x - ops.mean(x, self.axes, keepdims=True)
        reduce = ops.sum if self.statistic == "sum" else ops.mean
        inverse = ops.rsqrt(reduce(ops.square(x), self.axes, keepdims=True) + self.epsilon)
        y = x * inverse if scale is None else x * inverse * scale
        return self._put_together(y if offset is None else y + offset, inputs)

    def train_arithmetic(self, inputs):
        settings = self.axes, self.epsilon, self.center, self.statistic
        x = self._taken_apart(inputs)
        return self._put_together(backend.standardize(x, *settings, *self.gain_and_shift()), inputs)

    def integer_call(self, x, y):
        apart = integer.Quantized(self._taken_apart(x.integers), x.params)
        settings = self.axes, self.epsilon, self.center, self.statistic
        return self._put_together(integer.standardize(apart, y, *settings, *self.gain_and_shift()), x.integers)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        own = ("axis", "epsilon", "center", "statistic", "groups", "use_scale", "use_offset")
        initializers = ("scale_initializer", "offset_initializer")
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in own},
            **{name: keras.initializers.serialize(getattr(self, name)) for name in initializers},
        }
