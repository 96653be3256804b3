"""Recurrent layers to build a quantized model with by hand: `QuantLSTM` wherever `keras.layers.LSTM` would stand."""

import copy

import keras
from keras import ops, tree

from keras_quant import policy as policies
from keras_quant.layers.annotation import annotate, annotation
from keras_quant.layers.loop import Loop, StepInput
from keras_quant.settings import InFloat32

# Makes the quantized model of a float layer; the room of graphs, which is above this one, puts it here.
BUILDERS = []


class _Template:
    """A Keras layer that says what another one is to be."""

    def __init__(self, layer):
        self.layer = layer

    @property
    def config(self):
        return copy.deepcopy(self.layer.get_config())

    def fresh(self):
        """A new layer like it."""
        return type(self.layer).from_config(self.config)


class QuantRecurrent(InFloat32, keras.layers.Layer):
    """A recurrent layer in a quantized model: what `quantize` makes of the float layer, as one layer.

    Its weights are those of the layers inside: of products with the sequence, and of a `Loop` over the steps.

    Args: those of the Keras layer, and
        policy: name or `Policy`.
        template: the Keras layer, not built, in place of its arguments.
    """

    float_class = None

    def __init__(self, *args, policy="int8", template=None, **kwargs):
        template = self.float_class(*args, **kwargs) if template is None else template
        super().__init__(name=template.name, trainable=template.trainable)
        self.policy = policies.get(policy)
        # Not a part of this layer, which has the weights of what it becomes.
        self._template = _Template(template)
        self.supports_masking = True
        self.inner, self._given = None, None

    def __call__(self, inputs, initial_state=None, mask=None, **kwargs):
        if self.inner is None:
            states = [] if initial_state is None else tree.flatten(initial_state)
            mask = getattr(inputs, "_keras_mask", None) if mask is None else mask
            notes = [annotation(x) for x in (inputs, *states)]
            self._given = {
                "states": [list(x.shape[1:]) for x in states],
                "on_grid": [note is not None for note in notes],
                "masked": mask is not None and not states,
            }
        return super().__call__(inputs, initial_state=initial_state, mask=mask, **kwargs)

    def build(self, input_shape):
        shape = input_shape["inputs"] if isinstance(input_shape, dict) else input_shape
        self.inner = BUILDERS[-1](self._template.fresh(), shape, self.policy, **self._given)
        self.entrances = {layer.slot: layer for layer in self.inner.layers if isinstance(layer, StepInput)}
        self.built = True

    def call(self, inputs, initial_state=None, mask=None, training=None):
        states = [] if initial_state is None else tree.flatten(initial_state)
        given = [inputs, *states]
        for slot, x in enumerate(given):
            if slot in self.entrances and annotation(x) is not None:
                self.entrances[slot].lie_on(annotation(x).quantizer)
        if self._given["masked"]:
            given.append(ops.ones(ops.shape(inputs)[:2], "bool") if mask is None else mask)
        return self.inner(given, training=training)

    def reset_state(self):
        """Set the states that a `stateful` layer keeps to zero."""
        for layer in self.inner.layers if self.built else ():
            if isinstance(layer, Loop):
                layer.reset_state()

    reset_states = reset_state

    def compute_output_spec(self, inputs, initial_state=None, mask=None, training=None):
        specs = self._template.layer.compute_output_spec(keras.KerasTensor(inputs.shape, "float32"))
        notes = [annotation(x) for x in tree.flatten(self.inner.outputs)]
        put = lambda x, note: x if note is None else annotate(x, note.quantizer)
        return tree.pack_sequence_as(specs, [put(x, note) for x, note in zip(tree.flatten(specs), notes)])

    def compute_mask(self, inputs, mask=None):
        return self._template.layer.compute_mask(inputs, mask)

    def get_config(self):
        own = {} if self.policy == policies.get("int8") else {"policy": self.policy.config}
        return {**self._template.config, "name": self.name, "trainable": self.trainable, **own}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        policy = config.pop("policy", "int8")
        return cls(template=cls.float_class.from_config(config), policy=policy)

    def get_build_config(self):
        return {**(super().get_build_config() or {}), "given": self._given}

    def build_from_config(self, config):
        config = dict(config)
        self._given = config.pop("given")
        super().build_from_config(config)


def _stands_for(float_class):
    """The quantized class of a recurrent Keras layer."""
    name = "Quant" + float_class.__name__
    doc = (
        f"`keras.layers.{float_class.__name__}` in a quantized model.\n\n    Args: those of the Keras layer, and `policy`.\n"
    )
    body = {"__doc__": doc, "__module__": __name__, "float_class": float_class}
    return keras.saving.register_keras_serializable(package="keras_quant")(type(name, (QuantRecurrent,), body))


QuantLSTM = _stands_for(keras.layers.LSTM)
QuantGRU = _stands_for(keras.layers.GRU)
QuantSimpleRNN = _stands_for(keras.layers.SimpleRNN)
QuantRNN = _stands_for(keras.layers.RNN)
QuantBidirectional = _stands_for(keras.layers.Bidirectional)
QuantConvLSTM1D = _stands_for(keras.layers.ConvLSTM1D)
QuantConvLSTM2D = _stands_for(keras.layers.ConvLSTM2D)
QuantConvLSTM3D = _stands_for(keras.layers.ConvLSTM3D)
