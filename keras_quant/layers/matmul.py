"""Quantized matrix products of two tensors. (With a constant matrix they are a Dense layer.)"""

import dataclasses
import math

import keras
import numpy as np
from keras import ops

from keras_quant import backend, integer
from keras_quant.errors import QuantizationError, UnsupportedLayerError
from keras_quant.layers.annotation import annotation
from keras_quant.layers.base import EndsInProduct, QuantComposite, Quantize, QuantLayer
from keras_quant.layers.registry import computes
from keras_quant.layers.reshape import QuantPermute, QuantReshape


class _Scaled:
    """Mixin before a product: the scale of its first operand's grid takes in what that is multiplied by.

    Args:
        input_scale: float above 0.
    """

    def __init__(self, *args, input_scale=1.0, **kwargs):
        super().__init__(*args, **kwargs)
        if not input_scale > 0:
            raise QuantizationError(f"Layer '{self.name}': `input_scale` is above 0. Received: input_scale={input_scale}")
        self.input_scale = float(input_scale)

    def get_config(self):
        config = super().get_config()
        return config if self.input_scale == 1 else {**config, "input_scale": self.input_scale}


@keras.saving.register_keras_serializable(package="keras_quant")
class _BatchMatmul(_Scaled, QuantLayer, keras.layers.Layer):
    """BATCH_MATMUL of `(..., m, k)` and `(..., k, n)`; the second lies on a symmetric grid."""

    def __init__(self, transpose_b=False, **kwargs):
        super().__init__(**kwargs)
        self.transpose_b = transpose_b

    def float_call(self, inputs):
        a, b = inputs
        product = ops.matmul(a, ops.swapaxes(b, -1, -2) if self.transpose_b else b)
        return product if self.input_scale == 1 else product * self.input_scale

    def train_arithmetic(self, inputs):
        product = backend.matmul(*inputs, transpose_y=self.transpose_b)
        return product if self.input_scale == 1 else product * self.input_scale

    def scaled_grid(self, params):
        """The `QuantParams` of the first operand multiplied by `input_scale`."""
        return dataclasses.replace(params, scale=integer.float32_product(params.scale, np.float32(self.input_scale)))

    def integer_call(self, inputs, y):
        a, b = inputs
        if self.transpose_b:
            b = integer.Quantized(ops.swapaxes(b.integers, -1, -2), b.params)
        return integer.batch_matmul(integer.Quantized(a.integers, self.scaled_grid(a.params)), b, y)

    def compute_output_shape(self, input_shape):
        a, b = input_shape
        return (*a[:-1], b[-2] if self.transpose_b else b[-1])

    def get_config(self):
        config = super().get_config()
        return {**config, "transpose_b": True} if self.transpose_b else config


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantMatmul(_Scaled, EndsInProduct, keras.layers.Layer):
    """`keras.ops.matmul` of two tensors with equal leading dimensions on int8; lowered to QUANTIZE and BATCH_MATMUL.

    The kernel wants zero point 0 on the right, so that side is moved onto a symmetric grid where it is not on one already.

    Args:
        output_quantizer: name, config or object, see `quantizers.get`.
        transpose_b: whether the second operand has its last two dimensions exchanged.
        input_scale: float above 0 that the first operand is multiplied by.
    """

    def __init__(self, output_quantizer="moving_average", transpose_b=False, **kwargs):
        super().__init__(**kwargs)
        self.right = Quantize(output_quantizer="symmetric", name=f"{self.name}_right")
        self.product = _BatchMatmul(
            transpose_b, input_scale=self.input_scale, output_quantizer=output_quantizer, name=f"{self.name}_product"
        )

    def get_config(self):
        config = super().get_config()
        return {**config, "transpose_b": True} if self.product.transpose_b else config

    def build_parts(self, input_shape):
        a, b = input_shape
        if len(a) < 3 or tuple(a[:-2]) != tuple(b[:-2]):
            raise UnsupportedLayerError(
                f"Layer '{self.name}' multiplies tensors whose dimensions before the last two differ, or are the batch. "
                f"Reshape or repeat them first. Received: shapes {tuple(a)}, {tuple(b)}"
            )
        self.right.build(b)
        self.product.build(input_shape)

    def compose(self, inputs, training=None):
        a, b = inputs
        on_grid = annotation(b).quantizer
        symmetric = on_grid.symmetric and on_grid.type.storage == "int8"
        return self.product([a, b if symmetric else self.right(b, training=training)], training=training)


