"""The quantizer of a table of embeddings."""

from keras import ops

from keras_quant import backend
from keras_quant.errors import QuantizationError
from keras_quant.integer.params import QuantParams, float32_product, float32_ratio, narrow_type
from keras_quant.quantizers.activation import NARROWEST, WIDEST, power_of_two_above
from keras_quant.quantizers.observed import Symmetric
from keras_quant.quantizers.registry import register

GRANULARITIES = ("tensor", "row")


@register("table")
class TableQuantizer(Symmetric):
    """Symmetric scales of a table: one for all its rows, or one a row, `s = max|row| / (2^(bits-1) - 1)`.

    The rows that a training batch picks widen the range as soon as they pass it, and never narrow it: other rows may reach
    as far as it is, and no step looks at the whole table. Calibration measures the table itself. With a scale a row, the
    range is that of the 8 bits which what is picked is rounded to.

    Args:
        bits: integer from 2 to 8; of a table on int16, 16.
        granularity: "tensor" for one scale, "row" for one a row, which is for tables of 8 bits or fewer.
        power_of_two, rounding, seed: as in `UniformQuantizer`.
    """

    def __init__(self, bits=8, granularity="tensor", **kwargs):
        if granularity not in GRANULARITIES:
            raise QuantizationError(f"`granularity` is one of {list(GRANULARITIES)}. Received: granularity={granularity!r}")
        if granularity == "row" and bits == 16:
            raise QuantizationError(
                "A table on int16 has 16 bits, which need no scale a row. Leave `granularity` out. Received: bits=16, "
                "granularity='row'"
            )
        self.granularity = granularity
        super().__init__(bits=bits, **{**kwargs, "narrow": bits != 16})

    @property
    def has_row_scales(self):
        """Whether each row has a scale of its own."""
        return self.granularity == "row"

    def _set_type(self, bits):
        super()._set_type(bits)
        # What the table holds; `type` is of what is rounded behind it.
        self.table_type = self.type
        if self.has_row_scales:
            self.type = narrow_type(8)

    @property
    def bits(self):
        """Bits of one integer of the table."""
        return self.table_type.bits

    def params(self):
        """`QuantParams` of what is picked from the table: its few bits lie in a tensor of 8."""
        own = super().params()
        return own if own.type.storage == "int16" else QuantParams(own.scale, own.zero_point)

    def scale(self, rows):
        """The scale of each row, float32 of `rows`' shape with a last axis of 1; or the one scale, a scalar."""
        if not self.has_row_scales:
            return super().params().scale
        reach = ops.cast(ops.max(ops.abs(rows), axis=-1, keepdims=True), "float64")
        scale = ops.maximum(reach, NARROWEST) / self.table_type.high
        return ops.cast(power_of_two_above(scale) if self.power_of_two else scale, "float32")

    def integers(self, rows):
        """Rows of real numbers, float32 of any leading shape, as the integers that the file holds."""
        # A graph's optimizer would make one division of the two.
        inverse = float32_ratio(ops.ones_like(self.scale(rows)), self.scale(rows))
        steps = backend.round_half_even(float32_product(rows, inverse))
        return backend.clip(steps, self.table_type.low, self.table_type.high)

    def values(self, rows):
        """What the integers of rows stand for, as the runtime computes it: `float32(q · s)`."""
        rows = ops.stop_gradient(rows)
        return float32_product(self.integers(rows), self.scale(rows))

    def fake_quant_rows(self, rows):
        """`values` with a straight-through gradient, in the phases of training that round."""
        return backend.straight_through(self.values(rows), rows) if self.fake_quant_enabled else rows

    def observe(self, x):
        if not self.trainable or self.range_phase == "frozen":
            return
        before, reach = ops.maximum(-self.low, self.high), ops.max(ops.abs(x))
        wider = ops.where(reach < WIDEST, ops.maximum(before, reach), before)
        self.low.assign(-wider)
        self.high.assign(wider)

    def get_config(self):
        return {**super().get_config(), "granularity": self.granularity}
