"""What layers with a kernel share: per-channel weights, a batch normalization that folds into them."""

import math

import keras
from keras import ops

from keras_quant import backend, integer, quantizers
from keras_quant.errors import QuantizationError, UnsupportedLayerError
from keras_quant.layers.annotation import without_unit
from keras_quant.layers.base import QuantLayer
from keras_quant.quantizers import in_steps
from keras_quant.settings import FLOAT


class QuantWeighted(QuantLayer):
    """Mixin for layers that convolve or multiply by `self.kernel`.

    Training runs on fake-quantized weights and, with `batch_norm`, on the batch's own statistics; inference and export
    fold the normalization into scale and bias, which leaves every integer weight as training saw it (see `integer.fold`).

    A subclass gives `product` (the linear map without bias), `kernel_axes` and `channel_shape`.

    Args:
        kernel_quantizer: name, config or object, see `quantizers.get`; by default the policy's.
        batch_norm: a `keras.layers.BatchNormalization` over the last axis, applied between the product and the
            activation, or its config.
        input_scale: float that the inputs are multiplied by first, as `Rescaling(1 / 255)` does; it becomes part of the
            weights' scales and costs no operator.
    """

    fuses_activation = True
    # Axes of the kernel that one output channel spans.
    kernel_axes = (0, 1, 2)
    # Whether its kernel's scales may be by group of inputs.
    takes_groups = False

    def __init__(self, *args, kernel_quantizer=None, batch_norm=None, input_scale=1.0, **kwargs):
        super().__init__(*args, **kwargs)
        if kernel_quantizer is None:
            self.kernel_quantizer = self.policy.new_kernel_quantizer()
        else:
            self.kernel_quantizer = quantizers.get(kernel_quantizer, quantizers.KERNEL, self.policy.weight_bits)
        if isinstance(batch_norm, dict):
            batch_norm = keras.saving.deserialize_keras_object(batch_norm)
        if batch_norm is not None:
            batch_norm.dtype_policy = FLOAT
        self.batch_norm = batch_norm
        self.input_scale = input_scale

    def build(self, input_shape):
        super().build(input_shape)
        create_weight_ranges(self)
        if self.batch_norm is not None and not self.batch_norm.built:
            self.batch_norm.build(self.compute_output_shape(input_shape))

    def product(self, inputs, kernel):
        """The float product of the inputs and a kernel, without bias."""
        raise NotImplementedError

    def channel_shape(self):
        """Shape in which one value a channel broadcasts against the kernel."""
        return (-1,)

    def linear_call(self, inputs, kernel):
        """What the layer makes of its inputs with a kernel, before the activation: inference-mode normalization included."""
        return self.finish(self.scaled_product(inputs, kernel))

    def finish(self, outputs):
        """Bias and inference-mode normalization of what the product makes."""
        outputs = self.add_bias(outputs)
        return outputs if self.batch_norm is None else self.batch_norm(outputs, training=False)

    def float_call(self, inputs):
        return self.activate(self.linear_call(inputs, self.kernel))

    def train_arithmetic(self, inputs):
        outputs = self.train_product(inputs)
        return outputs if self.batch_norm is None else normalize_in_training(self.batch_norm, outputs)

    def train_product(self, inputs, per=None):
        """The product and the bias, of fake-quantized weights, divided by the output's unit `per`."""
        kernel, unit = self.kernel_quantizer.in_training(self.kernel, self.kernel_axes), None
        if self._has_fewer_weights(inputs.shape):
            inputs, unit = without_unit(inputs)
        kernel = backend.times_unit(kernel, unit, per)
        if self.bias is None:
            return self.scaled_product(inputs, kernel)
        return self.biased_product(inputs, kernel, backend.times_unit(backend.read(self.bias), per=per))

    def biased_product(self, inputs, kernel, bias):
        """`scaled_product` with a bias, in training."""
        return backend.add_bias(self.scaled_product(inputs, kernel), bias)

    def _train(self, inputs, quantizer):
        norm = self.batch_norm
        if quantizer.has_unit and quantizer.clamps(self.bounds):
            shape = self.compute_output_shape(inputs.shape)
            # The unit is divided by where its gradient costs no pass over the outputs.
            if norm is None and self._has_fewer_weights(shape):
                unit = quantizer.unit(keras.KerasTensor(shape))
                return self._rounded(self.train_product(inputs, unit), unit, quantizer)
            if norm is not None and takes_batch_statistics(norm) and not norm.synchronized:
                outputs = self.train_product(inputs)
                unit = quantizer.unit(outputs)
                return self._rounded(normalize_in_training(norm, outputs, unit), unit, quantizer)
        return super()._train(inputs, quantizer)

    def _has_fewer_weights(self, shape):
        """Whether the kernel has no more values than a sample of that shape: an inner product with it costs less."""
        return None not in shape[1:] and math.prod(self.kernel.shape) <= math.prod(shape[1:])

    def scaled_product(self, inputs, kernel):
        """`product`, with `input_scale`."""
        return self.product(inputs, self.scaled_kernel(kernel))

    def scaled_kernel(self, kernel):
        """A kernel with `input_scale`: it is smaller than the inputs."""
        return kernel if self.input_scale == 1.0 else kernel * self.input_scale

    def add_bias(self, outputs):
        """What the product makes, with the bias if there is one."""
        return outputs if self.bias is None else outputs + self.bias

    def folded_weights(self, x, y):
        """The integers and scales that inference computes with and the file holds.

        Args:
            x, y: `QuantParams` of input and output.

        Returns:
            `integer.FoldedWeights`.
        """
        return in_steps.remembered(self, "folded", lambda: self._folded_weights(x, y))

    def _folded_weights(self, x, y):
        scale = ops.reshape(self.kernel_quantizer.scale(self.kernel, self.kernel_axes), (-1,))
        zeros = ops.zeros_like(scale, dtype="float64")
        bias = zeros if self.bias is None else ops.cast(self.bias, "float64")
        gain = ops.ones_like(zeros)
        if self.batch_norm is not None:
            gain, shift = gain_and_shift(self.batch_norm)
            bias = bias * gain + shift
        gain, limit = gain * self.input_scale, self.kernel_quantizer.limit
        kernel = self.kernel_quantizer.values(self.kernel, self.kernel_axes)
        return integer.fold(kernel, scale, bias, gain, x, y, self.channel_shape(), limit)

    def get_config(self):
        config = super().get_config()
        config["kernel_quantizer"] = quantizers.serialize(self.kernel_quantizer)
        config["input_scale"] = self.input_scale
        if self.batch_norm is not None:
            config["batch_norm"] = keras.saving.serialize_keras_object(self.batch_norm)
        return config


