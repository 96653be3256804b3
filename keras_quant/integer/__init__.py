"""The exact arithmetic of the kernels that the exported file runs on: one documented formula per TFLite operator.

The formulas are those of int8; `kernels` finds those of int16, which `int16.py` has.

Conventions, the same in every file:

* A quantized tensor is held as **centred integers** `c = q - zero_point` in float32 (exact below 2**24), so that padding
  is zero and real values are `scale * c`.
* `QuantParams` carries scale and zero point; formulas take those of the inputs (`x`) and of the output (`y`), and return
  centred integers of the output, already clamped to int8.
* `rint` rounds half to even, as the kernels' conversion instructions do.
* Functions accept NumPy arrays or tensors. Scales are float32 and combined in the kernels' own order of operations: a
  scale that is one unit in the last place off moves outputs.

`tests/integer/` holds each formula against LiteRT itself.
"""

from keras_quant.integer import int16
from keras_quant.integer.activation import logistic, tanh
from keras_quant.integer.add import add, subtract
from keras_quant.integer.arithmetic import kernels
from keras_quant.integer.conv import conv_2d, depthwise_conv_2d, transpose_conv, weighted_windows
from keras_quant.integer.dense import fully_connected
from keras_quant.integer.elu import elu
from keras_quant.integer.gelu import gelu
from keras_quant.integer.halves import products_part, sums_part, table_parts
from keras_quant.integer.matmul import batch_matmul
from keras_quant.integer.multiply import multiply
from keras_quant.integer.normalization import standardize, sums_are_exact
from keras_quant.integer.params import Quantized, QuantParams, activation_range, float32_product, to_grid
from keras_quant.integer.pooling import mean, sum, window_sums
from keras_quant.integer.relu import leaky_relu, requantize
from keras_quant.integer.resize import nearest_indices, resize_bilinear, resize_nearest
from keras_quant.integer.softmax import exact_softmax, exponentials_part, softmax
from keras_quant.integer.table import look_up, tabulate
from keras_quant.integer.weights import FoldedWeights, fold

__all__ = [
    "FoldedWeights",
    "QuantParams",
    "Quantized",
    "activation_range",
    "add",
    "batch_matmul",
    "conv_2d",
    "depthwise_conv_2d",
    "elu",
    "exact_softmax",
    "exponentials_part",
    "float32_product",
    "fold",
    "fully_connected",
    "gelu",
    "int16",
    "kernels",
    "leaky_relu",
    "logistic",
    "look_up",
    "mean",
    "multiply",
    "nearest_indices",
    "products_part",
    "requantize",
    "resize_bilinear",
    "resize_nearest",
    "softmax",
    "standardize",
    "sums_are_exact",
    "subtract",
    "sum",
    "sums_part",
    "table_parts",
    "tabulate",
    "tanh",
    "to_grid",
    "transpose_conv",
    "weighted_windows",
    "window_sums",
]
