"""Quantized tables of embeddings."""

import keras
from keras import ops

from keras_quant import integer, quantizers
from keras_quant.layers.base import QuantLayer
from keras_quant.layers.derived import is_derived
from keras_quant.layers.registry import quantizes
from keras_quant.policy import NARROW


@quantizes(keras.layers.Embedding)
class QuantEmbedding(QuantLayer, keras.layers.Embedding):
    """`keras.layers.Embedding` with a table of integers of one scale; lowered to GATHER, whose output lies on its grid.

    Policies give the table's bits by their `weights`; on int16 it is a table of int16. Training rounds the rows that a
    batch picks and no others, so that the gradient stays sparse.

    Args: those of `keras.layers.Embedding`, and `output_quantizer`, of the table: "table" with the policy's bits by default.
    """

    activation_types = (*NARROW, "int16")
    integer_slots = (0,)

    def __init__(self, *args, policy="int8", output_quantizer=None, **kwargs):
        super().__init__(*args, policy=policy, **kwargs)
        bits = 16 if self.policy.storage == "int16" else self.policy.weight_bits
        chosen = "table" if output_quantizer is None else output_quantizer
        self.output_quantizer = quantizers.with_width(chosen, quantizers.OUTPUT, bits)

    @property
    def table_rows(self):
        """How many rows there are to pick."""
        return self.input_dim

    def calibrated_values(self, outputs):
        """What calibration measures: the table, of which the data picks a few rows."""
        return ops.convert_to_tensor(self.embeddings)

    def _train(self, inputs, quantizer):
        if is_derived(self.embeddings):
            # Who shares the table moves rows that no batch picks.
            quantizer.observe(ops.convert_to_tensor(self.embeddings))
        return super()._train(inputs, quantizer)

    def integers(self, rows):
        """Rows of the table as the integers that the file holds."""
        return integer.to_grid(rows, self.output_quantizer.rows())

    def integer_call(self, x, y):
        return self.integers(keras.layers.Embedding.call(self, x))

    def compute_mask(self, inputs, mask=None):
        # What reads the mask has it as a tensor of its own.
        return None
