"""Quantized ELU and SELU."""

import keras
import numpy as np

from keras_quant import integer
from keras_quant.layers.affine import QuantRescaling
from keras_quant.layers.base import QuantLayer
from keras_quant.layers.functions import computes_activation
from keras_quant.layers.registry import computes, quantizes
from keras_quant.layers.relu import QuantLeakyReLU

SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


@computes_activation(keras.activations.elu)
@quantizes(keras.layers.ELU)
class QuantELU(QuantLayer, keras.layers.ELU):
    """`keras.layers.ELU` on int8; lowered to ELU, whose slope is 1, and for another slope LEAKY_RELU after it.

    Args: those of `keras.layers.ELU`, and `output_quantizer`.
    """

    def __init__(self, alpha=1.0, **kwargs):
        super().__init__(alpha=alpha, **kwargs)
        if alpha != 1:
            self.afterwards.append(QuantLeakyReLU(alpha, name=f"{self.name}_slope"))

    @classmethod
    def config_of(cls, layer):
        """Constructor arguments from the float layer, whose own config leaves `alpha` out."""
        return {"name": layer.name, "alpha": layer.alpha}

    def float_call(self, inputs):
        return keras.activations.elu(inputs)

    def integer_call(self, x, y):
        return integer.elu(x, y)

    def parts_elsewhere(self, inputs, y):
        """As `QuantSigmoid.parts_elsewhere`."""
        return integer.table_parts(lambda v: np.where(v < 0, np.expm1(v), np.nan), *inputs, y)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "alpha": self.alpha}


@computes_activation(keras.activations.selu)
@keras.saving.register_keras_serializable(package="keras_quant")
class QuantSELU(QuantELU):
    """SELU on int8: ELU, LEAKY_RELU for the slope, and a rescaling.

    Args:
        output_quantizer: name, config or object, see `quantizers.get`.
    """

    def __init__(self, **kwargs):
        super().__init__(alpha=SELU_ALPHA, **kwargs)
        self.afterwards.append(QuantRescaling(SELU_SCALE, name=f"{self.name}_scale"))

    def get_config(self):
        config = super().get_config()
        del config["alpha"]
        return config


@computes("nn.Elu", "nn.Celu")
def _elu(operation, args, **arguments):
    return QuantELU(operation.alpha, **arguments)


@computes("nn.Selu")
def _selu(operation, args, **arguments):
    return QuantSELU(**arguments)
