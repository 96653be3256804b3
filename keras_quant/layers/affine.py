"""Layers that scale and shift each channel: batch normalization on its own, Rescaling, Normalization.

All are lowered to a 1×1 DEPTHWISE_CONV_2D, one operator with int32 bias, where the usual MUL and ADD round twice.
"""

import keras
import numpy as np
from keras import ops

from keras_quant import integer
from keras_quant.errors import UnsupportedLayerError
from keras_quant.layers.base import FusedActivation, QuantLayer
from keras_quant.layers.functions import computes_activation
from keras_quant.layers.registry import computes, quantizes
from keras_quant.layers.weighted import gain_and_shift, normalize_in_training


class QuantAffine(FusedActivation, QuantLayer):
    """Mixin: `gain · x + shift` along the last axis. A subclass gives `gain_and_shift`, float64 `(channels,)` each."""

    def gain_and_shift(self):
        raise NotImplementedError

    def float_call(self, inputs):
        gain, shift = (ops.cast(v, "float32") for v in self.gain_and_shift())
        return self.activate(inputs * gain + shift)

    def folded_weights(self, x, y):
        """As `QuantWeighted.folded_weights`, of the depthwise kernel `(1, 1, channels, 1)` that the layer amounts to."""
        gain, shift = self.gain_and_shift()
        kernel = ops.ones((1, 1, gain.shape[0], 1))
        # One weight a channel: the integer 127 with the scale gain / 127.
        return integer.fold(kernel, ops.ones_like(gain) / 127.0, shift, gain, x, y, (-1, 1))

    def integer_call(self, x, y):
        shape = x.integers.shape
        image = ops.reshape(x.integers, (-1, 1, 1, shape[-1])) if len(shape) != 4 else x.integers
        x = integer.Quantized(image, x.params)
        integers = integer.depthwise_conv_2d(x, self.folded_weights(x.params, y), y, self.bounds)
        return integers if len(shape) == 4 else ops.reshape(integers, (-1, *shape[1:]))


