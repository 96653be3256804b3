"""Masks that are added to scores, 0 to keep and `-1e9` to leave out, become choices by the mask."""

import dataclasses

import keras
import numpy as np
from keras import tree
from keras.src.ops import core, nn
from keras.src.ops import numpy as knp

from keras_quant.graph.expressions import array_of, is_weight
from keras_quant.graph.graph import Node, Value, rows_of, without_unread
from keras_quant.graph.kinds import is_real
from keras_quant.graph.masks import MASKED
from keras_quant.graph.operations import only_moves

# Added to a score, this leaves it out.
FAR_BELOW = -1e3
# More than any number that a graph may hold.
_LARGEST = 1e30
_SUMS = (knp.Add, keras.layers.Add)
# What leaves real numbers as they are.
_SAME_VALUES = core.Cast, getattr(core, "ConvertToTensor", core.Cast)


def lift_additive_masks(graph):
    """A sum of scores and a large negative number where a mask says so becomes a choice, in front of a softmax.

        cast(mask) → 1 - · → · * -1e9 → add(scores, ·) → softmax      ⟹      where(mask, scores, -1e9) → softmax

    As numbers on a grid the masks would leave nothing of the scores.
    """
    return without_unread(_Lift(graph).graph())


@dataclasses.dataclass(frozen=True)
class Line:
    """Values that are one number where a mask is true (or 1), and another where it is false (or 0).

    Attributes:
        source: the mask: a `Value` of booleans, integers, or of a model's input.
        on, off: the numbers.
        moves: the nodes that moved the mask's elements since.
    """

    source: Value
    on: float
    off: float
    moves: tuple = ()


def lines_of(graph):
    """Dict from `Value`s to their `Line`s."""
    lines = {}
    for node in graph.nodes:
        line = _line(node, lines, set(graph.inputs)) if isinstance(node.outputs, Value) else None
        if line is not None and max(abs(line.on), abs(line.off)) <= 2 * _LARGEST:
            lines[node.outputs] = line
    return lines


def _line(node, lines, inputs):
    operation, values = node.operation, node.inputs
    if len(values) != 1 or not isinstance(operation, keras.Operation):
        return None
    (x,) = values
    known = lines.get(x) or (Line(x, 1.0, 0.0) if not is_real(x) or x in inputs else None)
    if known is None:
        return None
    if type(operation) in _SAME_VALUES and is_real(node.outputs):
        return known
    if type(operation) in _ARITHMETIC and len(node.args) == 2:
        other = node.args[1] if node.args[0] is x else node.args[0]
        number = scalar_of(other)
        if number is None:
            return None
        ends = [(v, number) if node.args[0] is x else (number, v) for v in (known.on, known.off)]
        if any(b == 0 for _, b in ends) and _ARITHMETIC[type(operation)] is np.divide:
            return None
        on, off = (float(_ARITHMETIC[type(operation)](*map(np.float64, pair))) for pair in ends)
        return dataclasses.replace(known, on=on, off=off)
    if isinstance(operation, knp.Negative):
        return dataclasses.replace(known, on=-known.on, off=-known.off)
    if isinstance(operation, knp.Where) and node.args[0] is x:
        on, off = map(scalar_of, node.args[1:3])
        line = lines.get(x, Line(x, 1.0, 0.0))
        return None if on is None or off is None else dataclasses.replace(line, on=on, off=off)
    return dataclasses.replace(known, moves=(*known.moves, node)) if only_moves(node, node.policy) else None


_ARITHMETIC = {
    knp.Add: np.add,
    knp.Subtract: np.subtract,
    knp.Multiply: np.multiply,
    knp.Divide: np.divide,
    knp.TrueDivide: np.divide,
}


def scalar_of(x):
    """A constant that is one number, within what a graph may hold, or `None`."""
    if isinstance(x, Value) or is_weight(x) or x is None or np.size(keras.ops.convert_to_numpy(x)) != 1:
        return None
    return float(np.clip(array_of(x).reshape(()), -_LARGEST, _LARGEST))


