"""Functions of one value: any of them has 256 results on int8, and those are a table."""

import keras
from keras import ops

from keras_quant import integer
from keras_quant.errors import QuantizationError
from keras_quant.layers.base import QuantLayer
from keras_quant.layers.functions import computes_activation
from keras_quant.layers.registry import computes

_ACTIVATIONS = (
    "celu",
    "exponential",
    "hard_shrink",
    "log_sigmoid",
    "mish",
    "soft_shrink",
    "softplus",
    "softsign",
    "sparse_plus",
    "squareplus",
    "tanh_shrink",
)
_FUNCTIONS = {
    **{name: getattr(keras.activations, name) for name in _ACTIVATIONS if hasattr(keras.activations, name)},
    **{name: getattr(ops, name) for name in ("cos", "erf", "expm1", "log", "log1p", "rsqrt", "sin", "sqrt")},
    "reciprocal": lambda x: 1.0 / x,
}


class _Tabulated(QuantLayer):
    """Mixin: a function of one value; lowered to two CONV_2D that add up a table step by step, on XNNPACK.

    On tensors of thousands of values it is lowered to CAST, ADD and GATHER, which are built-in kernels.

    A subclass gives `function`.
    """

    def function(self, x):
        """The real function, of a tensor of any float dtype."""
        raise NotImplementedError

    def table(self, x, y):
        """The 256 int8 outputs for these `QuantParams` of input and output."""
        return integer.tabulate(x, y, self.function)

    def float_call(self, inputs):
        return self.function(inputs)

    def integer_call(self, x, y):
        return integer.look_up(x, y, self.function)

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantTable(_Tabulated, keras.layers.Layer):
    """A function of one value on int8, by a table in the file; exact.

    Args:
        function: one of "celu", "cos", "erf", "exponential", "expm1", "hard_shrink", "log", "log1p", "log_sigmoid", "mish",
            "reciprocal", "rsqrt", "sin", "soft_shrink", "softplus", "softsign", "sparse_plus", "sqrt", "squareplus",
            "tanh_shrink".
        offset: added to the input first, as in `rsqrt(x + epsilon)`.
        output_quantizer: name, config or object, see `quantizers.get`.
    """

    def __init__(self, function, offset=0.0, **kwargs):
        super().__init__(**kwargs)
        if function not in _FUNCTIONS:
            raise QuantizationError(f"`function` is one of {sorted(_FUNCTIONS)}. Received: function={function!r}")
        self.function_name, self.offset = function, offset

    def function(self, x):
        return _FUNCTIONS[self.function_name](x + self.offset)

    def get_config(self):
        return {**super().get_config(), "function": self.function_name, "offset": self.offset}


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantPower(_Tabulated, keras.layers.Layer):
    """`x ** exponent` on int8, by a table in the file; exact.

    Args:
        exponent: float.
        output_quantizer: name, config or object, see `quantizers.get`.
    """

    def __init__(self, exponent, **kwargs):
        super().__init__(**kwargs)
        self.exponent = exponent

    def function(self, x):
        return ops.power(x, ops.cast(self.exponent, x.dtype))

    def get_config(self):
        return {**super().get_config(), "exponent": self.exponent}


def _tabulate(name):
    computes_activation(_FUNCTIONS[name], function=name)(QuantTable)


for _name in _ACTIVATIONS:
    if _name in _FUNCTIONS:
        _tabulate(_name)


_BY_OPERATION = {
    "nn.LogSigmoid": "log_sigmoid",
    "nn.Softplus": "softplus",
    "nn.Softsign": "softsign",
    "nn.SparsePlus": "sparse_plus",
    "nn.Squareplus": "squareplus",
    "nn.TanhShrink": "tanh_shrink",
    "numpy.Cos": "cos",
    "math.Erf": "erf",
    "numpy.Exp": "exponential",
    "numpy.Expm1": "expm1",
    "numpy.Log": "log",
    "numpy.Log1p": "log1p",
    "numpy.Reciprocal": "reciprocal",
    "math.Rsqrt": "rsqrt",
    "numpy.Sin": "sin",
    "numpy.Sqrt": "sqrt",
}
for _operation, _name in _BY_OPERATION.items():
    computes(_operation)(lambda operation, args, _name=_name, **arguments: QuantTable(_name, **arguments))
