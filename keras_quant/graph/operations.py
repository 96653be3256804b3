"""Which quantized layer computes a leaf of a float model."""

import inspect

import keras
from keras import tree
from keras.src.ops import nn

from keras_quant import layers
from keras_quant import policy as policies
from keras_quant.errors import QuantizationError, UnsupportedLayerError
from keras_quant.graph.explain import WAYS_OUT, location
from keras_quant.graph.graph import Value
from keras_quant.graph.rebuild import config_of
from keras_quant.layers.dropout import QuantIdentityInInference
from keras_quant.layers.functions import FUSED_ACTIVATIONS, activation_layer
from keras_quant.layers.registry import takes_constants

_FUNCTIONS = {nn.Relu: keras.activations.relu, nn.Relu6: keras.activations.relu6}


def has_quantized_form(operation):
    """Whether a quantized layer stands for it, or a float one whatever the policy."""
    if layers.float_stand_in(operation) is not None:
        return True
    return layers.quantized_class(operation) is not None or layers.operation_factory(operation) is not None


def quantized_layer(node, name, policy):
    """The quantized layer of a node of a float graph, with what was fused into it.

    Args:
        node: `Node`.
        name: of the new layer.
        policy: `Policy` of the new layer, of integers.

    Raises:
        UnsupportedLayerError: if the node has no quantized form, or not in this precision.
    """
    operation, fused = node.operation, _fused_arguments(node)
    # Layers that are registered from outside need not know of policies to be int8.
    fused |= {} if policy == policies.get("int8") else {"policy": policy.config}
    if isinstance(operation, keras.layers.Activation):
        if operation.activation is keras.activations.linear:
            return layers.QuantIdentity(name=name)
        return activation_layer(operation.activation, name=name, **fused)
    factory = layers.operation_factory(operation)
    if factory is not None:
        if not takes_constants(operation):
            _check_tensors_only(node)
        return factory(operation, positional(node), name=name, **fused)
    is_quantized = isinstance(operation, layers.QuantLayer)
    cls = type(operation) if is_quantized else layers.quantized_class(operation)
    if cls is None:
        kind = "Layer" if isinstance(operation, keras.layers.Layer) else "Operation"
        reason = layers.reason_against(operation)
        raise UnsupportedLayerError(
            f"{kind} '{node.path}' ({type(operation).__name__}){location(node)} has no quantized form. "
            f"{reason + ' ' if reason else ''}{WAYS_OUT}"
        )
    if issubclass(cls, QuantIdentityInInference) and node.training is not None:
        if node.training:
            raise UnsupportedLayerError(
                f"Layer '{node.path}' ({type(operation).__name__}){location(node)} is called with `training=True` and so "
                f"acts in inference, too, which no operator does. Call it without."
            )
        return layers.QuantIdentity(name=name)
    own_config = hasattr(cls, "config_of") and not is_quantized
    config = cls.config_of(operation) if own_config else config_of(operation)
    if is_quantized:
        # A pass made it, without the policy, which says what its quantizers are.
        config = {key: value for key, value in config.items() if key != "derived" and not key.endswith("_quantizer")}
    try:
        return cls.from_config({**config, **fused, "name": name, "dtype": "float32"})
    except TypeError as error:
        # Keras wraps whatever a constructor raises; ours says what to do.
        if isinstance(error.__context__, QuantizationError):
            raise error.__context__ from None
        cause = str(error).strip().splitlines()[-1].split("Full object config")[0].strip()
        raise UnsupportedLayerError(
            f"Layer '{node.path}' ({type(operation).__name__}) cannot be rebuilt from its `get_config`: "
            f"{cause.removeprefix('Exception encountered: ')} {WAYS_OUT}"
        ) from error


def only_moves(node, policy):
    """Whether the quantized layer of a node would only move its input's integers."""
    cls = type(node.operation) if isinstance(node.operation, layers.QuantLayer) else layers.quantized_class(node.operation)
    if cls is not None and not getattr(cls, "keeps_grid", False):
        return False
    try:
        return getattr(quantized_layer(node, "probe", policy), "keeps_grid", False)
    except UnsupportedLayerError:
        return False


def leaves_model(node, readers):
    """Whether a node's values leave the model, moved or not.

    Args:
        node: `Node` with a policy.
        readers: `Graph.consumers()`.
    """
    for reader in readers.get(node.output, []):
        if reader is None or (only_moves(reader, reader.policy) and leaves_model(reader, readers)):
            return True
    return False


def is_meant(part, node):
    """Whether a map that names a node means a part of what it became: what only moves is not quantized as it runs."""
    return node.named and not (node.policy.activations == "dynamic" and only_moves(part, policies.get("int8")))


def inputs_of(node):
    """What the quantized layer of a node is called with: a `Value`, or a list of them."""
    values = node.inputs
    if (
        isinstance(node.operation, keras.layers.Layer)
        and len(node.args) == 1
        and len(tree.flatten(node.args)) == len(values)
    ):
        return node.args[0]
    return values if len(values) > 1 else values[0]


def activation_of(operation):
    """The activation function that a layer or operation amounts to, if kernels can fuse it; else `None`."""
    if isinstance(operation, keras.layers.ReLU):
        plain = not operation.negative_slope and not operation.threshold
        functions = {None: keras.activations.relu, 6.0: keras.activations.relu6}
        return functions.get(operation.max_value) if plain else None
    if isinstance(operation, keras.layers.Activation):
        fused = operation.activation in FUSED_ACTIVATIONS and operation.activation is not keras.activations.linear
        return operation.activation if fused else None
    return _FUNCTIONS.get(type(operation))


def _fused_arguments(node):
    fused = {}
    if node.batch_norm is not None:
        fused["batch_norm"] = type(node.batch_norm).from_config({**config_of(node.batch_norm), "dtype": "float32"})
    if node.activation is not None:
        fused["activation"] = node.activation
    if node.input_scale != 1.0:
        fused["input_scale"] = node.input_scale
    return fused


def positional(node):
    """All that an operation is called with, in the order of its `call`."""
    bound = inspect.signature(node.operation.call).bind(*node.args, **node.kwargs)
    bound.apply_defaults()
    return bound.args


def _check_tensors_only(node):
    others = [x for x in keras.tree.flatten(node.args) if not isinstance(x, Value)]
    if others:
        raise UnsupportedLayerError(
            f"Operation '{node.path}' ({type(node.operation).__name__}){location(node)} has a constant operand, "
            f"which its quantized form does not take there. {WAYS_OUT} Received: {_described(others[0])}"
        )


def _described(constant):
    """An array by its shape: its values would fill the screen."""
    shape = getattr(constant, "shape", ())
    return f"{type(constant).__name__} of shape {tuple(shape)}" if shape else repr(constant)
