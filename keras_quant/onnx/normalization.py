"""Rule for standardizations: float operators between a pair and the next."""

import numpy as np
from keras import ops

from keras_quant.layers import QuantExactStandardize
from keras_quant.onnx.lower import lowers
from keras_quant.onnx.lowering import Made
from keras_quant.onnx.pooling import reduced


@lowers(QuantExactStandardize)
def standardize(lowering, layer, x, output):
    y = lowering.real(x, False)
    y = y if layer.groups is None else lowering.reshape(y, (0, *layer.whole))
    if layer.center:
        y = lowering.node("Sub", [y, reduced(lowering, "ReduceMean", y, layer.axes)])
    reduction = "ReduceSum" if layer.statistic == "sum" else "ReduceMean"
    variance = reduced(lowering, reduction, lowering.node("Mul", [y, y]), layer.axes)
    raised = lowering.node("Add", [variance, lowering.constant("epsilon", np.float32(layer.epsilon))])
    y = lowering.node("Div", [y, lowering.node("Sqrt", [raised])])
    for operator, name, operand in zip(("Mul", "Add"), ("scale", "offset"), layer.gain_and_shift()):
        if operand is not None:
            array = np.asarray(ops.convert_to_numpy(operand))[0]
            y = lowering.node(operator, [y, lowering.constant(name, array)])
    return Made(y if layer.groups is None else lowering.reshape(y, (0, *output.shape)))
