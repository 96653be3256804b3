"""Any Keras model → the flat graph of its leaves, without a change to the model."""

import re
import traceback

import keras
from keras import tree
from keras.src.models.functional import Functional
from keras.src.ops.numpy import Reshape

from keras_quant.errors import QuantizationError, UnsupportedLayerError
from keras_quant.graph.graph import Graph, Node, Value
from keras_quant.graph.operations import has_quantized_form
from keras_quant.layers import annotate, annotation, reason_against
from keras_quant.layers.base import GridInputs, KernelCall
from keras_quant.layers.reshape import reshaped


def trace(model):
    """Trace a model into its leaf graph.

    Functional and Sequential models are followed along their own graph; everything else that is no leaf (a subclassed
    model, a layer made of layers, a quantized layer made of several operators) by calling its `call` on symbolic tensors.

    A leaf is a layer or operation that has a quantized form, or, in a quantized model, one kernel of a quantized layer.

    Args:
        model: a built `keras.Model`.

    Returns:
        `Graph`.

    Raises:
        UnsupportedLayerError: where a layer cannot be traced, with its path and line.
        QuantizationError: if the model has no built input, or a dimension other than the batch is dynamic.
    """
    inputs, structure = _model_inputs(model)
    tracer = _Tracer()
    outputs = tracer.open(model, (tree.pack_sequence_as(structure, inputs),), {}, prefix="")
    return Graph(inputs, outputs, _output_names(model, outputs), tracer.nodes, structure)


def _model_inputs(model):
    if not isinstance(model, keras.Model):
        raise QuantizationError(f"A `keras.Model` is needed. Received: {type(model).__name__}")
    functional = _as_functional(model)
    if functional is not None:
        structure = functional._inputs_struct
        # The InputLayer's name: that of the tensor is numbered anew in each process.
        inputs = [Value(tuple(x.shape), x.dtype, x._keras_history.operation.name) for x in functional.inputs]
    else:
        structure, inputs = _built_inputs(model)
    for value in inputs:
        if any(size is None for size in value.shape[1:]):
            raise QuantizationError(
                f"Input '{value.name}' has a dynamic dimension besides the batch; the runtime plans memory for one size. "
                f"Rebuild the model with a fixed size. Received: shape {value.shape}"
            )
    return inputs, tree.map_structure(lambda _: 0, structure)


def _built_inputs(model):
    """Inputs of a subclassed model, from the shapes that it was built with."""
    shapes = (model.get_build_config() or {}) if model.built else {}
    shapes = shapes.get("input_shape") or shapes.get("shapes_dict")
    if not shapes:
        raise QuantizationError(
            f"Model '{model.name}' has no built input. Call it once on a batch, or `build` it, before quantizing."
        )
    if isinstance(shapes, dict):
        structure = {name: 0 for name in shapes}
        named = sorted(shapes.items())
    else:
        several = isinstance(shapes[0], (list, tuple))
        named = [(f"input_{i}", s) for i, s in enumerate(shapes)] if several else [("input", shapes)]
        structure = [0] * len(named) if several else 0
    return structure, [Value((None, *shape[1:]), "float32", name) for name, shape in named]


def _as_functional(operation):
    if isinstance(operation, keras.Sequential):
        operation = operation._functional
    follows_graph = isinstance(operation, Functional) and type(operation).call is Functional.call
    return operation if follows_graph else None


def _output_names(model, outputs):
    if isinstance(outputs, dict):
        return sorted(outputs)
    functional = _as_functional(model)
    names = functional.output_names if functional is not None else [v.name for v in tree.flatten(outputs)]
    unique = []
    for name in names:
        unique.append(name if name not in unique else f"{name}_{names[: len(unique)].count(name)}")
    return unique


# Frames that are not the user's.
_INSIDE = re.compile(r"[/\\\\](keras|tensorflow|keras_quant)[/\\\\]")


