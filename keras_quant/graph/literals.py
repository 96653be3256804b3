"""Tensors of one number, whatever the model is given, are constants."""

import dataclasses

import keras
import numpy as np
from keras import tree
from keras.src.ops import numpy

from keras_quant.graph.choices import is_choice
from keras_quant.graph.constants import is_arithmetic
from keras_quant.graph.expressions import expression_of, is_expression
from keras_quant.graph.fourier import takes_parts
from keras_quant.graph.graph import Value, in_inference
from keras_quant.graph.kinds import is_real
from keras_quant.graph.operations import has_quantized_form
from keras_quant.graph.weights import takes_weights

LITERALS = {
    numpy.ZerosLike: lambda node: 0.0,
    getattr(numpy, "EmptyLike", numpy.ZerosLike): lambda node: 0.0,
    numpy.OnesLike: lambda node: 1.0,
    numpy.FullLike: lambda node: node.kwargs["fill_value"] if "fill_value" in node.kwargs else node.args[1],
}

_BROADCASTING = (has_quantized_form, is_arithmetic, takes_weights, is_choice, takes_parts)


def fold_literals(graph):
    """Who reads `ones_like(x)` and its kin reads an array of one sample instead.

    What is computed from such arrays alone is an array, too. One that leaves the model stays, and has no quantized form, and
    so does one for an operation that stays in float, which may want as many samples as its other tensors have.
    """
    arrays, nodes, kept = {}, [], _needed(graph)
    for node in graph.nodes:
        fill = lambda x: arrays.get(x, x) if isinstance(x, Value) else x
        args, kwargs = tree.map_structure(fill, (node.args, node.kwargs))
        folded, node = node, dataclasses.replace(node, args=args, kwargs=kwargs)
        if folded.inputs and not node.inputs:
            made = in_inference(node, *tree.map_structure(expression_of, (args, kwargs)))
            made = [x if is_expression(x) else keras.ops.convert_to_numpy(x) for x in tree.flatten(made)]
            arrays.update(zip(tree.flatten(node.outputs), made))
            continue
        number_of = LITERALS.get(type(node.operation))
        if number_of is None or isinstance(number_of(node), Value) or node.output in kept:
            nodes.append(node)
            continue
        number = np.asarray(keras.ops.convert_to_numpy(number_of(node)), node.output.dtype)
        arrays[node.output] = np.broadcast_to(number, (1, *node.output.shape[1:]))
    return dataclasses.replace(graph, nodes=nodes)


def _needed(graph):
    """The values that somebody reads who takes no array of one sample in their place."""
    needed = set(tree.flatten(graph.outputs))
    for node in reversed(graph.nodes):
        operation, outputs = node.operation, tree.flatten(node.outputs)
        broadcasts = any(takes(operation) for takes in _BROADCASTING)
        if needed.intersection(outputs) or not (broadcasts or not any(map(is_real, outputs))):
            needed.update(node.inputs if type(operation) not in LITERALS and not broadcasts else ())
    return needed