@keras.saving.register_keras_serializable(package="keras_quant")
class QuantEinsum(_Scaled, QuantComposite, keras.layers.Layer):
    """`keras.ops.einsum` of two tensors, where it is a matrix product, on int8: transposes around a `QuantMatmul`.

    Args:
        subscripts: such as "bhqd,bhkd->bhqk"; the first label of both operands and of the result is the batch.
        output_quantizer: name, config or object, see `quantizers.get`.
        input_scale: float above 0 that the first operand is multiplied by.
    """

    def __init__(self, subscripts, output_quantizer="moving_average", **kwargs):
        super().__init__(**kwargs)
        self.subscripts = subscripts
        left, right, result = self._labels()
        # The kernel reads rows of either side; a transpose would copy them byte by byte.
        summed, columns = self._summed_and_columns(left, right, result)
        transpose_b = bool(columns) and right[-len(summed) :] == "".join(summed)
        self.matmul = QuantMatmul(output_quantizer, transpose_b, input_scale=self.input_scale, name=f"{self.name}_matmul")

    def build_parts(self, input_shape):
        left, right, result = self._labels()
        sizes = {**dict(zip(left, input_shape[0])), **dict(zip(right, input_shape[1]))}
        batch = [label for label in left if label in right and label in result]
        summed, columns = self._summed_and_columns(left, right, result)
        rows = [label for label in left if label not in right]
        size = lambda labels: math.prod(sizes[label] for label in labels)
        folded = [sizes[label] for label in batch[1:]]
        self.left, self.right, self.result = [], [], []
        self._move(self.left, "left", left, batch + rows + summed, [*folded, size(rows), size(summed)])
        first, last = (columns, summed) if self.matmul.product.transpose_b else (summed, columns)
        self._move(self.right, "right", right, batch + first + last, [*folded, size(first), size(last)])
        made = batch + rows + columns
        self.result.append(QuantReshape([sizes[label] for label in made[1:]], name=f"{self.name}_result"))
        if made != list(result):
            order = [made.index(label) for label in result][1:]
            self.result.append(QuantPermute(order, name=f"{self.name}_result_order"))
        shapes = [self._build(chain, shape) for chain, shape in zip((self.left, self.right), input_shape)]
        self.matmul.build(shapes)
        self._build(self.result, self.matmul.compute_output_shape(shapes))

    def _labels(self):
        left, _, right = self.subscripts.replace(" ", "").partition("->")[0].partition(",")
        result = self.subscripts.replace(" ", "").partition("->")[2]
        plain = all(len(set(labels)) == len(labels) and labels.isalpha() for labels in (left, right, result) if labels)
        known = set(left) | set(right) >= set(result) >= set(left) ^ set(right)
        if not (plain and left and right and result and known and left[0] == right[0] == result[0]):
            raise UnsupportedLayerError(
                f"Layer '{self.name}': on int8 `einsum` takes two tensors, the batch first, and sums only over labels that "
                f"both have. Received: subscripts={self.subscripts!r}"
            )
        return left, right, result

    @staticmethod
    def _summed_and_columns(left, right, result):
        summed = [label for label in left if label in right and label not in result]
        return summed, [label for label in right if label not in left]

    def _move(self, chain, side, labels, wanted, shape):
        """Add the layers that bring `labels` into the order `wanted` and the dimensions `shape`."""
        if list(labels) != wanted:
            order = [labels.index(label) for label in wanted][1:]
            chain.append(QuantPermute(order, name=f"{self.name}_{side}_order"))
        chain.append(QuantReshape(shape, name=f"{self.name}_{side}"))

    def _build(self, chain, shape):
        for layer in chain:
            layer.build(shape)
            shape = layer.compute_output_shape(shape)
        return shape

    def compose(self, inputs, training=None):
        sides = [self._run(chain, x, training) for chain, x in zip((self.left, self.right), inputs)]
        return self._run(self.result, self.matmul(sides, training=training), training)

    def _run(self, chain, x, training):
        for layer in chain:
            x = layer(x, training=training)
        return x

    @property
    def last_part(self):
        return self.matmul.last_part

    def compute_output_shape(self, input_shape):
        left, right, result = self._labels()
        sizes = {**dict(zip(left, input_shape[0])), **dict(zip(right, input_shape[1]))}
        return tuple(sizes[label] for label in result)

    def get_config(self):
        own = {"subscripts": self.subscripts, "output_quantizer": self.matmul.get_config()["output_quantizer"]}
        return {**super().get_config(), **own}


@computes("numpy.Matmul")
def _matmul(operation, args, **arguments):
    return QuantMatmul(**arguments)


@computes("numpy.Einsum")
def _einsum(operation, args, **arguments):
    return QuantEinsum(operation.subscripts, **arguments)
