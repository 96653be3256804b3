"""Layers with integer weights and float activations, which the kernel quantizes to 8 bits as it runs."""

import keras
from keras import ops

from keras_quant import backend
from keras_quant import policy as policies
from keras_quant.errors import UnsupportedLayerError
from keras_quant.integer.params import inverse_of
from keras_quant.layers.derived import FollowsWeights
from keras_quant.layers.weighted import create_weight_ranges, fit_weight_ranges
from keras_quant.settings import InFloat32

_DYNAMIC = {}


def dynamic_class(operation, shape, named=False):
    """The class that computes a Keras layer with activations quantized at run time, or `None`.

    Args:
        operation: Keras layer or operation.
        shape: of its input, the batch included.
        named: whether a map names it, so that a slow kernel will do.
    """
    cls = _DYNAMIC.get(type(operation))
    fits = cls is not None and cls.takes(operation, shape)
    return cls if fits and (named or cls.pays(operation, shape)) else None


def computes_dynamically(float_class):
    """Class decorator: policies with dynamic activations put the class wherever a Keras layer of this class stands."""

    def decorate(cls):
        _DYNAMIC[float_class] = cls
        return keras.saving.register_keras_serializable(package="keras_quant")(cls)

    return decorate


class DynamicLayer(InFloat32):
    """Mixin before a Keras layer: integer weights, and real numbers in and out.

    Args:
        policy: name or `Policy` with dynamic activations.
    """

    @classmethod
    def takes(cls, layer, shape):
        """Whether there is a kernel for a float layer of the class that it stands for; args as of `dynamic_class`."""
        return True

    @classmethod
    def pays(cls, layer, shape):
        """Whether that kernel is worth it beside the one of float32; args as of `dynamic_class`."""
        return True

    def __init__(self, *args, policy="dynamic_int8", **kwargs):
        super().__init__(*args, **kwargs)
        self.policy = policies.get(policy)
        if self.policy.activations != "dynamic":
            raise UnsupportedLayerError(
                f"Layer '{self.name}' takes a policy with dynamic activations, such as 'dynamic_int8'. "
                f"Received: policy='{self.policy.name}'"
            )

    def get_config(self):
        return {**super().get_config(), "policy": self.policy.config}


class DynamicComposite(DynamicLayer):
    """Mixin for a layer that is several, a `DynamicWeighted` among them: tracing looks through it."""

    # A float layer's own way would look for the kernel that here is a part's.
    save_own_variables = keras.layers.Layer.save_own_variables
    load_own_variables = keras.layers.Layer.load_own_variables


class DynamicWeighted(FollowsWeights, DynamicLayer):
    """Mixin before a Keras layer with a kernel: `y = x̂·ŵ + b`.

    `ŵ` has one scale an output channel, as in `QuantWeighted`. `x̂` lies on an 8-bit grid over the extremes of one sample
    (for Dense layers and 1×1 convolutions, of one row), which XNNPACK finds anew each time
    (`xnn_f32_qd8_asymmetric_quantization_params`). Gradients are straight-through.

    Args: as of `DynamicLayer` and `FollowsWeights`.
    """

    kernel_axes = ()
    # As in `QuantWeighted`.
    takes_groups = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.kernel_quantizer = self.policy.new_kernel_quantizer()

    def build(self, input_shape):
        super().build(input_shape)
        create_weight_ranges(self)

    def copy_weights(self, layer):
        """Take the weights of a float layer, and measure what the kernel's quantizer wants of them."""
        self.kernel.assign(layer.kernel)
        if self.bias is not None:
            self.bias.assign(layer.bias)
        fit_weight_ranges(self)

    def sample_axes(self, x):
        """The axes that share a grid."""
        raise NotImplementedError

    def product(self, x, kernel):
        raise NotImplementedError

    def rounded_product(self, inputs, kernel, training=False):
        """The product of the inputs, each sample on its own grid, and a kernel."""
        return self.product(on_own_grids(inputs, self.sample_axes(inputs), training), kernel)

    def linear_call(self, inputs, kernel):
        """What the layer makes of its inputs with a kernel, before the activation."""
        return self.finish(self.product(inputs, kernel))

    def finish(self, outputs):
        """Bias of what the product makes."""
        return outputs if self.bias is None else backend.add_bias(outputs, backend.read(self.bias))

    def activate(self, x):
        """Apply the activation."""
        return backend.gelu(x) if self.activation is keras.activations.gelu else self.activation(x)

    def call(self, inputs, training=None):
        quantizer = self.kernel_quantizer
        kernel = (quantizer.in_training if training else quantizer.in_inference)(self.kernel, self.kernel_axes)
        if training and not quantizer.fake_quant_enabled:
            return self.activate(self.linear_call(inputs, kernel))
        return self.activate(self.finish(self.rounded_product(inputs, kernel, training)))

    def float_call(self, inputs):
        """The float layer's arithmetic."""
        return super().call(ops.cast(inputs, "float32"))  # a float16 layer may have made them


def on_own_grids(x, axes, training=False):
    """The nearest values of int8 grids over the range of what `axes` span, which holds zero.

    `m = 255 / (max - min)`, `z` as far from the end that it is rounded to less, `x̂ = (clip(rint(x·m) + z) - z) / m`. In
    `training` nothing is clipped, which spares half of the passes: the kernel takes a step off at one end, at most.
    """
    values = ops.stop_gradient(x)
    low = ops.minimum(ops.min(values, axes, keepdims=True), 0.0)
    high = ops.maximum(ops.max(values, axes, keepdims=True), 0.0)
    per_step = ops.where(high > low, 255.0 / ops.where(high > low, high - low, 1.0), 1.0)
    if training:
        return backend.straight_through(backend.round_half_even(values * per_step) * inverse_of(per_step), x)
    bottom, top = low * per_step, high * per_step
    zero = ops.where((-128.0 + bottom) + (127.0 + top) > 0, -128.0 - bottom, 127.0 - top)
    zero = backend.round_half_even(backend.clip(zero, -128.0, 127.0))
    integers = backend.clip(backend.round_half_even(values * per_step) + zero, -128.0, 127.0)
    return backend.straight_through((integers - zero) * inverse_of(per_step), x)


@computes_dynamically(keras.layers.Dense)
class DynamicDense(DynamicWeighted, keras.layers.Dense):
    """`keras.layers.Dense` with integer weights; lowered to a FULLY_CONNECTED on XNNPACK, 4-bit weights included.

    Weights of 4 bits may have scales by group of inputs (`granularity="group"` of the kernel's quantizer): XNNPACK's kernels
    `qd8-f32-qb4w` add up a product of integers for each group.

    Args: those of `keras.layers.Dense`, and `policy`.
    """

    kernel_axes = (0,)
    takes_groups = True

    def build(self, input_shape):
        if self.kernel_quantizer.group_size is not None:
            self._check_groups(input_shape[-1])
        super().build(input_shape)

    def _check_groups(self, inputs):
        size, bits = self.kernel_quantizer.group_size, self.kernel_quantizer.bits
        if size % 32 or inputs % size or bits > 4:
            raise UnsupportedLayerError(
                f"Layer '{self.name}': scales by group are for weights of up to 4 bits, in groups of a multiple of 32 that "
                f"divides the {inputs} inputs. Choose another `group_size` or scales by channel. "
                f"Received: group_size={size}, bits={bits}"
            )

    def sample_axes(self, x):
        return (-1,)

    def product(self, x, kernel):
        return ops.matmul(x, kernel)
