"""Rules for float layers without weights: activations, arithmetic, pooling, movement."""

import keras
import numpy as np
from keras.src.ops import nn
from keras.src.ops import numpy as knp

from keras_quant.errors import ExportError
from keras_quant.layers import ExactSum
from keras_quant.layers.dropout import QuantIdentityInInference
from keras_quant.layers.registry import float_classes
from keras_quant.tflite.conv import fused_code, padding
from keras_quant.tflite.float_functions import compute, has_form
from keras_quant.tflite.gather import repeat
from keras_quant.tflite.lower import NAMES, lowers_float
from keras_quant.tflite.pooling import pool
from keras_quant.tflite.reduce import reduce
from keras_quant.tflite.reshape import crop, pad
from keras_quant.tflite.volumes import pool_volume
from keras_quant.tflite.writer import Tensor

L, A = keras.layers, keras.activations


def classes(module, **named):
    """Classes of Keras's operations by name, as far as this Keras has them."""
    return {getattr(module, name): value for name, value in named.items() if hasattr(module, name)}


_OF_OPERATIONS = {
    **classes(nn, Relu=A.relu, Relu6=A.relu6, Sigmoid=A.sigmoid, Silu=A.silu, HardSilu=A.hard_silu),
    **classes(knp, Tanh=A.tanh, Exp=A.exponential),
}


# Activations over the last axis.
_OVER_AXIS = {
    A.softmax: ("SOFTMAX", 1, (1, 5, 0), "SoftmaxOptions", {"beta": 1.0}),
    A.log_softmax: ("LOG_SOFTMAX", 1, (1, 11, 0), "LogSoftmaxOptions", {}),
}


def check_activation(function, output):
    """Refuse an activation function that has no float operators."""
    name = getattr(function, "__name__", str(function))
    known = function in _OVER_AXIS or function in (A.linear, A.leaky_relu)
    if not known and not (has_form(name) and getattr(A, name, None) is function):
        raise ExportError(
            f"Layer '{output.name}': activation '{name}' has no float operators here. Export with `fallback=\"converter\"`, "
            "or write it with functions of `keras.ops`."
        )


def activate(lowering, x, output, function):
    """Apply an activation function as operators of its own."""
    check_activation(function, output)
    if function is A.linear:
        return x
    if function is A.leaky_relu:
        return _leaky(lowering, x, output, 0.2)
    if function not in _OVER_AXIS:
        return compute(lowering, x, output, function.__name__)
    name, version, since, options, fields = _OVER_AXIS[function]
    y = lowering.activation(output)
    lowering.operator(name, [x], y, version, since, options, **fields)
    return y


def before_activation(lowering, output, function):
    """Where an operator with a fused activation writes, and the format's number for what it fuses."""
    code = fused_code(function)
    return lowering.activation(output, "linear" if code is None else None), code or 0


@lowers_float(L.Activation)
def activation(lowering, layer, inputs, output):
    return activate(lowering, *inputs, output, layer.activation)


@lowers_float(*_OF_OPERATIONS)
def operation(lowering, operation, inputs, output):
    return activate(lowering, *inputs, output, _OF_OPERATIONS[type(operation)])


@lowers_float(L.Softmax)
def softmax(lowering, layer, inputs, output):
    if keras.tree.flatten(layer.axis) not in ([-1], [len(output.shape)]):
        raise ExportError(
            f"Layer '{output.name}': SOFTMAX runs over the last axis. Permute before it. Received: axis={layer.axis}"
        )
    return activate(lowering, *inputs, output, A.softmax)


@lowers_float(L.ReLU)
def relu(lowering, layer, inputs, output):
    if layer.negative_slope:
        return _leaky(lowering, *inputs, output, layer.negative_slope)
    if layer.max_value == 6:
        return activate(lowering, *inputs, output, A.relu6)
    if layer.max_value is None:
        return activate(lowering, *inputs, output, A.relu)
    whole = lowering.activation(output, "unbounded")
    lowering.operator("RELU", inputs, whole, 1, (1, 5, 0))
    return binary(lowering, "MINIMUM", whole, layer.max_value, output)


@lowers_float(L.LeakyReLU)
def leaky_relu(lowering, layer, inputs, output):
    return _leaky(lowering, *inputs, output, layer.negative_slope)


def _leaky(lowering, x, output, slope):
    y = lowering.activation(output)
    lowering.operator("LEAKY_RELU", [x], y, 1, (1, 13, 1), "LeakyReluOptions", alpha=float(slope))
    return y


_BINARY = {
    "ADD": ("AddOptions", 1, (1, 5, 0)),
    "SUB": ("SubOptions", 1, (1, 6, 0)),
    "MUL": ("MulOptions", 1, (1, 5, 0)),
    "DIV": ("DivOptions", 1, (1, 6, 0)),
    "MAXIMUM": ("MaximumMinimumOptions", 1, (1, 8, 0)),
    "MINIMUM": ("MaximumMinimumOptions", 1, (1, 8, 0)),
}
_OF_LAYERS = {
    L.Add: "ADD",
    L.Subtract: "SUB",
    L.Multiply: "MUL",
    L.Maximum: "MAXIMUM",
    L.Minimum: "MINIMUM",
    **classes(knp, Add="ADD", Subtract="SUB", Multiply="MUL", Divide="DIV", TrueDivide="DIV"),
    **classes(knp, Maximum="MAXIMUM", Minimum="MINIMUM"),
}


def binary(lowering, name, a, b, output, part=None):
    """An operator of two tensors, one of which may be a number or an array."""
    options, version, since = _BINARY[name]
    operands = [
        lowering.cast(x, output.kind) if isinstance(x, Tensor) else _constant(lowering, output, x, part) for x in (a, b)
    ]
    y = lowering.activation(output, part)
    lowering.operator(name, operands, y, version, since, options)
    return y


