"""What layers share that are a row of other quantized layers."""

from keras_quant.layers.annotation import annotation
from keras_quant.layers.base import QuantComposite


class QuantChain(QuantComposite):
    """Mixin: one layer after the other. A subclass gives `make_parts`."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.parts = []

    def make_parts(self, input_shape):
        """The quantized layers, in order; made once the input's shape is known."""
        raise NotImplementedError

    def build_parts(self, input_shape):
        self.parts = self.make_parts(input_shape)
        for part in self.parts:
            part.build(input_shape)
            input_shape = part.compute_output_shape(input_shape)

    def compose(self, inputs, training=None):
        for part in self.parts:
            inputs = part(inputs, training=training)
        return inputs

    @property
    def last_part(self):
        return self.parts[-1]

    def compute_output_spec(self, inputs, *args, **kwargs):
        # Part by part, because a part that keeps its input's grid has none of its own.
        spec = inputs if annotation(inputs) is not None else self.input_layers["0"].compute_output_spec(inputs)
        for part in self.parts:
            spec = part.compute_output_spec(spec)
        return spec
