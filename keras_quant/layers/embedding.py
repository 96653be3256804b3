"""Quantized tables of embeddings."""

import keras
from keras import ops

from keras_quant import integer, quantizers
from keras_quant.layers.base import QuantLayer
from keras_quant.layers.derived import FollowsWeights, is_derived
from keras_quant.layers.dynamic import DynamicLayer, computes_dynamically
from keras_quant.layers.registry import quantizes
from keras_quant.policy import NARROW


class _Table:
    """Mixin before `keras.layers.Embedding`."""

    integer_slots = (0,)

    @property
    def table_rows(self):
        """How many rows there are to pick."""
        return self.input_dim

    def compute_mask(self, inputs, mask=None):
        # What reads the mask has it as a tensor of its own.
        return None


@quantizes(keras.layers.Embedding)
class QuantEmbedding(_Table, QuantLayer, keras.layers.Embedding):
    """`keras.layers.Embedding` with a table of integers; lowered to GATHER.

    By default the table has one scale, and what is picked lies on its grid. With a scale a row, `TableQuantizer`'s
    `granularity="row"`, the rows are scaled in float and rounded to 8 bits.

    Policies give the table's bits by their `weights`; on int16 it is a table of int16. Training rounds the rows that a
    batch picks and no others, so that the gradient stays sparse.

    Args: those of `keras.layers.Embedding`, and `output_quantizer`, of the table: the policy's if that is a
        `TableQuantizer`, else "table" with the policy's bits.
    """

    activation_types = (*NARROW, "int16")

    def __init__(self, *args, policy="int8", output_quantizer=None, **kwargs):
        super().__init__(*args, policy=policy, **kwargs)
        bits = 16 if self.policy.storage == "int16" else self.policy.weight_bits
        if output_quantizer is None and self.policy.output_quantizer is not None:
            made = quantizers.get(self.policy.output_quantizer, quantizers.OUTPUT)
            output_quantizer = made if isinstance(made, quantizers.TableQuantizer) else None
        chosen = "table" if output_quantizer is None else output_quantizer
        self.output_quantizer = quantizers.with_width(chosen, quantizers.OUTPUT, bits)

    def calibrated_values(self, outputs):
        """What calibration measures: the table, of which the data picks a few rows."""
        return ops.convert_to_tensor(self.embeddings)

    def train_arithmetic(self, inputs):
        rows, table = self.float_call(inputs), self.output_quantizer
        return table.fake_quant_rows(rows) if table.has_row_scales else rows

    def _train(self, inputs, quantizer):
        if is_derived(self.embeddings):
            # Who shares the table moves rows that no batch picks.
            quantizer.observe(ops.convert_to_tensor(self.embeddings))
        return super()._train(inputs, quantizer)

    def integer_call(self, x, y):
        rows, table = self.float_call(x), self.output_quantizer
        return integer.to_grid(table.values(rows), y) if table.has_row_scales else table.integers(rows)


@computes_dynamically(keras.layers.Embedding)
class DynamicEmbedding(_Table, FollowsWeights, DynamicLayer, keras.layers.Embedding):
    """`keras.layers.Embedding` with a table of integers and real numbers out; lowered to GATHER and DEQUANTIZE.

    Each row has a scale of its own, as in Keras's own `Embedding.quantize("int8")`, which a second GATHER picks and MUL
    applies; a policy whose `kernel_quantizer` has `granularity="tensor"` leaves the table one. Training rounds the rows
    that a batch picks and no others, so that the gradient stays sparse. `predict` and the file are equal bit for bit.

    Args: those of `keras.layers.Embedding`, and `policy`.
    """

    # What `verify` wants of the file: no rounding depends on an order.
    is_exact = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        chosen = getattr(self.policy.new_kernel_quantizer(), "granularity", "channel")
        self.table_quantizer = quantizers.TableQuantizer(self.policy.weight_bits, "tensor" if chosen == "tensor" else "row")

    def copy_weights(self, layer):
        """Take the table of a float layer, and measure it."""
        self.embeddings.assign(layer.embeddings)
        reach = float(ops.max(ops.abs(ops.convert_to_tensor(self.embeddings))))
        self.table_quantizer.set_range(-reach, reach)

    def call(self, inputs, training=None):
        rows = self.float_call(inputs)
        if not training:
            return self.table_quantizer.values(rows)
        if not self.table_quantizer.has_row_scales:
            # Who shares the table moves rows that no batch picks.
            self.table_quantizer.observe(ops.convert_to_tensor(self.embeddings) if is_derived(self.embeddings) else rows)
        return self.table_quantizer.fake_quant_rows(rows)

    def float_call(self, inputs):
        """The float layer's arithmetic."""
        return keras.layers.Embedding.call(self, inputs)
