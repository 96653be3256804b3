"""Layers that compute in float between quantized ones: by policy, or by `quantize(..., fallback="float")`."""

import keras
import numpy as np
from keras import tree
from keras.src.backend import is_float_dtype

from keras_quant.errors import QuantizationError, UnsupportedLayerError
from keras_quant.graph.explain import location
from keras_quant.graph.expressions import follow, is_expression, numbers_of, weights_to_follow
from keras_quant.graph.graph import Value
from keras_quant.graph.rebuild import config_of
from keras_quant.layers import dynamic_class
from keras_quant.policy import dtype_of
from keras_quant.settings import FLOAT

FAR_IN_HALF = 3e4
# TensorFlow pools volumes in float32 only.
WITHOUT_HALF = (keras.layers.MaxPooling3D, keras.layers.AveragePooling3D)


def keep_float(node, name, policy, placed):
    """Call a copy of a node's float operation; a quantized layer that reads it quantizes its output.

        conv2d (int8) → erf → dense (int8)      ⟹      conv2d (int8) → erf → erf_quantize (int8) → dense (int8)

    Args:
        node: `Node` of the float graph.
        name: of the copy.
        policy: `Policy` that computes in float, or `None` for float32.
        placed: what stands so far; layer and outputs are added.
    """
    key, dtype = id(node.operation), FLOAT if policy is None else dtype_of(policy)
    if isinstance(node.operation, WITHOUT_HALF):
        dtype = FLOAT
    first = key not in placed.floats
    if first:
        dynamic = policy is not None and policy.activations == "dynamic"
        placed.floats[key] = _dynamic(node, name, policy) if dynamic else copy_of(node, name, dtype)
    layer = placed.floats[key]
    half = policy is not None and policy.activations == "float16"
    constant = lambda x: keras.ops.convert_to_tensor(numbers_of(x)) if is_expression(x) else _in_half(x) if half else x
    fill = lambda x: placed.tensors[x] if isinstance(x, Value) else constant(x)
    args, kwargs = tree.map_structure(fill, (node.args, node.kwargs))
    outputs = layer(*args, **kwargs)
    if first and isinstance(node.operation, keras.layers.Layer):
        if hasattr(layer, "copy_weights"):
            layer.copy_weights(node.operation)
            follow(layer, weights_to_follow(node.operation, placed.weights))
        else:
            layer.set_weights(node.operation.get_weights())
        layer.trainable = node.operation.trainable
    outputs = _joined(node, outputs, dtype, placed)
    placed.tensors.update(zip(tree.flatten(node.outputs), tree.flatten(outputs)))


def _in_half(x):
    """A number that float16 holds, for one with which masks set scores far below all others: Keras's own."""
    is_scalar = isinstance(x, float) or (isinstance(x, np.ndarray) and x.ndim == 0 and x.dtype.kind == "f")
    return np.copysign(FAR_IN_HALF, x).astype("float32") if is_scalar and abs(x) > float(np.finfo("float16").max) else x


def copy_of(node, name, dtype=None):
    """A float layer or operation like the node's, without its weights."""
    operation = node.operation
    if isinstance(operation, keras.layers.Lambda):
        # A config holds the function's bytecode without the module around it, where it finds `tf` and its like.
        shape, mask = operation._output_shape, operation.mask
        return keras.layers.Lambda(
            operation.function, shape, mask, operation.arguments, name=name, dtype=dtype or operation.dtype_policy
        )
    try:
        return _copy(operation, _config(node), name, dtype)
    except Exception as error:
        raise UnsupportedLayerError(
            f"Layer '{node.path}' ({type(operation).__name__}){location(node)} cannot be copied, so not be kept in float. "
            "Give it a `get_config` that holds the arguments of its constructor."
        ) from error


def _config(node):
    """That of the node's operation; sizes that an EinsumDense leaves open would stay open in what it makes."""
    config, sizes = config_of(node.operation), list(node.output.shape[1:]) if isinstance(node.outputs, Value) else None
    if isinstance(node.operation, keras.layers.EinsumDense) and len(node.operation.partial_output_shape) == len(sizes):
        config["output_shape"] = sizes
    return config


def _copy(operation, config, name, dtype):
    if not isinstance(operation, keras.layers.Layer):
        # Operations of Keras 3.5 take no name.
        made = type(operation).from_config({key: value for key, value in config.items() if key != "name"})
        made.name = name
        return made
    config["name"] = name
    if dtype is not None and is_float_dtype(operation.compute_dtype):
        config["dtype"] = dtype
    return type(operation).from_config(config)


def _dynamic(node, name, policy):
    """The layer whose kernel quantizes activations as it runs; a float copy of a layer for which there is none."""
    cls = dynamic_class(node.operation, node.inputs[0].shape if node.inputs else (), node.named)
    if cls is not None:
        return cls.from_config({**_config(node), "name": name, "dtype": "float32", "policy": policy.config})
    if node.named:
        raise QuantizationError(
            f"Layer '{node.path}' ({type(node.operation).__name__}): no kernel of the runtime quantizes its activations as "
            f"it runs. The nearest policies that work are 'int8' and 'float32'. Received: policy='{policy.name}'"
        )
    return copy_of(node, name, "float32")


def _joined(node, x, dtype, placed):
    """What was fused into the node, which in float stands on its own again."""
    if node.batch_norm is not None:
        norm = _copy(node.batch_norm, config_of(node.batch_norm), placed.unique(node.batch_norm.name), dtype)
        x = norm(x)
        norm.set_weights(node.batch_norm.get_weights())
        norm.trainable = node.batch_norm.trainable
    if node.activation is None:
        return x
    name = placed.unique(f"{node.path}_{node.activation.__name__}".replace("/", "."))
    return keras.layers.Activation(node.activation, name=name, dtype=dtype)(x)
