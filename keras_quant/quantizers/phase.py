"""What a schedule changes in a quantizer while a model trains: whether it rounds, who moves its range, how wide it is."""

from keras_quant.errors import QuantizationError


class Phased:
    """Mixin of quantizers: the phase of training that they are in.

    Plain attributes, read while a training step is traced, so that a step pays for its own phase only; who changes them has
    the step traced again, as `callbacks.Schedule` does. Files do not keep them.

    Attributes:
        fake_quant_enabled: whether training rounds. Inference always does.
        range_phase: "observed" for a range that follows the data even where it is otherwise learned, "frozen" for one that
            stays, `None` for what the class does.
        final_bits: the width that the quantizer is made for. Until a schedule has come down to it, `bits` is larger.
    """

    fake_quant_enabled = True
    range_phase = None
    final_bits = 8
    # Whether gradients reach the range.
    learns = False

    def trained_ranges(self):
        """The variables of the range that are trained."""
        return []

    @property
    def trains_range(self):
        """Whether gradients reach the range in the present phase."""
        return self.learns and self.range_phase is None

    @property
    def follows_data(self):
        """Whether a range that is otherwise learned is to follow the data."""
        return self.range_phase == "observed" and self.trainable

    def set_phase(self, fake_quant_enabled=True, range_phase=None):
        """Enter a phase; without arguments, the ordinary one."""
        self.fake_quant_enabled, self.range_phase = fake_quant_enabled, range_phase
        for variable in self.trained_ranges():
            # A range without gradient must not be moved by the optimizer's momentum, either.
            variable.trainable = self.trainable and self.trains_range

    def set_bits(self, bits):
        """Go over to another width; `final_bits` stays. Ranges are taken along as far as they depend on the width."""
        raise QuantizationError(
            f"{type(self).__name__} cannot change its width while it trains. Received: bits={bits}, made for "
            f"{self.final_bits}"
        )

    def _width_config(self):
        return {"bits": self.final_bits, **({} if self.bits == self.final_bits else {"annealed_bits": self.bits})}