def create_weight_ranges(layer):
    """Make the variables that the quantizer of a layer's kernel has."""
    if layer.kernel_quantizer.group_size is not None and not layer.takes_groups:
        raise UnsupportedLayerError(
            f"Layer '{layer.name}' ({type(layer).__name__}) has no kernel with scales by group: Dense layers with weights "
            "of 4 bits and dynamic activations have. Use scales by channel, or for Dense a policy like 'dynamic_int4'. "
            f"Received: granularity='group', policy='{layer.policy.name}'"
        )
    try:
        layer.kernel_quantizer.create(layer.kernel.shape, layer.kernel_axes)
    except QuantizationError as error:
        raise QuantizationError(f"Layer '{layer.name}': {error}") from error


def fit_weight_ranges(layer):
    """Let the quantizers of a layer's kernels, and of those inside it, measure the weights that are there."""
    for part in layer._flatten_layers():
        quantizer = getattr(part, "kernel_quantizer", None)
        if quantizer is not None and getattr(part, "kernel", None) is not None:
            quantizer.fit_to(ops.convert_to_numpy(part.kernel), part.kernel_axes)


def gain_and_shift(batch_norm):
    """Inference-mode batch normalization as `gain · x + shift`, float64 `(channels,)` each.

    Divisions and roots in float64 round away every difference between executors before the result becomes float32.
    """
    wide = lambda v: ops.cast(v, "float64")
    gain = 1.0 / ops.sqrt(wide(batch_norm.moving_variance) + batch_norm.epsilon)
    if batch_norm.scale:
        gain = gain * wide(batch_norm.gamma)
    shift = -wide(batch_norm.moving_mean) * gain
    return gain, shift + wide(batch_norm.beta) if batch_norm.center else shift


def hold_statistics(batch_norm, held=True):
    """Let a batch normalization that `normalize_in_training` computes use and keep its moving statistics, or not.

    Unlike `trainable = False`, which says the same to Keras, its gain and shift go on training.
    """
    batch_norm.holds_statistics = held


def takes_batch_statistics(batch_norm):
    """Whether a batch normalization trains on the batch's own statistics."""
    return batch_norm.trainable and not getattr(batch_norm, "holds_statistics", False)


def normalize_in_training(batch_norm, x, unit=None):
    """Batch normalization as `fit` does it: batch statistics and their moving averages, or, frozen, the moving ones.

    Keras 3 computes it in several passes on TensorFlow; here it is one fused operation.

    Args:
        batch_norm: `keras.layers.BatchNormalization`.
        x: float32 tensor, the channels last.
        unit: of the quantizer behind it, which the outputs are divided by if batch statistics make them; or `None`.
    """
    if not takes_batch_statistics(batch_norm):
        gain, shift = gain_and_shift(batch_norm)
        return backend.scale_and_shift(x, ops.cast(gain, x.dtype), ops.cast(shift, x.dtype))
    if batch_norm.synchronized:
        return batch_norm(x, training=True)
    channels = x.shape[-1]
    gamma = backend.read(batch_norm.gamma) if batch_norm.scale else ops.ones((channels,))
    beta = backend.read(batch_norm.beta) if batch_norm.center else ops.zeros((channels,))
    image = x if len(x.shape) == 4 else ops.reshape(x, (-1, 1, 1, channels))
    moving = batch_norm.moving_mean, batch_norm.moving_variance
    statistics = map(backend.read, moving)
    y, *moved = backend.batch_normalize(image, gamma, beta, *statistics, batch_norm.momentum, batch_norm.epsilon, unit)
    for variable, value in zip(moving, backend.statistics_of_replicas(*moved, batch_norm.momentum)):
        variable.assign(value)
    return y if len(x.shape) == 4 else ops.reshape(y, ops.shape(x))
