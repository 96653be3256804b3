"""Rules for moves between channels and space: DEPTH_TO_SPACE, SPACE_TO_DEPTH."""

from keras_quant.layers import QuantDepthToSpace, QuantSpaceToDepth
from keras_quant.tflite.lower import lowers


@lowers(QuantDepthToSpace)
def depth_to_space(lowering, layer, x, output):
    return to_space(lowering, x, lowering.activation(output), layer.block_size)


def to_space(lowering, x, y, size):
    """DEPTH_TO_SPACE: channels become blocks of `size` × `size` pixels."""
    lowering.operator("DEPTH_TO_SPACE", [x], y, 2, (2, 5, 0), "DepthToSpaceOptions", blockSize=size)
    return y


@lowers(QuantSpaceToDepth)
def space_to_depth(lowering, layer, x, output):
    y = lowering.activation(output)
    lowering.operator("SPACE_TO_DEPTH", [x], y, 2, (1, 14, 0), "SpaceToDepthOptions", blockSize=layer.block_size)
    return y
