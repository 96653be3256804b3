"""Quantized moves between channels and space."""

import keras
from keras import ops

from keras_quant.errors import UnsupportedLayerError
from keras_quant.layers.base import QuantLayer
from keras_quant.layers.conv import check_channels_last
from keras_quant.layers.registry import computes


class _Blocks(QuantLayer):
    """Mixin: blocks of `block_size`² pixels; a subclass gives `float_call` and `fits`."""

    keeps_grid, homogeneous = True, True

    def __init__(self, block_size, data_format="channels_last", **kwargs):
        super().__init__(**kwargs)
        self.block_size, self.data_format = block_size, data_format
        check_channels_last(self)

    def fits(self, height, width, channels):
        """Whether blocks divide such an image."""
        raise NotImplementedError

    def build(self, input_shape):
        if self.block_size < 2 or len(input_shape) != 4 or not self.fits(*input_shape[1:]):
            raise UnsupportedLayerError(
                f"Layer '{self.name}': blocks of {self.block_size}×{self.block_size} pixels, at least 2×2, have to divide "
                f"the image evenly. Choose another `block_size`, or pad. Received: shape {tuple(input_shape)}"
            )
        super().build(input_shape)

    def integer_call(self, x, y):
        return self.float_call(x.integers)

    def get_config(self):
        return {**super().get_config(), "block_size": self.block_size}


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantDepthToSpace(_Blocks, keras.layers.Layer):
    """`keras.ops.depth_to_space` on int8; lowered to DEPTH_TO_SPACE. Keeps the input's grid.

    Args:
        block_size: edge of the blocks that each pixel's channels become.
    """

    def fits(self, height, width, channels):
        return channels % self.block_size**2 == 0

    def float_call(self, inputs):
        size, (height, width, channels) = self.block_size, self.compute_output_shape(inputs.shape)[1:]
        blocks = ops.reshape(inputs, (-1, height // size, width // size, size, size, channels))
        return ops.reshape(ops.transpose(blocks, (0, 1, 3, 2, 4, 5)), (-1, height, width, channels))

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        return (batch, height * self.block_size, width * self.block_size, channels // self.block_size**2)


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantSpaceToDepth(_Blocks, keras.layers.Layer):
    """`keras.ops.space_to_depth` on int8; lowered to SPACE_TO_DEPTH. Keeps the input's grid.

    Args:
        block_size: edge of the blocks that become one pixel's channels.
    """

    def fits(self, height, width, channels):
        return height % self.block_size == 0 and width % self.block_size == 0

    def float_call(self, inputs):
        size, (height, width, channels) = self.block_size, self.compute_output_shape(inputs.shape)[1:]
        blocks = ops.reshape(inputs, (-1, height, size, width, size, channels // size**2))
        return ops.reshape(ops.transpose(blocks, (0, 1, 3, 2, 4, 5)), (-1, height, width, channels))

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        return (batch, height // self.block_size, width // self.block_size, self.block_size**2 * channels)


@computes("nn.DepthToSpace")
def _depth_to_space(operation, args, **arguments):
    return QuantDepthToSpace(operation.block_size, operation.data_format, **arguments)


@computes("nn.SpaceToDepth")
def _space_to_depth(operation, args, **arguments):
    return QuantSpaceToDepth(operation.block_size, operation.data_format, **arguments)
