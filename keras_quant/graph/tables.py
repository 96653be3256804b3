"""Rows picked from a table of weights by computed indices: `take(table, ids)`."""

import dataclasses

import keras
from keras.src.ops import numpy as knp

from keras_quant.graph.graph import Value
from keras_quant.graph.kinds import is_real
from keras_quant.graph.weights import built


def lift_tables(graph):
    """An operation that picks rows of a variable or an array becomes an Embedding that owns it.

        take(table, ids)      ⟹      embedding(ids)

    Operations on the same variable share the layer.
    """
    layers = {}
    nodes = [_with_table(node, layers) or node for node in graph.nodes]
    return dataclasses.replace(graph, nodes=nodes)


def _with_table(node, layers):
    table, indices = node.args if isinstance(node.operation, knp.Take) and len(node.args) == 2 else (None, None)
    if isinstance(table, Value) or not isinstance(indices, Value) or is_real(indices) or node.operation.axis != 0:
        return None
    if len(table.shape) != 2:
        return None
    if id(table) not in layers:
        layers[id(table)] = keras.layers.Embedding(*map(int, table.shape), name=node.operation.name)
        built(layers[id(table)], indices.shape, {"embeddings": table})
    return dataclasses.replace(node, operation=layers[id(table)], args=(indices,), kwargs={})
