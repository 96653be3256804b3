"""Products of a tensor and a matrix of weights, in any spelling, become Dense layers between transposes."""

import dataclasses
import math

import keras
import numpy as np
from keras import ops
from keras.src.ops import numpy as knp

from keras_quant.errors import UnsupportedLayerError
from keras_quant.graph.explain import location
from keras_quant.graph.expressions import array_of, expression_of, is_expression, trains
from keras_quant.graph.graph import Node, Value
from keras_quant.graph.learned import constant_node
from keras_quant.graph.operations import is_meant, positional
from keras_quant.graph.steps import Steps
from keras_quant.graph.weights import built

L = keras.layers
_EQUATIONS = {}
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def lift_products(graph):
    """A product with weights that is no Dense layer as it stands becomes one, between transposes and reshapes.

        matmul(W, x)      ⟹      transpose → dense → transpose

    Where the weights differ along an axis that is kept, as in "btc,tcd->btd", they become a tensor of the model instead.
    """
    nodes, shared = [], {}
    for node in graph.nodes:
        if node.policy.activations == "dynamic":
            made = _with_dense(node, shared)
        else:
            made = [] if node.policy.computes_in_float else _lifted(node, shared) or []
        own = {"policy": node.policy, "source": node.source}
        nodes.extend([dataclasses.replace(n, named=is_meant(n, node), **own) for n in made] or [node])
    return dataclasses.replace(graph, nodes=nodes)


def _with_dense(node, shared):
    """The nodes of a product whose activations are quantized as it runs; none where no Dense layer computes it."""
    try:
        made = _lifted(node, shared) or []
    except UnsupportedLayerError:
        return []
    return made if any(isinstance(n.operation, L.Dense) for n in made) else []


def _lifted(node, shared):
    _check_einsum(node)
    make = _EQUATIONS.get(type(node.operation))
    if make is None or len(node.inputs) != 1 or len(node.args) == 1:
        return None
    operands = [x for x in keras.tree.flatten(positional(node)) if _is_tensor(x)]
    equation = make(node.operation, *(tuple(x.shape) for x in operands)) if len(operands) == 2 else None
    if equation is None:
        return None
    value, weights = operands if isinstance(operands[0], Value) else operands[::-1]
    labels = equation if value is operands[0] else (equation[1], equation[0], equation[2])
    return _Product(node, value, weights, *labels).nodes(shared)


def _check_einsum(node):
    """Without a result's labels it depends on the backend what Keras computes."""
    if isinstance(node.operation, knp.Einsum) and ("->" not in node.operation.subscripts or len(node.args) > 2):
        raise UnsupportedLayerError(
            f"Operation '{node.path}' (Einsum){location(node)}: on int8 it takes one or two operands, and the result's "
            f"labels written out behind '->'. Received: subscripts={node.operation.subscripts!r}"
        )


def _is_tensor(x):
    return hasattr(x, "shape")


def _by(*names):
    """Decorator: the function makes the labels of both operands and of the result, of the operation and their shapes."""

    def decorate(function):
        _EQUATIONS.update({getattr(knp, name): function for name in names if hasattr(knp, name)})
        return function

    return decorate


@_by("Matmul")
def _matmul(operation, a, b):
    """Both may have one dimension, or more than two."""
    rank = max(len(a), len(b)) - 2
    outer = _LETTERS[: max(rank, 0)]
    left, right = (outer[max(rank - (len(shape) - 2), 0) :] if len(shape) > 2 else "" for shape in (a, b))
    rows, columns = "Y" * (len(a) > 1), "Z" * (len(b) > 1)
    longer = left if len(left) > len(right) else right
    return left + rows + "X", right + "X" + columns, longer + rows + columns


@_by("Dot")
def _dot(operation, a, b):
    rows, outer = _LETTERS[: len(a) - 1], _LETTERS[len(a) : len(a) + max(len(b) - 2, 0)]
    columns = "Z" * (len(b) > 1)
    return rows + "X", outer + "X" + columns, rows + outer + columns


@_by("Tensordot")
def _tensordot(operation, a, b):
    axes = operation.axes
    pairs = (range(len(a) - axes, len(a)), range(axes)) if isinstance(axes, int) else axes
    first, second = ([axis % len(shape) for axis in np.atleast_1d(some)] for some, shape in zip(pairs, (a, b)))
    left = _LETTERS[: len(a)]
    free = iter(_LETTERS[len(a) :])
    right = "".join(left[first[second.index(i)]] if i in second else next(free) for i in range(len(b)))
    kept = "".join(label for i, label in enumerate(left) if i not in first)
    return left, right, kept + "".join(label for i, label in enumerate(right) if i not in second)


@_by("Einsum")
def _einsum(operation, a, b):
    operands, result = plain_subscripts(operation.subscripts, [a, b])
    return (*operands, result)


def plain_subscripts(subscripts, shapes):
    """The labels of each operand and of the result, with letters for an ellipsis."""
    left, _, result = subscripts.replace(" ", "").partition("->")
    operands = left.split(",")
    free = [letter for letter in reversed(_LETTERS) if letter not in subscripts]
    ranks = [len(shape) - len(text.replace("...", "")) for text, shape in zip(operands, shapes)]
    dots = "".join(free[: max((r for r, text in zip(ranks, operands) if "..." in text), default=0)])
    filled = [text.replace("...", dots[len(dots) - rank :] if rank else "") for text, rank in zip(operands, ranks)]
    return filled, result.replace("...", dots)


def _ordered(steps, x, labels, wanted, name):
    """A tensor whose axes behind the batch have these labels, in the wanted order."""
    order = [labels.index(label) for label in wanted]
    return x if order == sorted(order) else steps(L.Permute(order), x, name=name)


