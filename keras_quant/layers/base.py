"""What all quantized layers share: the grids of inputs and output, and the two kinds of arithmetic."""

import keras
from keras import ops, tree

from keras_quant import backend, quantizers
from keras_quant import policy as policies
from keras_quant.errors import QuantizationError, UnsupportedLayerError
from keras_quant.integer import Quantized, kernels, to_grid
from keras_quant.layers import alike
from keras_quant.layers.annotation import annotate, annotation, without_unit
from keras_quant.layers.derived import FollowsWeights
from keras_quant.layers.functions import FUSED_ACTIVATIONS, activation_layer
from keras_quant.settings import InFloat32, warn_of_rounded_data


class GridInputs(InFloat32):
    """Mixin: inputs that are not integers of the policy's type are quantized first.

    Such are a model's own input, a float layer's output, integers of another width. Which inputs those are is seen at the
    first call; each gets a `Quantize` layer in `input_layers`.

    Args:
        policy: name or `Policy`; activations are of a type in `activation_types`.
    """

    # What the kernels take, as the `activations` of policies.
    activation_types = policies.NARROW
    # Which inputs are integers or booleans, such as indices, and stay what they are.
    integer_slots = ()

    def __init__(self, *args, policy="int8", **kwargs):
        super().__init__(*args, **kwargs)
        self.policy = policies.get(policy)
        if self.policy.activations not in self.activation_types:
            raise UnsupportedLayerError(self._refusal())
        self.built = False  # some Keras classes have nothing to build; here there are grids
        self.input_layers = {}

    def __call__(self, inputs, *args, **kwargs):
        flat = tree.flatten(inputs)
        if not self.built:
            self._add_input_layers([slot for slot, x in enumerate(flat) if not self._takes(slot, x)])
        return super().__call__(inputs, *args, **kwargs)

    def _refusal(self):
        cls, given = type(self), self.policy
        near = policies.Policy(given.weights if given.weights in policies.NARROW else "int8", "int8").name
        kind = "in float as a quantized layer" if given.computes_in_float else f"on {given.activations}"
        return (
            f"Layer '{self.name}' ({cls.__name__.removeprefix('Quant')}) cannot compute {kind}: no kernel of the runtime "
            f"does what it needs. The nearest policy that works is '{near}'. Received: policy='{given.name}'"
        )

    @property
    def input_storage(self):
        """The integer type that inputs have to have, or `None` where any will do."""
        return self.policy.storage

    def _takes(self, slot, x):
        note = annotation(x)
        on_grid = note is not None and self.input_storage in (None, note.quantizer.type.storage)
        return on_grid or slot in self.integer_slots

    def quantize_inputs(self, inputs, training=None):
        """The inputs, each on a grid."""
        flat = [self._on_grid(slot, x, training) for slot, x in enumerate(tree.flatten(inputs))]
        return tree.pack_sequence_as(inputs, flat)

    def _on_grid(self, slot, x, training):
        if self._takes(slot, x):
            return x
        if str(slot) not in self.input_layers:
            raise QuantizationError(
                f"Layer '{self.name}' was built on the output of a quantized layer and now gets a tensor that none made. "
                "Call it on a quantized layer's output, or put a `keras_quant.layers.Quantize` in between."
            )
        return self.input_layers[str(slot)](x, training=training)

    def _add_input_layers(self, slots):
        self.input_layers = {
            str(slot): Quantize(
                policy=policies.Policy("int8", self.policy.storage),
                name=f"{self.name}_input" + (f"_{slot}" if int(slot) else ""),
            )
            for slot in slots
        }

    def __dir__(self):
        # Keras saves what it finds among a layer's attributes; one that is the layer itself would have no end.
        return [name for name in super().__dir__() if name != "last_part"]

    def get_config(self):
        config = super().get_config()
        return config if self.policy == policies.get("int8") else {**config, "policy": self.policy.config}

    def get_build_config(self):
        # Loading builds a layer before it is called, so which inputs it quantizes itself has to be said.
        return {**(super().get_build_config() or {}), "input_layers": sorted(self.input_layers)}

    def build_from_config(self, config):
        config = dict(config)
        self._add_input_layers(config.pop("input_layers", []))
        super().build_from_config(config)