class _Tracer:
    def __init__(self):
        self.nodes = []

    def visit(self, operation, args, kwargs, prefix):
        """The output `Value`s of one call, after recording the leaves that it amounts to."""
        if isinstance(operation, KernelCall) or not isinstance(operation, keras.layers.Layer):
            return self._leaf(operation, args, kwargs, prefix)
        if not isinstance(operation, GridInputs) and has_quantized_form(operation):
            return self._leaf(operation, args, kwargs, prefix)
        reason = reason_against(operation)
        if reason is not None:
            path, kind = f"{prefix}{operation.name}", type(operation).__name__
            raise UnsupportedLayerError(f"Layer '{path}' ({kind}) has no quantized form. {reason}")
        # The parts of a quantized layer carry its name in theirs.
        inside = prefix if isinstance(operation, GridInputs) else f"{prefix}{operation.name}/"
        return self.open(operation, args, kwargs, inside)

    def open(self, operation, args, kwargs, prefix):
        """Look inside: follow the keras nodes between symbolic inputs and outputs."""
        functional = _as_functional(operation)
        if functional is not None:
            return self._follow(functional.inputs, functional._outputs_struct, tree.flatten(args[0]), prefix)
        # A value may be there twice: a tensor joined with itself.
        symbols = {x: _symbol(x) for x in tree.flatten((args, kwargs)) if isinstance(x, Value)}
        fill = lambda x: symbols[x] if isinstance(x, Value) else x
        layers = [operation, *operation._flatten_layers(include_self=False)]
        before = [(layer, len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in layers]
        try:
            symbolic_args, symbolic_kwargs = tree.map_structure(fill, (args, kwargs))
            outputs = operation.call(*symbolic_args, **symbolic_kwargs)
            return self._follow(list(symbols.values()), outputs, list(symbols), prefix)
        except QuantizationError:
            raise
        except Exception as error:
            raise UnsupportedLayerError(_explain(operation, prefix, error)) from error
        finally:
            for layer, inbound, outbound in before:
                del layer._inbound_nodes[inbound:], layer._outbound_nodes[outbound:]

    def _follow(self, symbols, outputs, values, prefix):
        """Visit the keras nodes that lead from `symbols` to `outputs`."""
        known = {id(symbol): value for symbol, value in zip(symbols, values)}
        fill = lambda x: known[id(x)] if isinstance(x, keras.KerasTensor) else x
        for node in _nodes_between(known, tree.flatten(outputs)):
            args, kwargs = tree.map_structure(fill, (node.arguments.args, node.arguments.kwargs))
            results = self.visit(node.operation, args, kwargs, prefix)
            for symbol, value in zip(node.outputs, tree.flatten(results)):
                known[id(symbol)] = value
        return tree.map_structure(lambda x: known[id(x)], outputs)

    def _leaf(self, operation, args, kwargs, prefix):
        path = prefix + operation.name
        spec = _output_spec(operation, args, kwargs)
        outputs = tree.map_structure(lambda x: Value(tuple(x.shape), x.dtype, path, annotation(x)), spec)
        operation = operation.layer if isinstance(operation, KernelCall) else operation
        self.nodes.append(Node(operation, path, args, kwargs, outputs))
        return outputs


def _output_spec(operation, args, kwargs):
    fill = lambda x: _symbol(x, keras.KerasTensor) if isinstance(x, Value) else x
    args, kwargs = tree.map_structure(fill, (args, kwargs))
    spec = operation.compute_output_spec(*args, **kwargs)
    if isinstance(operation, Reshape) and None in spec.shape[1:]:
        # Keras gives up on -1 behind an open batch, `reshape(x, (shape(x)[0], -1, 8))`.
        sample = reshaped(args[0].shape, operation.newshape)
        spec = spec if sample is None else keras.KerasTensor((spec.shape[0], *sample), dtype=spec.dtype)
    return spec


def _symbol(value, make=lambda shape, dtype: keras.Input(batch_shape=shape, dtype=dtype, name="traced")):
    symbol = make(value.shape, value.dtype)
    return symbol if value.note is None else annotate(symbol, value.note.quantizer)


def _nodes_between(known, outputs):
    """The keras nodes behind `outputs`, each after those it depends on; stops at the tensors in `known`."""
    ordered, done, stack = [], set(), [(tensor, False) for tensor in reversed(outputs)]
    while stack:
        tensor, ready = stack.pop()
        if id(tensor) in known and not ready:
            continue
        history = tensor._keras_history
        node = history.operation._inbound_nodes[history.node_index]
        if id(node) in done:
            continue
        if ready:
            done.add(id(node))
            ordered.append(node)
        else:
            stack.append((tensor, True))
            stack.extend((x, False) for x in reversed(node.input_tensors))
    return ordered


def _explain(operation, prefix, error):
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _INSIDE.search(f.filename)]
    where = next((f"{f.filename}:{f.lineno}" for f in reversed(frames)), None)
    path = prefix.rstrip("/") or operation.name
    cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"Layer '{path}' ({type(operation).__name__}) cannot be traced{f' at {where}' if where else ''}: {cause} "
        "Its `call` has to run on symbolic tensors: Keras layers and `keras.ops`, no Python control flow on values."
    )
