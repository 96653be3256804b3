"""A float layer without a rule of its own: the parts of its quantized layer, on real numbers."""

import dataclasses
import weakref

import keras
from keras import tree

from keras_quant import policy as policies
from keras_quant.errors import QuantizationError
from keras_quant.graph import Graph, Value, place, prepare, trace
from keras_quant.graph.kinds import is_real
from keras_quant.layers import Quantize, QuantLayer

# By node, and by operation, since each graph that is traced of a model has nodes of its own; not by layer, whose attributes
# may be others at the next export.
_KNOWN, _ALONE = weakref.WeakKeyDictionary(), weakref.WeakKeyDictionary()


def parts_of(node):
    """What a float layer or operation is taken apart into, as its quantized layer is.

        dot_product_attention      ⟹      batch_matmul → softmax → batch_matmul

    Args:
        node: `Node` that computes in float.

    Returns:
        `Graph` with an input for each of `node.inputs`, in which quantized layers stand for what they compute in float;
        `None` where there is no quantized form.
    """
    if node not in _KNOWN:
        _KNOWN[node] = _taken_apart(node)
    return _KNOWN[node]


def _taken_apart(node):
    if isinstance(node.operation, QuantLayer):
        return None
    # What only moves data does so with any type.
    moves = not any(map(is_real, tree.flatten(node.outputs)))
    known = {} if isinstance(node.operation, keras.layers.Layer) else _ALONE.setdefault(node.operation, {})
    signature = _signature(node)
    graph = known[signature] if signature in known else _of_alone(node, moves)
    if signature is not None:
        known[signature] = graph
    return graph and _under(node, graph, dict(zip(graph.inputs, dict.fromkeys(node.inputs))))


def _signature(node):
    """What the parts of an operation depend on besides itself; `None` where arrays are among that."""
    places = {value: place for place, value in enumerate(dict.fromkeys(node.inputs))}
    tell = lambda x: (places[x], x.shape, x.dtype, x.name) if isinstance(x, Value) else x
    tensors = tuple(map(tell, node.inputs)), tuple((y.shape, y.dtype) for y in tree.flatten(node.outputs))
    others = [x for x in tree.flatten((node.args, node.kwargs)) if not isinstance(x, Value)]
    if not all(isinstance(x, (bool, int, float, str, type(None))) for x in others):
        return None
    structure = tree.map_structure(tell, (node.args, node.kwargs))
    return node.path, tensors, repr(structure)


def _of_alone(node, moves):
    """The graph of the parts, of a model that holds the node alone; `None` where there is none."""
    own = {value: _alone(value, moves) for value in (*node.inputs, *tree.flatten(node.outputs))}
    fill = lambda x: own.get(x, x) if isinstance(x, Value) else x
    args, kwargs, outputs = tree.map_structure(fill, (node.args, node.kwargs, node.outputs))
    inputs = list(dict.fromkeys(own[value] for value in node.inputs))
    alone = dataclasses.replace(node, args=args, kwargs=kwargs, outputs=outputs, policy=policies.get("int8"))
    try:
        prepared = prepare(Graph(inputs, outputs, [_name(node)], [alone], inputs))
        graph = trace(place(prepared, _name(node)), keep_float=True)
    except QuantizationError:
        return None
    if moves and not all(isinstance(part.operation, Quantize) or part.operation.keeps_grid for part in graph.nodes):
        return None
    return graph


def _alone(value, in_float):
    """A tensor of a model that holds this node alone."""
    return Value(value.shape, "float32" if in_float else value.dtype, value.name.replace("/", "."))


def _name(node):
    return node.path.replace("/", ".")


def _under(node, graph, given):
    """The graph with the node's own inputs and output in place of its own, and paths under the node's."""
    made, last = dict(given), graph.outputs
    fill = lambda x: made.get(x, x) if isinstance(x, Value) else x
    nodes = []
    for part in graph.nodes:
        args, kwargs = tree.map_structure(fill, (part.args, part.kwargs))
        is_last = part.outputs is last
        path = node.path if is_last else f"{node.path}/{part.path.rpartition('/')[-1]}"
        if is_last:
            made[last] = node.output
        nodes.append(dataclasses.replace(part, path=path, args=args, kwargs=kwargs, outputs=fill(part.outputs)))
    return dataclasses.replace(graph, nodes=nodes, outputs=fill(last))
