"""Quantized resizing and cropping of images to a given size."""

import keras
import numpy as np
from keras import ops

from keras_quant import integer
from keras_quant.errors import UnsupportedLayerError
from keras_quant.layers.base import QuantLayer
from keras_quant.layers.chain import QuantChain
from keras_quant.layers.conv import check_channels_last
from keras_quant.layers.dropout import QuantIdentity
from keras_quant.layers.registry import computes, quantizes
from keras_quant.layers.reshape import QuantCropping2D, QuantZeroPadding2D
from keras_quant.layers.upsampling import check_interpolation


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantResize(QuantLayer, keras.layers.Layer):
    """Images of any size to `(height, width)`, up or down, with half-pixel centres. Keeps the input's grid.

    Bilinear is lowered to RESIZE_BILINEAR. Nearest is lowered to slices and concatenations between reshapes where the two
    sizes have a simple ratio, otherwise to RESIZE_NEAREST_NEIGHBOR, which leaves XNNPACK.

    Args:
        height, width: of the output.
        interpolation: "bilinear" or "nearest".
    """

    keeps_grid = True

    def __init__(self, height, width, interpolation="bilinear", **kwargs):
        super().__init__(**kwargs)
        self.height, self.width, self.interpolation = height, width, interpolation
        check_interpolation(self)

    def float_call(self, inputs):
        size = (self.height, self.width)
        return ops.image.resize(inputs, size, interpolation=self.interpolation, data_format="channels_last")

    def _train(self, inputs, quantizer):
        outputs = self.float_call(inputs)
        return (outputs if self.interpolation == "nearest" else quantizer.fake_quant(outputs)), None

    def integer_call(self, x, y):
        resize = integer.resize_nearest if self.interpolation == "nearest" else integer.resize_bilinear
        return resize(x, self.height, self.width)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.height, self.width, input_shape[-1])

    def get_config(self):
        own = {"height": self.height, "width": self.width, "interpolation": self.interpolation}
        return {**super().get_config(), **own}


class _ToSize(QuantChain):
    """Mixin: the constructor of a layer of images to `(height, width)`; `own_arguments` are those of its config."""

    own_arguments = ("height", "width", "data_format")

    @classmethod
    def config_of(cls, layer):
        own = {name: getattr(layer, name) for name in cls.own_arguments if hasattr(layer, name)}
        return {"name": layer.name, **own}

    def make_parts(self, input_shape):
        check_channels_last(self)
        if len(input_shape) != 4:
            raise UnsupportedLayerError(
                f"Layer '{self.name}' takes batches of images, (batch, height, width, channels). "
                f"Give the model's Input all three sizes of an image. Received: shape {tuple(input_shape)}"
            )
        return self.parts_for(*input_shape[1:3])

    def parts_for(self, height, width):
        """`make_parts`, of the input's size."""
        raise NotImplementedError

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.height, self.width, input_shape[-1])

    def get_config(self):
        return {**super().get_config(), **{name: getattr(self, name) for name in self.own_arguments}}


@quantizes(keras.layers.Resizing)
class QuantResizing(_ToSize, keras.layers.Layer):
    """`keras.layers.Resizing` on int8: a `QuantResize`, behind a crop or a border of zeros where one is asked for.

    Args: those of `keras.layers.Resizing`; `interpolation` is "bilinear" or "nearest", `fill_value` 0. The kernels have no
    filter against aliasing.
    """

    own_arguments = (
        "height",
        "width",
        "interpolation",
        "crop_to_aspect_ratio",
        "pad_to_aspect_ratio",
        "fill_mode",
        "fill_value",
        "antialias",
        "data_format",
    )

    def __init__(
        self,
        height,
        width,
        interpolation="bilinear",
        crop_to_aspect_ratio=False,
        pad_to_aspect_ratio=False,
        fill_mode="constant",
        fill_value=0.0,
        antialias=False,
        data_format=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.height, self.width, self.interpolation = height, width, interpolation
        self.crop_to_aspect_ratio, self.pad_to_aspect_ratio = crop_to_aspect_ratio, pad_to_aspect_ratio
        self.fill_mode, self.fill_value, self.antialias = fill_mode, fill_value, antialias
        self.data_format = data_format or keras.config.image_data_format()
        check_interpolation(self)

    def parts_for(self, height, width):
        self._check_fill()
        parts = []
        if self.crop_to_aspect_ratio:
            box = self._box(height, width, lambda size, wanted: max(min(size, wanted), 1))
            crops = tuple(_around(size - kept, (size - kept) // 2) for size, kept in zip((height, width), box))
            parts = [QuantCropping2D(crops, name=f"{self.name}_crop")] if crops != ((0, 0), (0, 0)) else []
            height, width = box
        elif self.pad_to_aspect_ratio:
            box = self._box(height, width, max)
            zeros = [(wanted - size) // 2 for size, wanted in zip((height, width), box)]
            parts = [QuantZeroPadding2D(tuple(zeros), name=f"{self.name}_pad")] if any(zeros) else []
            height, width = height + 2 * zeros[0], width + 2 * zeros[1]
        if self.antialias and self.interpolation == "bilinear" and (height > self.height or width > self.width):
            raise UnsupportedLayerError(
                f"Layer '{self.name}': no int8 kernel filters an image before it makes it smaller. "
                "Leave `antialias` out, or pool the average first."
            )
        return [*parts, QuantResize(self.height, self.width, self.interpolation, name=f"{self.name}_resize")]

    def _box(self, height, width, limit):
        """The height and width of the target's shape that the image is cut or padded to, rounded as Keras rounds them."""
        box_height = int(np.float32(width * self.height) / np.float32(self.width))
        box_width = int(np.float32(height * self.width) / np.float32(self.height))
        return limit(height, box_height), limit(width, box_width)

    def _check_fill(self):
        if self.pad_to_aspect_ratio and (self.fill_value or self.fill_mode != "constant"):
            raise UnsupportedLayerError(
                f"Layer '{self.name}' pads with zeros only. Leave `fill_mode` and `fill_value` out. "
                f"Received: fill_mode={self.fill_mode!r}, fill_value={self.fill_value}"
            )


@quantizes(keras.layers.CenterCrop)
class QuantCenterCrop(_ToSize, keras.layers.Layer):
    """`keras.layers.CenterCrop` on int8; lowered to STRIDED_SLICE. Keeps the input's grid.

    Args: those of `keras.layers.CenterCrop`; no larger than the image.
    """

    def __init__(self, height, width, data_format=None, **kwargs):
        super().__init__(**kwargs)
        self.height, self.width = height, width
        self.data_format = data_format or keras.config.image_data_format()

    def parts_for(self, height, width):
        down, across = height - self.height, width - self.width
        if down < 0 or across < 0:
            raise UnsupportedLayerError(
                f"Layer '{self.name}' crops to {self.height}×{self.width} an image of {height}×{width}, which it would have "
                "to enlarge first. Put a Resizing layer in its place."
            )
        if not down and not across:
            return [QuantIdentity(name=f"{self.name}_whole")]
        crops = _around(down, down // 2), _around(across, across // 2)
        return [QuantCropping2D(crops, name=f"{self.name}_crop")]


def _around(total, before):
    return before, total - before


@computes("image.Resize")
def _resize(operation, args, **arguments):
    height, width = operation.size
    names = QuantResizing.own_arguments[2:]
    own = {name: getattr(operation, name) for name in names if hasattr(operation, name)}
    return QuantResizing(height, width, **own, **arguments)