def _shaped(steps, x, shape, name):
    return x if x.shape[1:] == shape else steps(L.Reshape(shape), x, name=name)


class _Product:
    """A sum of products of a tensor and weights.

    Args:
        node: `Node` of the operation.
        value: the tensor.
        weights: array or variable.
        left, right, result: labels of both and of the result.
    """

    def __init__(self, node, value, weights, left, right, result):
        self.node, self.value, self.weights, self.left, self.right, self.result = node, value, weights, left, right, result
        ones = [i for i, (label, size) in enumerate(zip(right, weights.shape)) if size == 1 and label in left]
        self.dropped = tuple(i for i in ones if value.shape[left.index(right[i])] != 1 and right[i] in result)
        right = self.right = "".join(label for i, label in enumerate(right) if i not in self.dropped)
        self.summed = [label for label in left if label in right and label not in result]
        self.each = [label for label in left if label in right and label in result]
        self.kept = [label for label in left[1:] if label not in right]
        self.new = [label for label in right if label not in left]

    def nodes(self, shared):
        """The nodes that it becomes; `None` where it is a Dense or EinsumDense layer as it stands."""
        self._check()
        if not self.each:
            plain = self.result == self.left[: len(self.left) - len(self.summed)] + "".join(self.new) and self.new
            ordered = self.left.endswith("".join(self.summed)) and self.right == "".join((*self.summed, *self.new))
            if plain and ordered and self.summed and self._is_written_so():
                return None
            return self._dense(shared)
        return self._of_tensors() if self.summed or self.new else self._multiplied()

    def _is_written_so(self):
        """Whether `lift_weights` takes the operation as it is."""
        operation, weights = self.node.operation, self.weights
        if isinstance(operation, knp.Einsum) and is_expression(weights):
            return False
        if not isinstance(self.node.args[0], Value) or len(weights.shape) != len(self.right):
            return False
        return "..." not in operation.subscripts if isinstance(operation, knp.Einsum) else len(self.right) == 2

    def _check(self):
        labels = self.left, self.right, self.result
        known = set(self.left) | set(self.right) == set(self.result) | set(self.summed)
        if not known or any(len(set(text)) < len(text) for text in labels) or self.result[:1] != self.left[:1]:
            raise UnsupportedLayerError(
                f"Operation '{self.node.path}' ({type(self.node.operation).__name__}){location(self.node)}: on int8 a "
                "product with weights sums only over axes that both have, and leaves the batch first. "
                f"Transpose the operands. Received: {self.left},{self.right}->{self.result}"
            )
        if any(self.value.shape[self.left.index(label)] == 1 != self._size(label) for label in self.each):
            raise UnsupportedLayerError(
                f"Operation '{self.node.path}' ({type(self.node.operation).__name__}){location(self.node)}: its weights of "
                f"shape {tuple(self.weights.shape)} widen a tensor of shape {self.value.shape}. Repeat the tensor first."
            )

    def _size(self, label):
        sizes = [size for i, size in enumerate(self.weights.shape) if i not in self.dropped]
        return sizes[self.right.index(label)] if label in self.right else self.value.shape[self.left.index(label)]

    def _sizes(self, labels):
        return [self._size(label) for label in labels]

    def _arranged(self, labels, shape):
        """The weights, their axes in this order, in a shape."""
        sizes, order = self._sizes(self.right), [self.right.index(label) for label in labels]
        if not is_expression(self.weights):
            return array_of(self.weights).reshape(sizes).transpose(order).reshape(shape)
        return ops.reshape(ops.transpose(ops.reshape(self.weights, sizes), order), shape)

    def _dense(self, shared):
        count, units = math.prod(self._sizes(self.summed)), math.prod(self._sizes(self.new))
        kernel = self._arranged([*self.summed, *self.new], (count, units))
        key = id(self.weights), self.right, *self.summed, *self.new
        layer = shared.get(key)
        if layer is None:
            layer = shared[key] = L.Dense(units, use_bias=False)
            built(layer, (None, count), {"kernel": kernel})
            layer.trainable = trains(self.weights)
        steps, made = Steps(self.node), [*self.kept, *self.new]
        x = _ordered(steps, self.value, self.left, [*self.kept, *self.summed], "order")
        x = _shaped(steps, x, (*self._sizes(self.kept), count), "flat")
        x = _shaped(steps, steps(layer, x, name="dense"), tuple(self._sizes(made)), "shape")
        return steps.end(_ordered(steps, x, [self.left[0], *made], self.result[1:], "result"))

    def _multiplied(self):
        """Nothing is summed and nothing new: a product of each element."""
        steps, result = Steps(self.node), list(self.result[1:])
        x = _ordered(steps, self.value, self.left, result, "order")
        shape = [1, *(self._size(label) if label in self.right else 1 for label in result)]
        ordered = [label for label in result if label in self.right]
        factor = self.weights
        if self.right != "".join(ordered) or tuple(factor.shape) != tuple(shape[len(shape) - len(factor.shape) :]):
            self.weights = expression_of(self.weights)
            factor = self._arranged(ordered, shape)
        return steps.end(steps(knp.Multiply(), x, factor))

    def _of_tensors(self):
        """The weights as a tensor that has the batch, too."""
        shape = (1, *self._sizes(self.right))
        constant = constant_node(self.node, "weights", self.value, shape, self.weights)
        subscripts = f"{self.left},{self.left[0]}{self.right}->{self.result}"
        args = self.value, constant.output
        last = Node(knp.Einsum(subscripts), self.node.path, args, {}, self.node.outputs, source=self.node.source)
        return [constant, last]
