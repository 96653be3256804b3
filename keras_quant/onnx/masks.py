"""Rules for choices by masks: Where."""

import numpy as np
from keras import ops

from keras_quant.layers import QuantWhere
from keras_quant.onnx.builder import DTYPES
from keras_quant.onnx.lower import lowers
from keras_quant.onnx.lowering import Made, Tensor


@lowers(QuantWhere)
def where(lowering, layer, inputs, output):
    mask, operands = layer.parted(inputs)
    if layer.mask is None:
        mask = lowering.node("Cast", [lowering.real(mask, False)], "mask/bool", to=DTYPES["bool"])
    else:
        mask = lowering.constant("mask", ops.convert_to_numpy(mask))
    scale = np.float32(ops.convert_to_numpy(output.params.scale))
    number = lambda x: np.float32(ops.convert_to_numpy(layer.fill(x, output.params))) * scale
    chosen = [
        lowering.real(x, False) if isinstance(x, Tensor) else lowering.constant(f"number_{i}", number(x))
        for i, x in enumerate(operands)
    ]
    return Made(lowering.node("Where", [mask, *chosen]))
