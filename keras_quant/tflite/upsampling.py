"""Rules for upsampling: RESIZE_BILINEAR; nearest as CONCATENATION of the tensor with itself between RESHAPEs."""

from keras_quant.layers import QuantUpSampling2D
from keras_quant.tflite.concatenate import join
from keras_quant.tflite.lower import lowers


@lowers(QuantUpSampling2D)
def upsampling(lowering, layer, x, output):
    if layer.interpolation == "nearest":
        return _nearest(lowering, layer, x, output)
    y = lowering.activation(output)
    size = lowering.ints(output, "size", output.shape[:2])
    lowering.operator("RESIZE_BILINEAR", [x, size], y, 3, (2, 2, 0), "ResizeBilinearOptions", halfPixelCenters=True)
    return y


def _nearest(lowering, layer, x, output):
    """Copies side by side in memory are repeated pixels.

    In `(h, w, c)` order, f copies of a pixel's channels after one another are f equal pixels; f copies of a row after one
    another are f equal rows.
    """
    height, width, channels = x.shape[1:]
    down, across = layer.size
    if across > 1:
        x = _repeat(lowering, x, output, across, "across")
    x = lowering.reshape(x, output, (height, 1, across * width * channels), "rows")
    if down > 1:
        x = _repeat(lowering, x, output, down, "down")
    return lowering.reshape(x, output, (down * height, across * width, channels))


def _repeat(lowering, x, output, times, name):
    """Concatenate copies along the last axis."""
    shape = (*x.shape[1:-1], times * x.shape[-1])
    y = lowering.activation(output, name, shape)
    return join(lowering, [x] * times, y, output, axis=len(x.shape) - 1)
