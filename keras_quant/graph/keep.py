"""Layers that stay in float between quantized ones: `quantize(..., fallback="float")`."""

import keras
from keras import tree

from keras_quant.errors import UnsupportedLayerError
from keras_quant.graph.explain import location
from keras_quant.graph.graph import Value
from keras_quant.layers import Quantize


def keep_float(node, name, layers, tensors, raw, taken):
    """Call a copy of a node's float operation, and put what it makes on a grid.

        conv2d → erf → dense      ⟹      conv2d (int8) → erf → erf_quantize (int8) → dense (int8)

    Args:
        node: `Node` of the float graph.
        name: of the copy.
        layers: dict from the `id` of each float operation to what stands for it; the copy is added.
        tensors: dict from `Value`s to tensors of the new model; the outputs are added.
        raw: dict from the model's inputs to their tensors before quantization: a layer that takes integers gets those.
        taken: names of layers in use.
    """
    key = id(node.operation)
    first = key not in layers
    if first:
        layers[key] = copy_of(node, name)
    fill = lambda x: _plain_input(x, tensors, raw) if isinstance(x, Value) else x
    args, kwargs = tree.map_structure(fill, (node.args, node.kwargs))
    outputs = layers[key](*args, **kwargs)
    if first and isinstance(node.operation, keras.layers.Layer):
        layers[key].set_weights(node.operation.get_weights())
        layers[key].trainable = node.operation.trainable
    outputs = _joined(node, outputs)
    for value, tensor in zip(tree.flatten(node.outputs), tree.flatten(outputs)):
        if _is_real(tensor):
            grid, count = f"{name}_quantize", 0
            while grid in taken:
                count += 1
                grid = f"{name}_quantize_{count}"
            taken.add(grid)
            tensor = Quantize(name=grid)(tensor)
        tensors[value] = tensor


def copy_of(node, name):
    """A float layer or operation like the node's, without its weights."""
    operation = node.operation
    if isinstance(operation, keras.layers.Lambda):
        # A config holds the function's bytecode without the module around it, where it finds `tf` and its like.
        shape, mask = operation._output_shape, operation.mask
        return keras.layers.Lambda(
            operation.function, shape, mask, operation.arguments, name=name, dtype=operation.dtype_policy
        )
    try:
        return type(operation).from_config({**operation.get_config(), "name": name})
    except Exception as error:
        raise UnsupportedLayerError(
            f"Layer '{node.path}' ({type(operation).__name__}){location(node)} cannot be copied, so not be kept in float. "
            "Give it a `get_config` that holds the arguments of its constructor."
        ) from error


def _joined(node, x):
    """What was fused into the node, which in float stands on its own again."""
    if node.batch_norm is not None:
        norm = type(node.batch_norm).from_config(node.batch_norm.get_config())
        x = norm(x)
        norm.set_weights(node.batch_norm.get_weights())
        norm.trainable = node.batch_norm.trainable
    return x if node.activation is None else keras.layers.Activation(node.activation)(x)


def _plain_input(value, tensors, raw):
    return raw[value] if value in raw and not _is_real(raw[value]) else tensors[value]


def _is_real(tensor):
    return keras.backend.standardize_dtype(tensor.dtype).startswith(("float", "bfloat"))
