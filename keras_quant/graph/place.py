"""The fused graph of a float model → a Functional model of quantized layers with the same weights."""

import warnings

import keras
import numpy as np
from keras import tree
from keras.src.backend import is_float_dtype

from keras_quant import policy as policies
from keras_quant import quantizers
from keras_quant.errors import QuantizationError, UnsupportedLayerError
from keras_quant.graph.constants import layers_with_constant
from keras_quant.graph.expressions import count_readers, follow, weights_to_follow
from keras_quant.graph.keep import keep_float
from keras_quant.graph.kinds import is_real
from keras_quant.graph.model import QuantizedModel, joined_layers
from keras_quant.graph.operations import inputs_of, only_moves, quantized_layer
from keras_quant.graph.recurrence import Recurrence
from keras_quant.layers import FloatEntrance, QuantBooleans, QuantIdentity, Quantize, annotation, is_quantized
from keras_quant.layers.derived import derived_weights
from keras_quant.layers.loop import Loop, StepInput
from keras_quant.layers.weighted import fit_weight_ranges
from keras_quant.layers.with_mask import WithMask
from keras_quant.settings import FLOAT


def place(graph, name, fallback=None):
    """Build the quantized model.

    Layers keep their paths ("/" becomes "." in Keras's layer names); outputs keep their names. Where a layer wants integers
    of a width that the tensor does not have, a `Quantize` goes in between, one for all layers that want the same.

        conv2d (float) → dense (int8), dense_1 (int8)      ⟹      conv2d → conv2d_quantize → dense, dense_1

    Args:
        graph: fused `Graph` of a float model, with policies.
        name: of the new model.
        fallback: "float" to keep a layer without quantized form as it is; otherwise it is an error.

    Returns:
        A Functional `keras.Model`, its grids not yet set.
    """
    count_readers(graph)
    qmodel = _build(graph, name, fallback, lambda x, name: x)
    return qmodel if is_quantized(qmodel) else _build(graph, name, fallback, lambda x, name: FloatEntrance(name=name)(x))


def _build(graph, name, fallback, enter):
    """The model, each of its inputs passed through `enter`."""
    return place_behind(graph, name, lambda _, x: enter(x, f"{x.name}_float"), fallback)


def place_behind(graph, name, enter, fallback=None):
    """As `place`, with each input passed through a function (index, tensor) → tensor."""
    inputs = [keras.Input(batch_shape=v.shape, dtype=_dtype(v), name=v.name) for v in graph.inputs]
    placed = _Placed({v: enter(i, x) for i, (v, x) in enumerate(zip(graph.inputs, inputs))}, graph.weights)
    for node in graph.nodes:
        _place(node, placed, fallback)
    outputs = _named_outputs(graph, placed)
    # TensorFlow takes no scope that begins with an underscore, as the name of a model of class `_Private` does.
    made = QuantizedModel(tree.pack_sequence_as(graph.input_structure, inputs), outputs, name=name.lstrip("_") or "model")
    made.joined = joined_layers(graph, placed.tensors)
    return made


def _dtype(value):
    """Of an input: a float one is float32, as in the file, so that nothing is rounded before it is quantized."""
    return FLOAT if is_float_dtype(value.dtype) else value.dtype


class _Placed:
    """What stands so far.

    Args:
        inputs: dict from the graph's input `Value`s to tensors.
        weights: `Graph.weights`.

    Attributes:
        tensors: dict from `Value`s to tensors of the new model.
        layers: dict from the `id` of each float operation to the quantized layer that stands for it.
        floats: likewise to the float copy, of those that compute in float; a Dropout may be called on either.
        taken: names of layers in use.
        recurrent: `id`s of the float recurrent layers of which a call stands.
    """

    def __init__(self, inputs, weights):
        self.weights = weights
        self.inputs, self.tensors, self.grids = inputs, dict(inputs), {}
        self.layers, self.floats = {}, {}
        self.taken = {value.name for value in inputs}
        self.recurrent = set()

    def unique(self, name):
        """A name like `name` that no layer has yet."""
        candidate, count = name, 0
        while candidate in self.taken:
            count += 1
            candidate = f"{name}_{count}"
        self.taken.add(candidate)
        return candidate

    def integers(self, value, policy, storage):
        """A value's tensor as integers of a storage type; of any type for `None`."""
        note = annotation(self.tensors[value])
        if note is not None and storage in (None, note.quantizer.type.storage):
            return self.tensors[value]
        if value.dtype == "bool" and policy.storage == "int8":
            return self.zeros_and_ones(value)
        key = value, policy.storage
        if key not in self.grids:
            name = f"{_dotted(value.name)}_quantize" + ("_int16" if policy.storage == "int16" else "")
            wide = policies.Policy("int8", policy.storage)
            self.grids[key] = Quantize(name=self.unique(name), **_policy_argument(wide))(self.tensors[value])
        return self.grids[key]

    def zeros_and_ones(self, value):
        """A boolean value's tensor as the numbers 0 and 1 on a grid."""
        key = value, "bool"
        if key not in self.grids:
            self.grids[key] = QuantBooleans(name=self.unique(f"{_dotted(value.name)}_numbers"))(self.tensors[value])
        return self.grids[key]

    def precision_of(self, value):
        """The policy that a tensor's own precision amounts to, or `None` for a model's input."""
        tensor, note = self.tensors[value], annotation(self.tensors[value])
        if note is not None:
            return policies.get("int16" if note.quantizer.type.storage == "int16" else "int8")
        return (
            None
            if value in self.inputs or not is_real(value)
            else policies.get("float16" if tensor.dtype == "float16" else "float32")
        )


