"""Quantized padding of any axes: with zeros, or with the tensor's own values."""

import keras
import numpy as np
from keras import ops

from keras_quant.errors import UnsupportedLayerError
from keras_quant.layers.gather import QuantGather
from keras_quant.layers.registry import computes
from keras_quant.layers.reshape import check_batch_stays

MODES = ("constant", "reflect", "symmetric", "edge", "wrap")


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantPad(QuantGather, keras.layers.Layer):
    """`ops.pad` on int8. Zeros are lowered to PAD; the other modes, whose operator leaves XNNPACK, to slices and
    CONCATENATION.

    Args:
        pad_width: `(before, after)` for each axis after the batch.
        mode: "constant" (zeros), "reflect", "symmetric", "edge" or "wrap", as in `numpy.pad`.
    """

    def __init__(self, pad_width, mode="constant", **kwargs):
        super().__init__(**kwargs)
        if mode not in MODES:
            raise UnsupportedLayerError(
                f"Layer '{self.name}': padding '{mode}' has no quantized form. Use one of {list(MODES)}. "
                f"Received: mode='{mode}'"
            )
        self.pad_width, self.mode = [[int(before), int(after)] for before, after in pad_width], mode

    def picks(self, shape):
        widths = {axis: width for axis, width in enumerate(self.pad_width, 1) if any(width)}
        return {axis: np.pad(np.arange(shape[axis]), width, self.mode) for axis, width in widths.items()}

    def float_call(self, inputs):
        return ops.pad(inputs, [(0, 0), *self.pad_width]) if self.mode == "constant" else super().float_call(inputs)

    def get_config(self):
        return {**super().get_config(), "pad_width": self.pad_width, "mode": self.mode}


@computes("numpy.Pad", constants=True)
def _pad(operation, args, **arguments):
    x, value = args
    if value is not None and np.any(np.asarray(value) != 0):
        raise UnsupportedLayerError(
            f"Operation '{arguments['name']}' pads with a value other than 0, which no kernel on XNNPACK does. Pad with "
            f"0, or by `mode='edge'`. Received: constant_values={value}"
        )
    widths = [tuple(width) for width in operation.pad_width]
    widths = widths * len(x.shape) if len(widths) == 1 else widths
    check_batch_stays(not any(widths[0]), arguments["name"], f"pad_width={operation.pad_width}")
    return QuantPad(widths[1:], operation.mode, **arguments)