class QuantLayer(FollowsWeights, GridInputs):
    """Mixin that turns a Keras layer into a quantization-aware one; stands before the Keras class in the bases.

    A layer computes in one of two ways:

    * **training**: float arithmetic on fake-quantized values, with straight-through gradients (`train_arithmetic`);
    * **inference**: the integer kernel's own formula (`integer_call`), so that `predict` gives what the device gives.

    Its output lies on the grid of `output_quantizer`, or on its input's where the format demands that (`keeps_grid`).
    `main_call` is the operator itself; `call` also quantizes bare inputs (`input_layers`) and applies what the kernel cannot
    do itself, such as most activations (`afterwards`), each of which is a layer of its own.

    A subclass gives `integer_call`, and `float_call` where the Keras class's `call` is not the float arithmetic.

    Args:
        policy: name or `Policy`: the precision of what follows.
        output_quantizer: name, config or object, see `quantizers.get`; by default the policy's.
        derived: as of `FollowsWeights`.
    """

    # Output on the grid of the (first) input: no quantizer of its own.
    keeps_grid = False
    # The grid that the format fixes for the output, as the arguments of `FixedGrid`.
    fixed_grid = None
    # Whether `f(c·x) = c·f(x)`, of one input and c > 0: the unit of the input's learned range then passes through.
    homogeneous = False
    # Whether the kernel can clamp its output to a fused activation, kept in `self.activation`.
    fuses_activation = False

    def __init__(self, *args, output_quantizer=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.afterwards = []
        if self.fuses_activation and self.activation not in FUSED_ACTIVATIONS:
            self.afterwards.append(self.activation_layer(self.activation))
        if self.fixed_grid is not None:
            output_quantizer = quantizers.FixedGrid(*self.fixed_grid)
        if output_quantizer is None:
            own = self.policy.new_output_quantizer()
        else:
            own = quantizers.get(output_quantizer, quantizers.OUTPUT, self.policy.output_bits)
        if own.type.storage != self.policy.storage:
            raise QuantizationError(
                f"Layer '{self.name}' computes on {self.policy.storage}, and its quantizer {type(own).__name__} makes "
                f"{own.type.storage}. Give the layer a policy of that type. Received: policy='{self.policy.name}'"
            )
        self.output_quantizer = None if self.keeps_grid else own
        if self.output_quantizer is not None:
            self.output_quantizer.bounds = self.bounds

    def build(self, input_shape):
        super().build(input_shape)
        for layer in self.afterwards:
            layer.build(self.compute_output_shape(input_shape))
        self.built = True

    def activation_layer(self, function):
        """The layer that computes an activation which the kernel does not fuse."""
        other = {} if self.policy == policies.get("int8") else {"policy": self.policy}
        return activation_layer(function, name=f"{self.name}_activation", **other)

    @property
    def input_storage(self):
        return None if self.keeps_grid and "int16" in self.activation_types else self.policy.storage

    @property
    def bounds(self):
        """Real bounds of the activation that the kernel fuses."""
        return FUSED_ACTIVATIONS.get(self.activation, (None, None)) if self.fuses_activation else (None, None)

    @property
    def last_part(self):
        """The layer that makes the output."""
        return self.afterwards[-1] if self.afterwards else self

    def __dir__(self):
        # Keras saves and loads what it finds here, and would load a layer that is its own last part without end.
        return [name for name in super().__dir__() if name != "last_part"]

    def activate(self, x):
        """Apply the fused activation."""
        return x if self.bounds == (None, None) else self.activation(x)

    def float_call(self, inputs):
        """The float layer's arithmetic, fused activation included."""
        return super().call(inputs)

    def train_arithmetic(self, inputs):
        """What `float_call` computes, with fake-quantized weights and batch statistics; may leave out the activation."""
        return self.float_call(inputs)

    def integer_call(self, inputs, y):
        """The integer kernel's formula.

        Args:
            inputs: `Quantized`, in the structure that the Keras layer takes.
            y: `QuantParams` of the output.

        Returns:
            Centred integers of the output.
        """
        raise NotImplementedError

    def call(self, inputs, training=None):
        outputs = self.main_call(self.quantize_inputs(inputs, training), training)
        for layer in self.afterwards:
            outputs = layer(outputs, training=training)
        return outputs

    def main_call(self, inputs, training=None):
        """The operator alone, on inputs that lie on grids."""
        if any(backend.is_symbolic(x) for x in tree.flatten(inputs)):
            return KernelCall(self)(inputs)
        self.connect(inputs)
        quantizer = self.grid_of_output(inputs)
        if training:
            outputs, quotient = self._train(inputs, quantizer)
            return annotate(outputs, quantizer, quotient=quotient)
        y = quantized_values(tree.flatten(inputs)[0]).params if self.keeps_grid else quantizer.params()
        operands = self.operands(inputs, y)
        integers = self.integer_call(operands, y) if self.keeps_grid else alike.integer_call(self, operands, y)
        return annotate(integers * y.scale, quantizer, Quantized(integers, y))

    def operands(self, inputs, y):
        """The exact integers of the inputs, as `integer_call` wants them; those in `integer_slots` as they are."""
        flat = [x if slot in self.integer_slots else quantized_values(x) for slot, x in enumerate(tree.flatten(inputs))]
        return tree.pack_sequence_as(inputs, flat)

    def _train(self, inputs, quantizer):
        """What training makes of inputs that lie on grids, and the `quotient` of `Annotation`."""
        inputs, passed = without_unit(inputs) if self.homogeneous else (inputs, None)
        outputs = self.train_arithmetic(inputs)
        if self.keeps_grid:
            return backend.times_unit(outputs, passed), None if passed is None else (outputs, passed)
        if not quantizer.clamps(self.bounds):
            outputs = self.activate(outputs)
        quantizer.observe(outputs)
        if not (quantizer.has_unit and quantizer.fake_quant_enabled):
            return quantizer.fake_quant(backend.times_unit(outputs, passed)), None
        unit = quantizer.unit(outputs)
        return self._rounded(backend.times_unit(outputs, passed, per=unit), unit, quantizer)

    def _rounded(self, quotient, unit, quantizer):
        """What `_train` returns, from what it would round, divided by the quantizer's unit."""
        quotient = quantizer.round_to_grid(quotient)
        return backend.times_unit(quotient, unit), (quotient, unit)

    def connect(self, inputs):
        """Called with the inputs of each call, symbolic ones too, before anything is computed: ties grids."""

    def grid_of_output(self, inputs):
        """The quantizer on whose grid `main_call` puts its output."""
        return self.output_quantizer if not self.keeps_grid else self._grid_of_input(tree.flatten(inputs)[0])

    def _grid_of_input(self, x):
        note = annotation(x)
        return note.quantizer if note is not None else self.input_layers["0"].output_quantizer

    def compute_output_spec(self, inputs, *args, **kwargs):
        spec = self.main_spec(inputs)
        for layer in self.afterwards:
            spec = layer.compute_output_spec(spec)
        return spec

    def main_spec(self, inputs):
        """The symbolic output of `main_call`."""
        self.connect(inputs)
        shape = self.compute_output_shape(tree.map_structure(lambda x: x.shape, inputs))
        return annotate(keras.KerasTensor(shape, dtype="float32"), self.grid_of_output(inputs))

    def get_config(self):
        config = super().get_config()
        if not self.keeps_grid and self.fixed_grid is None:
            config["output_quantizer"] = quantizers.serialize(self.output_quantizer)
        return config


class KernelCall(keras.Operation):
    """`layer.main_call` as a node of a symbolic graph: what tracing finds inside a quantized layer.

    Args:
        layer: a `QuantLayer`.
    """

    def __init__(self, layer):
        super().__init__(name=layer.name)
        self.layer = layer

    def call(self, inputs):
        return self.layer.main_call(inputs)

    def compute_output_spec(self, inputs):
        return self.layer.main_spec(inputs)


def quantized_values(x):
    """The exact integers of a tensor that lies on a grid."""
    note = annotation(x)
    if note.quantized is not None:
        return note.quantized
    # Made in training mode, or by a layer called with `training=True`: the real values lie on the grid.
    params = note.quantizer.params()
    return Quantized(to_grid(x, params), params)


@keras.saving.register_keras_serializable(package="keras_quant")
class Quantize(QuantLayer, keras.layers.Layer):
    """Put a real-valued tensor on a grid of integers: the entrance of a quantized model.

    At a model's input it costs nothing on the device, whose input tensor simply has this grid. On the output of a float
    layer, and on a tensor that lies on another grid, it is the operator QUANTIZE.

    Args:
        policy: name or `Policy`: the width of the integers.
        output_quantizer: name, config or object, see `quantizers.get`; by default the policy's.
    """

    activation_types = (*policies.NARROW, "int16")
    input_storage = None

    def __call__(self, inputs, *args, **kwargs):
        warn_of_rounded_data()
        return super().__call__(inputs, *args, **kwargs)

    def _add_input_layers(self, slots):
        pass

    def quantize_inputs(self, inputs, training=None):
        return inputs

    def main_call(self, inputs, training=None):
        if not backend.is_symbolic(inputs):
            inputs = self.float_call(inputs)
        if training or annotation(inputs) is not None or backend.is_symbolic(inputs):
            return super().main_call(inputs, training)
        y = self.output_quantizer.params()
        integers = to_grid(inputs, y)
        return annotate(integers * y.scale, self.output_quantizer, Quantized(integers, y))

    def float_call(self, inputs):
        # Pixels and features may come as integers.
        return inputs if inputs.dtype == "float32" else ops.cast(inputs, "float32")

    def integer_call(self, x, y):
        return kernels(x.params, y).requantize(x, y)

    def compute_output_shape(self, input_shape):
        return input_shape


class FusedActivation:
    """Mixin before `QuantLayer`: an `activation` argument for a Keras layer that has none.

    Args:
        activation: name or function, as in `keras.layers.Dense`.
    """

    fuses_activation = True

    def __init__(self, *args, activation=None, **kwargs):
        self.activation = keras.activations.get(activation)
        super().__init__(*args, **kwargs)

    def get_config(self):
        return {**super().get_config(), "activation": keras.activations.serialize(self.activation)}


class QuantComposite(GridInputs):
    """Mixin for a layer that is several operators, each a quantized layer of its own.

    Tracing looks through a composite, so the graph that is calibrated and exported holds its parts.
    """

    def compose(self, inputs, training=None):
        """Call the parts on inputs that lie on grids."""
        raise NotImplementedError

    def build_parts(self, input_shape):
        """Build each part with the shape it will get."""
        raise NotImplementedError

    @property
    def last_part(self):
        """The part that makes the output."""
        raise NotImplementedError

    def build(self, input_shape):
        self.build_parts(input_shape)
        self.built = True

    def call(self, inputs, training=None):
        return self.compose(self.quantize_inputs(inputs, training), training)

    def compute_output_spec(self, inputs, *args, **kwargs):
        shape = self.compute_output_shape(tree.map_structure(lambda x: x.shape, inputs))
        return annotate(keras.KerasTensor(shape, dtype="float32"), self.last_part.output_quantizer)

    # A float layer's own way would look for the kernel that here is a part's.
    save_own_variables = keras.layers.Layer.save_own_variables
    load_own_variables = keras.layers.Layer.load_own_variables


class EndsInProduct(QuantComposite):
    """Mixin for a composite whose last part is `self.product`, which owns the output's quantizer and shape."""

    @property
    def last_part(self):
        return self.product

    @property
    def output_quantizer(self):
        """That of the product."""
        return self.product.output_quantizer

    def compute_output_shape(self, input_shape):
        return self.product.compute_output_shape(input_shape)

    def get_config(self):
        return {**super().get_config(), "output_quantizer": self.product.get_config()["output_quantizer"]}