class _Lift:
    def __init__(self, graph):
        self.given = graph
        self.lines, self.readers = lines_of(graph), graph.consumers()
        self.makers = {node.outputs: node for node in graph.nodes if isinstance(node.outputs, Value)}
        self.masks = {}

    def graph(self):
        nodes = []
        for node in self.given.nodes:
            nodes.extend(self._rewritten(node) or [node])
        return dataclasses.replace(self.given, nodes=nodes)

    def _rewritten(self, node):
        operands = [x for x in tree.flatten(node.args) if x is not None]
        negative = isinstance(node.operation, (knp.Subtract, keras.layers.Subtract))
        if len(operands) != 2 or not (negative or isinstance(node.operation, _SUMS)):
            return None
        for x, other in (operands,) if negative else (operands, operands[::-1]):
            terms = self._terms(other, -1.0 if negative else 1.0)
            if isinstance(x, Value) and is_real(x) and self._terms(x) is None and terms and self._meets_softmax(node):
                return self._choices(node, x, terms)
        return None

    def _terms(self, x, sign=1.0):
        """The masks and constants that a value is the sum of, or `None` if there is something else in it."""
        if not isinstance(x, Value):
            return None if is_weight(x) else [np.asarray(sign * np.clip(array_of(x), -_LARGEST, _LARGEST))]
        if x in self.lines:
            line = self.lines[x]
            return [dataclasses.replace(line, on=sign * line.on, off=sign * line.off)]
        maker = self.makers.get(x)
        if maker is None or not isinstance(maker.operation, _SUMS):
            return None
        parts = [self._terms(operand, sign) for operand in tree.flatten(maker.args)]
        return None if any(part is None for part in parts) else [term for part in parts for term in part]

    def _choices(self, node, x, terms):
        """The nodes that leave out what the terms leave out; `None` where they are no masks."""
        if not any(_is_mask(term) for term in terms):
            return None
        nodes, mask = [], None
        for index, term in enumerate(terms):
            path = f"{node.path}/{index}"
            if isinstance(term, np.ndarray):
                kept, rest = term > FAR_BELOW, np.where(term > FAR_BELOW, term, 0)
                if rest.any():
                    nodes.append(node_like(node, knp.Add(), f"{path}_bias", x, rest.astype("float32")))
                    x = nodes[-1].output
                if kept.all():
                    continue
            elif not _is_mask(term):
                return None
            else:
                made, kept = self._mask(node, term, path)
                nodes.extend(made)
            if isinstance(mask, Value) or (mask is not None and isinstance(kept, Value)):
                nodes.append(node_like(node, knp.LogicalAnd(), f"{path}_both", mask, kept))
                kept = nodes[-1].output
            mask = kept if mask is None or isinstance(kept, Value) else mask & kept
        nodes.append(node_like(node, knp.Where(), node.path, mask, x, MASKED))
        return [*nodes[:-1], dataclasses.replace(nodes[-1], path=node.path, outputs=node.outputs)]

    def _mask(self, node, line, path):
        """Booleans that say what a line keeps: the nodes that make them, unless others have, and their value."""
        key = line.source, line.moves, line.on < line.off
        if key in self.masks:
            return [], self.masks[key]
        nodes, value = [], line.source
        if value.dtype != "bool":
            nodes.append(node_like(node, knp.Greater(), f"{path}_mask", value, 0.5))
            value = nodes[-1].output
        if line.on < line.off:
            nodes.append(node_like(node, knp.LogicalNot(), f"{path}_kept", value))
            value = nodes[-1].output
        for move in line.moves:
            args = tree.map_structure(lambda a, value=value: value if isinstance(a, Value) else a, move.args)
            output = Value(move.output.shape, "bool", f"{move.path}_mask", rows=move.output.rows)
            nodes.append(dataclasses.replace(move, path=output.name, args=args, outputs=output))
            value = output
        self.masks[key] = value
        return nodes, value

    def _meets_softmax(self, node):
        for reader in self.readers.get(node.outputs, []):
            if reader is None:
                continue
            if is_softmax(reader.operation) or (passes_scores(reader) and self._meets_softmax(reader)):
                return True
        return False


def is_softmax(operation):
    """Whether a layer or operation is a softmax."""
    if isinstance(operation, keras.layers.Activation):
        return operation.activation is keras.activations.softmax
    return isinstance(operation, (keras.layers.Softmax, nn.Softmax))


def passes_scores(node):
    """Whether what a node reads is still scores when it has passed."""
    return isinstance(node.operation, (*_SUMS, knp.Subtract, knp.Where)) or only_moves(node, node.policy)


def _is_mask(term):
    if isinstance(term, np.ndarray):
        return bool((term <= FAR_BELOW).any() and (term > FAR_BELOW).any())
    near, far = sorted((term.on, term.off), key=abs)
    return abs(near) < 1e-3 and far <= FAR_BELOW


def node_like(node, operation, path, *args):
    """A node of another operation, with a node's policy."""
    tensor = lambda x: keras.KerasTensor(x.shape, x.dtype) if isinstance(x, Value) else x
    spec = operation.compute_output_spec(*map(tensor, args))
    output = Value(tuple(spec.shape), spec.dtype, path, rows=rows_of(args))
    return Node(operation, path, args, {}, output, policy=node.policy, named=node.named)