def _constant(lowering, output, value, part):
    array = np.asarray(keras.ops.convert_to_numpy(value), NAMES[output.kind])
    return lowering.writer.constant(f"{output.name}/{part or 'constant'}_operand", array)


@lowers_float(*_OF_LAYERS)
def arithmetic(lowering, layer, inputs, output):
    name = next(_OF_LAYERS[cls] for cls in type(layer).__mro__ if cls in _OF_LAYERS)
    total = inputs[0]
    for index, x in enumerate(inputs[1:]):
        last = index == len(inputs) - 2
        total = binary(lowering, name, total, x, output, None if last else f"partial_{index}")
    return total


@lowers_float(ExactSum)
def exact_sum(lowering, layer, inputs, output):
    lowering.is_exact_in_float = True
    return arithmetic(lowering, layer, inputs, output)


_ROUNDINGS = classes(knp, Floor=("FLOOR", 1, (1, 5, 0)), Ceil=("CEIL", 1, (1, 14, 0)))


@lowers_float(*_ROUNDINGS)
def rounding(lowering, operation, inputs, output):
    y = lowering.activation(output)
    lowering.operator(_ROUNDINGS[type(operation)][0], inputs, y, *_ROUNDINGS[type(operation)][1:])
    return y


@lowers_float(L.Concatenate, knp.Concatenate)
def concatenation(lowering, layer, inputs, output):
    y = lowering.activation(output)
    axis = layer.axis % len(y.shape)
    lowering.operator("CONCATENATION", inputs, y, 1, (1, 5, 0), "ConcatenationOptions", axis=axis)
    return y


def scale_and_shift(lowering, x, output, gain, shift):
    """MUL and ADD by one value a channel."""
    return binary(lowering, "ADD", binary(lowering, "MUL", x, gain, output, "scaled"), shift, output)


@lowers_float(L.Rescaling)
def rescaling(lowering, layer, inputs, output):
    return scale_and_shift(lowering, *inputs, output, layer.scale, layer.offset)


@lowers_float(L.Normalization)
def normalization(lowering, layer, inputs, output):
    mean, variance = (np.float64(keras.ops.convert_to_numpy(v)) for v in (layer.mean, layer.variance))
    deviation = np.maximum(np.sqrt(variance), keras.config.epsilon())
    pair = (deviation, mean) if layer.invert else (1.0 / deviation, -mean / deviation)
    return scale_and_shift(lowering, *inputs, output, *pair)


@lowers_float(L.MaxPooling2D)
def max_pool(lowering, layer, inputs, output):
    y = lowering.activation(output)
    return pool(lowering, *inputs, y, "MAX_POOL_2D", layer.pool_size, layer.strides, padding(layer))


@lowers_float(L.AveragePooling2D)
def average_pool(lowering, layer, inputs, output):
    y = lowering.activation(output)
    return pool(lowering, *inputs, y, "AVERAGE_POOL_2D", layer.pool_size, layer.strides, padding(layer))


@lowers_float(L.MaxPooling3D)
def max_pool_3d(lowering, layer, inputs, output):
    return pool_volume(lowering, layer, *inputs, output, "MAX_POOL_2D")


@lowers_float(L.AveragePooling3D)
def average_pool_3d(lowering, layer, inputs, output):
    return pool_volume(lowering, layer, *inputs, output, "AVERAGE_POOL_2D")


@lowers_float(L.UpSampling3D)
def upsampling_3d(lowering, layer, inputs, output):
    (x,) = inputs
    for axis, times in zip((3, 2, 1), reversed(layer.size)):
        x = repeat(lowering, x, output, axis, times) if times > 1 else x
    return x


@lowers_float(L.GlobalAveragePooling1D, L.GlobalAveragePooling2D, L.GlobalAveragePooling3D)
def global_average_pool(lowering, layer, inputs, output):
    return reduce(lowering, *inputs, output, "MEAN", 1, (1, 6, 0), _places(*inputs), layer.keepdims)


@lowers_float(L.GlobalMaxPooling1D, L.GlobalMaxPooling2D, L.GlobalMaxPooling3D)
def global_max_pool(lowering, layer, inputs, output):
    return reduce(lowering, *inputs, output, "REDUCE_MAX", 1, (1, 14, 0), _places(*inputs), layer.keepdims)


def _places(x):
    """The axes between the batch and the channels."""
    return tuple(range(1, len(x.shape) - 1))


@lowers_float(L.Flatten, L.Reshape, knp.Reshape, knp.ExpandDims, knp.Squeeze)
def reshape(lowering, layer, inputs, output):
    return lowering.reshape(*inputs, output, output.shape)


@lowers_float(L.Permute)
def transpose(lowering, layer, inputs, output):
    y = lowering.activation(output)
    order = lowering.ints(output, "order", [0, *layer.dims])
    lowering.operator("TRANSPOSE", [*inputs, order], y, 1, (1, 6, 0), "TransposeOptions")
    return y


@lowers_float(L.ZeroPadding2D, L.ZeroPadding3D)
def zero_padding(lowering, layer, inputs, output):
    return pad(lowering, *inputs, output, [*layer.padding, (0, 0)])


@lowers_float(L.Cropping2D, L.Cropping3D)
def cropping(lowering, layer, inputs, output):
    return crop(lowering, layer, *inputs, output)


@lowers_float(*float_classes(QuantIdentityInInference), L.Identity)
def identity(lowering, layer, inputs, output):
    (x,) = inputs
    return x
