"""The quantizer of a table of embeddings."""

from keras import ops

from keras_quant.integer.params import QuantParams
from keras_quant.quantizers.activation import WIDEST
from keras_quant.quantizers.observed import Symmetric
from keras_quant.quantizers.registry import register


@register("table")
class TableQuantizer(Symmetric):
    """One symmetric scale for all rows of a table, `s = max|row| / (2^(bits-1) - 1)`.

    The rows that a training batch picks widen the range as soon as they pass it, and never narrow it: other rows may reach
    as far as it is, and no step looks at the whole table. Calibration measures the table itself.

    Args:
        bits: integer from 2 to 8; of a table on int16, 16.
        power_of_two, rounding, seed: as in `UniformQuantizer`.
    """

    def __init__(self, bits=8, **kwargs):
        super().__init__(bits=bits, **{**kwargs, "narrow": bits != 16})

    def params(self):
        """`QuantParams` of what is picked from the table: its few bits lie in a tensor of 8."""
        own = super().params()
        return own if own.type.storage == "int16" else QuantParams(own.scale, own.zero_point)

    def rows(self):
        """`QuantParams` of the integers in the table."""
        return super().params()

    def observe(self, x):
        if not self.trainable or self.range_phase == "frozen":
            return
        before, reach = ops.maximum(-self.low, self.high), ops.max(ops.abs(x))
        wider = ops.where(reach < WIDEST, ops.maximum(before, reach), before)
        self.low.assign(-wider)
        self.high.assign(wider)
