"""Float weights beyond what TensorFlow holds as constants: inputs of what tf2onnx converts, constants again here."""

import numpy as np
from keras import ops, tree
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from keras_quant.layers.derived import is_variable

# What tf2onnx puts between a weight and the operator that reads it, where it does not see its values.
_MOVES = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Cast", "Identity")


def beyond(nodes, largest):
    """The variables of float layers that do not go into one graph of TensorFlow's, the largest ones first.

    Args:
        nodes: `Node`s of the graph.
        largest: bytes that a protocol buffer takes.

    Returns:
        List of Keras variables; empty if all go.
    """
    variables = {id(v): v for node in nodes for v in _variables(node) if v.dtype in ("float32", "float16")}
    ordered = sorted(variables.values(), key=_bytes, reverse=True)
    rest, chosen = sum(map(_bytes, ordered)), []
    if rest <= largest:
        return chosen
    # tf2onnx copies constants many times.
    while rest > largest / 16 and len(chosen) < len(ordered):
        chosen.append(ordered[len(chosen)])
        rest -= _bytes(chosen[-1])
    return chosen


def _variables(node):
    held = [x for x in tree.flatten((node.args, node.kwargs)) if is_variable(x)]
    return [*getattr(node.operation, "variables", ()), *held]


def _bytes(variable):
    return int(np.prod(variable.shape, dtype=np.int64)) * np.dtype(variable.dtype).itemsize


def fill(graph, variables):
    """Take inputs of a graph for constants, and move them as the nodes that read them would.

    Args:
        graph: `GraphProto`, changed.
        variables: dict from names of inputs to Keras variables.

    Returns:
        Dict from the names of values that the graph now lacks to arrays.
    """
    arrays = {name: ops.convert_to_numpy(variable) for name, variable in variables.items()}
    fixed = {tensor.name: tensor for tensor in graph.initializer}
    kept = [info for info in graph.input if info.name not in variables]
    nodes = []
    for node in graph.node:
        if node.op_type in _MOVES and node.input[0] in arrays and fixed.keys() >= set(node.input[1:]):
            given = {name: numpy_helper.to_array(fixed[name]) for name in node.input[1:]}
            given[node.input[0]] = arrays[node.input[0]]
            (arrays[node.output[0]],) = ReferenceEvaluator(node).run(None, given)
        else:
            nodes.append(node)
    del graph.input[:], graph.node[:]
    graph.input.extend(kept)
    graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input} | {info.name for info in graph.output}
    return {name: array for name, array in arrays.items() if name in read}
