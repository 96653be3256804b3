"""The nodes on the way to one that they stand for: how an expansion is written."""

import dataclasses

import keras
from keras import tree
from keras.src.ops import numpy

from keras_quant.graph.graph import Node, Value, rows_of


class Steps:
    """Nodes that together compute what `node` computes.

        steps = Steps(node)
        total = steps(numpy.Add(), a, b)
        return steps.end(steps(numpy.Sqrt(), total))

    Args:
        node: `Node` that they stand for.
    """

    def __init__(self, node):
        self.node, self.nodes = node, []

    def __call__(self, operation, *args, name=None):
        """The output `Value` of one more operation, called with `Value`s, lists of them and constants.

        Its path ends in `name`, by default in that of the operation's class and a number.
        """
        symbol = lambda x: keras.KerasTensor(x.shape, x.dtype) if isinstance(x, Value) else x
        spec = operation.compute_output_spec(*tree.map_structure(symbol, args))
        path = f"{self.node.path}/{name or f'{type(operation).__name__.lower()}_{len(self.nodes)}'}"
        output = Value(tuple(spec.shape), spec.dtype, path, rows=rows_of(args))
        self.nodes.append(Node(operation, path, args, {}, output))
        return output

    def cut(self, x, axis, *bounds):
        """`x[begin:end:step]` along one axis."""
        return self(numpy.GetItem(), x, (*[slice(None)] * axis, slice(*bounds)))

    def along(self, x, axis, matrix):
        """The product of a constant matrix (before, after) with each row along one axis."""
        rank = len(x.shape)
        order = [a for a in range(rank) if a != axis] + [axis]
        back = [order.index(a) for a in range(rank)]
        moved = x if axis == rank - 1 else self(numpy.Transpose(order), x)
        product = self(numpy.Matmul(), moved, matrix)
        return product if axis == rank - 1 else self(numpy.Transpose(back), product)

    def end(self, x):
        """The nodes, the last of which makes what `node` makes, out of `x`."""
        if x.shape != self.node.output.shape:
            x = self(numpy.Reshape((-1, *self.node.output.shape[1:])), x)
        if not self.nodes or self.nodes[-1].outputs is not x:
            x = self(numpy.GetItem(), x, (Ellipsis,))
        return [*self.nodes[:-1], dataclasses.replace(self.nodes[-1], path=self.node.path, outputs=self.node.outputs)]

    def ends(self, values):
        """The nodes, with one more for each output of `node`."""
        ends = [
            Node(numpy.GetItem(), f"{self.node.path}/{index}", (x, (Ellipsis,)), {}, output)
            for index, (x, output) in enumerate(zip(values, tree.flatten(self.node.outputs)))
        ]
        return [*self.nodes, *ends]


def axes_without_batch(axis, rank):
    """Axes as a sorted list, or `None` where the batch is among them; by default, as in `keras.ops`, it is."""
    axes = sorted(a % rank for a in (range(rank) if axis is None else tree.flatten(axis)))
    return None if 0 in axes else axes