def _policy_argument(policy):
    return {} if policy == policies.get("int8") else {"policy": policy}


def _place(node, placed, fallback):
    if isinstance(node.operation, Recurrence):
        _place_loop(node, placed, fallback)
        return
    policy = _policy_of(node, placed)
    if policy.computes_in_float:
        keep_float(node, _name_of(node, placed.floats, placed), policy, placed)
        return
    name = _name_of(node, placed.layers, placed)
    try:
        placed.tensors[node.output] = _quantized(node, name, policy, placed)
    except UnsupportedLayerError:
        if fallback != "float":
            raise
        known = placed.floats.get(id(node.operation))
        keep_float(node, name if known is None else known.name, None, placed)


def _place_loop(node, placed, fallback):
    """A recurrent layer: a `Loop` over a quantized model of one step."""
    recurrence, policy = node.operation, node.policy
    sequences, first = recurrence.parted(node.args[0])
    tensors = [_sequence(value, policy, placed) for value in sequences]
    loop = placed.layers.get(id(recurrence))
    if loop is None:
        if id(recurrence.layer) in placed.recurrent:
            warnings.warn(
                f"Layer '{node.path}' is recurrent and called with a mask and without. Each way gets weights of its own, "
                "equal now, which train apart. Mask every call, or none.",
                stacklevel=2,
            )
        placed.recurrent.add(id(recurrence.layer))
        step = _step(recurrence, tensors, policy, fallback)
        loop = Loop(step, name=placed.unique(_dotted(node.path)), **recurrence.arguments)
        placed.layers[id(recurrence)] = loop
        fit_weight_ranges(loop)
    for index, value in enumerate(first):
        tensors.append(_first_state(value, loop, index, policy, placed))
    outputs = loop(tensors)
    placed.tensors.update(zip(tree.flatten(node.outputs), tree.flatten(outputs)))


def _sequence(value, policy, placed):
    if policy.computes_in_float or not is_real(value):
        return placed.tensors[value]
    return placed.integers(value, policy, policy.storage)


def _first_state(value, loop, index, policy, placed):
    """A first state as the loop takes it: real numbers, or integers of which the grid is to be the state's."""
    entrance = loop.entrances.get(loop.sequences + index)
    if entrance is None:
        return placed.tensors[value]
    tensor, grid = placed.integers(value, policy, policy.storage), entrance.grid
    if grid.tieable and annotation(tensor).quantizer.tieable:
        return tensor
    own = {} if grid.tieable else {"output_quantizer": quantizers.serialize(grid)}
    name = placed.unique(f"{loop.name}_state_{index}")
    return Quantize(name=name, **own, **_policy_argument(policies.Policy("int8", policy.storage)))(tensor)


def _step(recurrence, tensors, policy, fallback):
    """The quantized model of one step of a recurrent layer."""
    graph = recurrence.prepared(policy)
    count_readers(graph)
    on_grids = [annotation(x) is not None for x in tensors]
    on_grids += [not (policy.computes_in_float or real) for real in recurrence.real_states(graph)]
    names = _distinct([_dotted(v.name) for v in graph.inputs])
    inputs = [keras.Input(batch_shape=v.shape, dtype=_dtype(v), name=name) for v, name in zip(graph.inputs, names)]
    own = _policy_argument(policies.Policy("int8", policy.storage)) if policy.storage else {}
    enter = lambda slot, x: StepInput(slot, name=f"{x.name}_in", **own)(x) if on_grids[slot] else x
    placed = _Placed({v: enter(slot, x) for slot, (v, x) in enumerate(zip(graph.inputs, inputs))}, graph.weights)
    placed.taken |= {f"{x.name}_in" for x in inputs}
    for node in graph.nodes:
        _place(node, placed, fallback)
    output, *states = tree.flatten(graph.outputs)
    made = [placed.tensors[output] if policy.computes_in_float else placed.integers(output, policy, policy.storage)]
    return QuantizedModel(inputs, made + [placed.tensors[v] for v in states], name=f"{recurrence.name}_step")


