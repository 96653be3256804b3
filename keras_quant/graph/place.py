"""The fused graph of a float model → a Functional model of quantized layers with the same weights."""

import keras
import numpy as np
from keras import tree

from keras_quant.errors import QuantizationError, UnsupportedLayerError
from keras_quant.graph.keep import keep_float
from keras_quant.graph.operations import inputs_of, quantized_layer
from keras_quant.layers import QuantIdentity, Quantize


def place(graph, name, fallback=None):
    """Build the quantized model.

    Layers keep their paths ("/" becomes "." in Keras's layer names); outputs keep their names.

    Args:
        graph: fused `Graph` of a float model.
        name: of the new model.
        fallback: "float" to keep a layer without quantized form as it is; otherwise it is an error.

    Returns:
        A Functional `keras.Model`, its grids not yet set.
    """
    taken = set()
    inputs = [keras.Input(batch_shape=v.shape, dtype=v.dtype, name=v.name) for v in graph.inputs]
    taken.update(v.name for v in graph.inputs)
    tensors = {v: Quantize(name=_unique(f"{v.name}_quantize", taken))(x) for v, x in zip(graph.inputs, inputs)}
    layers = {}
    for node in graph.nodes:
        layer_name = layers[id(node.operation)].name if id(node.operation) in layers else _unique(_dotted(node.path), taken)
        try:
            tensors[node.output] = _quantized(node, layer_name, layers, tensors)
        except UnsupportedLayerError:
            if fallback != "float":
                raise
            keep_float(node, layer_name, layers, tensors, dict(zip(graph.inputs, inputs)), taken)
    outputs = _named_outputs(graph, tensors, taken)
    # TensorFlow takes no scope that begins with an underscore, as the name of a model of class `_Private` does.
    return keras.Model(tree.pack_sequence_as(graph.input_structure, inputs), outputs, name=name.lstrip("_") or "model")


def _quantized(node, name, layers, tensors):
    """The output of a node's quantized layer, which is made at its first call."""
    layer = layers.get(id(node.operation)) or quantized_layer(node, name)
    outputs = layer(tree.map_structure(lambda v: tensors[v], inputs_of(node)))
    layers[id(node.operation)] = layer
    copy_weights(node, layer)
    return outputs


def _named_outputs(graph, tensors, taken):
    """Outputs under their Keras names, which a loss or a signature may rely on."""
    flat = []
    for value, name in zip(tree.flatten(graph.outputs), graph.output_names):
        tensor = tensors[value]
        if not isinstance(graph.outputs, dict) and tensor._keras_history.operation.name != name and name not in taken:
            tensor = QuantIdentity(name=_unique(_dotted(name), taken))(tensor)
        flat.append(tensor)
    return tree.pack_sequence_as(graph.outputs, flat)


def copy_weights(node, layer):
    """Copy variables and `trainable` from a node's float layers to the quantized one."""
    source = node.operation
    if not isinstance(source, keras.layers.Layer):
        return
    frozen = isinstance(source, keras.layers.BatchNormalization) and node.training is False
    layer.trainable = source.trainable and not frozen
    if hasattr(layer, "copy_weights"):
        layer.copy_weights(source)
    else:
        _copy_by_name(node.path, source, layer)
    if node.batch_norm is not None:
        holder = layer if hasattr(layer, "batch_norm") else layer.pointwise
        # Called with `training=False`, as the base in transfer learning is: its statistics stay.
        holder.batch_norm.trainable = node.batch_norm.trainable and node.training is not False
        _copy_by_name(node.batch_norm.name, node.batch_norm, holder.batch_norm)


def _copy_by_name(path, source, target):
    own = {}
    for variable in target.variables:
        own.setdefault(variable.name, variable)
    for variable in source.variables:
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


def _unique(name, taken):
    candidate, count = name, 0
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    taken.add(candidate)
    return candidate