@quantizes(keras.layers.BatchNormalization)
class QuantBatchNormalization(QuantAffine, keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` on int8, where it stands alone.

    After a layer with a kernel, give it to that layer instead (`batch_norm=`); `keras_quant.quantize` does.

    Args: those of `keras.layers.BatchNormalization`, `activation` (relu and relu6 are fused) and `output_quantizer`.
    """

    def build(self, input_shape):
        _check_last_axis(self.name, [self.axis], len(input_shape) - 1)
        super().build(input_shape)

    def gain_and_shift(self):
        return gain_and_shift(self)

    def train_arithmetic(self, inputs):
        return normalize_in_training(self, inputs)


@quantizes(keras.layers.Rescaling)
class QuantRescaling(QuantAffine, keras.layers.Layer):
    """`keras.layers.Rescaling` on int8: `scale · x + offset`.

    Args:
        scale, offset: float, or one a channel.
        activation: relu and relu6 are fused.
        output_quantizer: name, config or object, see `quantizers.get`.
    """

    def __init__(self, scale, offset=0.0, **kwargs):
        super().__init__(**kwargs)
        self.scale, self.offset = _plain(scale), _plain(offset)

    @classmethod
    def config_of(cls, layer):
        return {"name": layer.name, "scale": layer.scale, "offset": layer.offset}

    def build(self, input_shape):
        self._channels = input_shape[-1]
        super().build(input_shape)

    def gain_and_shift(self):
        return tuple(ops.cast(np.broadcast_to(v, (self._channels,)), "float64") for v in (self.scale, self.offset))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "scale": self.scale, "offset": self.offset}


@quantizes(keras.layers.Normalization)
class QuantNormalization(QuantAffine, keras.layers.Layer):
    """`keras.layers.Normalization` over the last axis on int8, with statistics that are given.

    Args:
        mean, variance: float, or one a channel.
        invert: whether to undo the normalization instead.
        activation: relu and relu6 are fused.
        output_quantizer: name, config or object, see `quantizers.get`.
    """

    def __init__(self, mean, variance, invert=False, **kwargs):
        super().__init__(**kwargs)
        self.mean, self.variance, self.invert = _plain(mean), _plain(variance), invert

    @classmethod
    def config_of(cls, layer):
        last = len(layer._build_input_shape) - 1
        _check_last_axis(layer.name, layer._keep_axis, last)
        mean, variance = (np.reshape(ops.convert_to_numpy(v), -1) for v in (layer.mean, layer.variance))
        return {"name": layer.name, "mean": mean, "variance": variance, "invert": layer.invert}

    def build(self, input_shape):
        self._channels = input_shape[-1]
        super().build(input_shape)

    def gain_and_shift(self):
        mean, variance = (np.broadcast_to(np.float64(v), (self._channels,)) for v in (self.mean, self.variance))
        deviation = np.maximum(np.sqrt(variance), keras.config.epsilon())
        pair = (deviation, mean) if self.invert else (1.0 / deviation, -mean / deviation)
        return tuple(ops.convert_to_tensor(v, "float64") for v in pair)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "mean": self.mean, "variance": self.variance, "invert": self.invert}


@computes_activation(keras.activations.hard_sigmoid)
@keras.saving.register_keras_serializable(package="keras_quant")
class QuantHardSigmoid(QuantAffine, keras.layers.Layer):
    """`relu6(x + 3) / 6` on int8: the output's grid ends at 0 and 1, so that its clamp is the function's.

    A kernel's own ReLU6 would need a grid up to 6, and a division after it.
    """

    fixed_grid = (1 / 255, -128)
    fuses_activation = False

    def build(self, input_shape):
        self._channels = input_shape[-1]
        super().build(input_shape)

    def gain_and_shift(self):
        return ops.full((self._channels,), 1 / 6, "float64"), ops.full((self._channels,), 0.5, "float64")

    def float_call(self, inputs):
        return keras.activations.hard_sigmoid(inputs)

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantScaleShift(QuantAffine, keras.layers.Layer):
    """`scale · x + offset` with one trainable value a channel: the end of a normalization, a layer scale.

    Args:
        use_scale, use_offset: whether there is a scale, an offset.
        scale_initializer, offset_initializer: see `keras.initializers.get`.
        activation: relu and relu6 are fused.
        output_quantizer: name, config or object, see `quantizers.get`.
    """

    def __init__(self, use_scale=True, use_offset=True, scale_initializer="ones", offset_initializer="zeros", **kwargs):
        super().__init__(**kwargs)
        self.use_scale, self.use_offset = use_scale, use_offset
        self.scale_initializer = keras.initializers.get(scale_initializer)
        self.offset_initializer = keras.initializers.get(offset_initializer)

    def build(self, input_shape):
        shape = (input_shape[-1],)
        add = lambda name, initializer: self.add_weight(name=name, shape=shape, initializer=initializer)
        self.scale = add("scale", self.scale_initializer) if self.use_scale else None
        self.offset = add("offset", self.offset_initializer) if self.use_offset else None
        self._channels = shape[0]
        super().build(input_shape)

    def gain_and_shift(self):
        values = (self.scale, ops.ones), (self.offset, ops.zeros)
        return tuple(make((self._channels,), "float64") if v is None else ops.cast(v, "float64") for v, make in values)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "use_scale": self.use_scale,
            "use_offset": self.use_offset,
            "scale_initializer": keras.initializers.serialize(self.scale_initializer),
            "offset_initializer": keras.initializers.serialize(self.offset_initializer),
        }


@computes("numpy.Negative")
def _negative(operation, args, **arguments):
    return QuantRescaling(-1.0, **arguments)


@computes("nn.HardSigmoid")
def _hard_sigmoid(operation, args, **arguments):
    return QuantHardSigmoid(**arguments)


def _plain(value):
    """A float or a list of floats, which a config can hold."""
    return np.asarray(value, "float64").tolist()


def _check_last_axis(name, axes, last):
    if any(axis not in (-1, last) for axis in axes):
        raise UnsupportedLayerError(
            f"Layer '{name}' normalizes along axis {tuple(axes)}; the int8 form has one scale per channel of the last axis. "
            "Use `axis=-1`."
        )