def _distinct(names):
    """Names of a step's inputs; outputs of one operation in front of the loop, such as `ops.split`, are numbered."""
    numbers = [names[:index].count(name) for index, name in enumerate(names)]
    return [f"{name}.{number}" if names.count(name) > 1 else name for name, number in zip(names, numbers)]


def _name_of(node, layers, placed):
    known = layers.get(id(node.operation))
    return known.name if known is not None else placed.unique(_dotted(node.path))


def _policy_of(node, placed):
    """A node's policy; a layer that only moves data goes along with its input's precision, unless the map names it."""
    own = placed.precision_of(node.inputs[0]) if node.inputs and not node.named else None
    if own is None or own.storage == node.policy.storage:
        return node.policy
    return own if only_moves(node, policies.get("int8") if own.computes_in_float else own) else node.policy


def _quantized(node, name, policy, placed):
    """The output of a node's quantized layer, which is made at its first call."""
    if node.refusal is not None:
        raise UnsupportedLayerError(node.refusal)
    layers_with_constant(node)  # raises, saying why `lift_constants` left it
    layer = placed.layers.get(id(node.operation)) or quantized_layer(node, name, policy)
    storage = policy.storage if node.named else layer.input_storage
    inputs = inputs_of(node)
    flat = [
        placed.tensors[value] if slot in layer.integer_slots else placed.integers(value, policy, storage)
        for slot, value in enumerate(tree.flatten(inputs))
    ]
    outputs = layer(tree.pack_sequence_as(inputs, flat))
    placed.layers[id(node.operation)] = layer
    copy_weights(node, layer, placed.weights)
    return outputs


def _named_outputs(graph, placed):
    """Outputs under their Keras names, which a loss or a signature may rely on."""
    flat = []
    for value, name in zip(tree.flatten(graph.outputs), graph.output_names):
        tensor = placed.tensors[value]
        if not isinstance(graph.outputs, dict) and tensor._keras_history.operation.name != name and name not in placed.taken:
            cls = keras.layers.Identity if annotation(tensor) is None else QuantIdentity
            tensor = cls(name=placed.unique(_dotted(name)))(tensor)
        flat.append(tensor)
    for index, mask in enumerate(graph.output_masks):
        if mask is not None:
            # Losses and metrics read it from the tensor.
            masked = WithMask(name=placed.unique(f"{flat[index]._keras_history.operation.name}_masked"))
            flat[index] = masked([flat[index], placed.tensors[mask]])
    return tree.pack_sequence_as(graph.outputs, flat)


def copy_weights(node, layer, weights):
    """Copy variables and `trainable` from a node's float layers to the quantized one.

    Args:
        node: `Node`.
        layer: the quantized one, built.
        weights: `Graph.weights`: variables that it shares with others are computed from the same `Source`.
    """
    source = node.operation
    if not isinstance(source, keras.layers.Layer):
        return
    frozen = isinstance(source, keras.layers.BatchNormalization) and node.training is False
    layer.trainable = source.trainable and not frozen
    if hasattr(layer, "copy_weights"):
        layer.copy_weights(source)
    else:
        _copy_by_name(node.path, source, layer)
        follow(layer, weights_to_follow(source, weights))
    if node.batch_norm is not None:
        holder = layer if hasattr(layer, "batch_norm") else layer.pointwise
        # Called with `training=False`, as the base in transfer learning is: its statistics stay.
        holder.batch_norm.trainable = node.batch_norm.trainable and node.training is not False
        _copy_by_name(node.batch_norm.name, node.batch_norm, holder.batch_norm)
    fit_weight_ranges(layer)


def _copy_by_name(path, source, target):
    own = {}
    for variable in target.variables:
        own.setdefault(variable.name, variable)
    for variable in (*source.variables, *derived_weights(source).values()):
        if variable.name not in own:
            continue
        value = keras.ops.convert_to_numpy(variable)
        if not np.all(np.isfinite(value)):
            raise QuantizationError(
                f"Weight '{variable.name}' of layer '{path}' holds NaN or infinite values. Train or load the model anew."
            )
        own[variable.name].assign(value)


def _dotted(path):
    return path.replace("/", ".")
