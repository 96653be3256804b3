"""Layers that act in training only: on the device they are nothing at all."""

import keras
from keras.src.applications.convnext import StochasticDepth

from keras_quant.errors import UnsupportedLayerError
from keras_quant.layers.base import QuantLayer
from keras_quant.layers.registry import computes, quantizes
from keras_quant.policy import NARROW


class QuantIdentityInInference(QuantLayer):
    """Mixin: the Keras layer in training, the identity in inference; the values stay on the input's grid."""

    keeps_grid = True
    activation_types = (*NARROW, "int16")

    def train_arithmetic(self, inputs):
        return self.keras_class.call(self, inputs, training=True)

    def float_call(self, inputs):
        return inputs

    def integer_call(self, x, y):
        return x.integers

    def compute_output_shape(self, input_shape):
        return input_shape


def _identity(float_class):
    """The quantized class of a Keras layer that only acts in training."""
    name = "Quant" + float_class.__name__
    doc = f"`keras.layers.{float_class.__name__}` in a quantized model: acts in training, absent on the device.\n"
    body = {"__doc__": doc, "__module__": __name__, "keras_class": float_class}
    return quantizes(float_class)(type(name, (QuantIdentityInInference, float_class), body))


QuantDropout = _identity(keras.layers.Dropout)
QuantSpatialDropout1D = _identity(keras.layers.SpatialDropout1D)
QuantSpatialDropout2D = _identity(keras.layers.SpatialDropout2D)
QuantSpatialDropout3D = _identity(keras.layers.SpatialDropout3D)
QuantAlphaDropout = _identity(keras.layers.AlphaDropout)
QuantGaussianDropout = _identity(keras.layers.GaussianDropout)
QuantGaussianNoise = _identity(keras.layers.GaussianNoise)
QuantStochasticDepth = _identity(StochasticDepth)


# Image augmentation. Those that also act in inference (Equalization, AutoContrast) are not among them.
_AUGMENTATIONS = (
    "AugMix CutMix MixUp RandAugment RandomBrightness RandomColorDegeneration RandomColorJitter RandomContrast "
    "RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur RandomGrayscale RandomHue RandomInvert "
    "RandomPerspective RandomPosterization RandomRotation RandomSaturation RandomSharpness RandomShear RandomTranslation "
    "RandomZoom Solarization"
).split()
AUGMENTATIONS = [_identity(getattr(keras.layers, name)) for name in _AUGMENTATIONS if hasattr(keras.layers, name)]


@quantizes(keras.layers.RandomCrop)
class QuantRandomCrop(QuantIdentityInInference, keras.layers.RandomCrop):
    """`keras.layers.RandomCrop` in a quantized model: cuts in training; inference leaves the image whole, as Keras does."""

    keras_class = keras.layers.RandomCrop

    def build(self, input_shape):
        whole = keras.ops.zeros((1, *input_shape[1:]))
        if self.keras_class.call(self, whole, training=False).shape != whole.shape:
            raise UnsupportedLayerError(
                f"Layer '{self.name}' (RandomCrop) cuts in inference, too, in this version of Keras. Cut in the data "
                "pipeline, or put a CenterCrop in its place."
            )
        super().build(input_shape)


@quantizes(keras.layers.ActivityRegularization)
class QuantActivityRegularization(QuantIdentityInInference, keras.layers.ActivityRegularization):
    """`keras.layers.ActivityRegularization` in a quantized model: adds its loss, absent on the device."""

    def train_arithmetic(self, inputs):
        return inputs


@quantizes(keras.layers.Identity)
class QuantIdentity(QuantIdentityInInference, keras.layers.Layer):
    """The identity: a name for a tensor."""

    def train_arithmetic(self, inputs):
        return inputs


@computes("core.ConvertToTensor", "numpy.Copy")
def cast_of_real(operation, args, **arguments):
    dtype = getattr(operation, "dtype", None)
    if dtype is not None and not keras.backend.standardize_dtype(dtype).startswith(("float", "bfloat")):
        raise UnsupportedLayerError(
            f"Operation '{arguments['name']}' casts to {dtype}; an int8 model computes real numbers. Cast to float32, or "
            "keep it in float: `quantize(..., fallback='float')`."
        )
    return QuantIdentity(**arguments)
