"""`where` becomes a layer; sums of what a mask keeps, divided by how much that is, become means."""

import dataclasses
import math

import keras
import numpy as np
from keras import tree
from keras.src.ops import core
from keras.src.ops import numpy as knp

from keras_quant import layers
from keras_quant.graph.additive import is_softmax, lines_of, node_like, passes_scores, scalar_of
from keras_quant.graph.expressions import array_of, hold, numbers_of, trains
from keras_quant.graph.graph import Value, without_unread
from keras_quant.graph.kinds import is_real
from keras_quant.layers.where import FAR

# How far below kept scores masked ones lie at least.
_ROOM = 8.0


def is_choice(operation):
    """Whether the operation becomes a layer here."""
    return isinstance(operation, knp.Where)


def lift_choices(graph):
    """`where` of real numbers becomes a layer that holds the constants among its operands.

    where(mask, x, -1e9) → softmax      ⟹      where(mask, x), with room below the scores → softmax
    """
    readers, makers = graph.consumers(), _makers(graph)

    def meets_softmax(node):
        behind = [reader for reader in readers.get(node.outputs, []) if reader is not None]
        return any(is_softmax(r.operation) or (passes_scores(r) and meets_softmax(r)) for r in behind)

    nodes = []
    for node in graph.nodes:
        lifts = is_choice(node.operation) and is_real(node.output) and not node.policy.computes_in_float
        nodes.extend(_choice(node, makers, meets_softmax) if lifts else [node])
    return without_unread(dataclasses.replace(graph, nodes=nodes))


def _makers(graph):
    return {node.outputs: node for node in graph.nodes if isinstance(node.outputs, Value)}


def _choice(node, makers, meets_softmax):
    mask, *operands = node.args
    numbers = [_number(x, makers) for x in operands]
    arrays = [x for x, number in zip(operands, numbers) if number is None and not isinstance(x, Value)]
    if len(arrays) > 1:
        return [node]
    numbers = ["array" if any(x is a for a in arrays) else number for x, number in zip(operands, numbers)]
    tensors = [x for x, number in zip(operands, numbers) if number is None]
    nodes = []
    if isinstance(mask, Value) and mask.dtype != "bool":
        nodes.append(node_like(node, core.Cast("bool"), f"{node.path}/mask", mask))
        mask = nodes[-1].output
    constant = not isinstance(mask, Value)
    if constant:
        mask = _as_wide(numbers_of(mask).astype(bool), node.output)
    far = any(isinstance(number, float) and abs(number) >= FAR for number in numbers)
    room = max(_ROOM, math.log(node.output.shape[-1] or 1) + 3) if far and meets_softmax(node) else 0.0
    array = _as_wide(array_of(arrays[0]), node.output) if arrays else None
    layer = layers.QuantWhere(mask.shape if constant else None, *numbers, room, array.shape if arrays else None)
    if constant:
        layer.mask.assign(mask)
    if arrays:
        hold(layer, "array", arrays[0])
        layer.trainable = trains(arrays[0])
    args = tensors if constant else [mask, *tensors]
    args = (args if len(args) > 1 else args[0],)
    return [*nodes, dataclasses.replace(node, operation=layer, args=args, kwargs={})]


def _as_wide(array, output):
    """A constant with as many axes as a tensor."""
    return array.reshape((1,) * (len(output.shape) - array.ndim) + array.shape)


def _number(x, makers):
    """The number that an operand amounts to, or `None`. Scores less 1e9 are as far below as any number is."""
    if isinstance(x, Value):
        maker = makers.get(x)
        if maker is None or not isinstance(maker.operation, (knp.Add, knp.Subtract)) or len(maker.inputs) != 1:
            return None
        shift = next((_number(a, makers) for a in maker.args if not isinstance(a, Value)), None)
        sign = -1.0 if isinstance(maker.operation, knp.Subtract) else 1.0
        whole = shift is not None and maker.args[0] is maker.inputs[0] and abs(shift) >= FAR
        return sign * shift if whole else None
    return scalar_of(x)


def lift_masked_means(graph):
    """Sums of what a mask keeps, divided by how much that is, become one layer.

    sum(x * m, 1) / maximum(sum(m, 1), 1)      ⟹      masked_mean(x, mask)
    """
    makers, lines = _makers(graph), lines_of(graph)
    nodes = []
    for node in graph.nodes:
        divides = isinstance(node.operation, (knp.Divide, knp.TrueDivide)) and not node.policy.computes_in_float
        nodes.extend((_masked_mean(node, makers, lines) if divides else None) or [node])
    return without_unread(dataclasses.replace(graph, nodes=nodes))


def _masked_mean(node, makers, lines):
    total, count = (_summed(_bounded(x, makers), makers) for x in node.args)
    if total is None or count is None or _ones(count, lines) is None:
        return None
    x, mask = _masked(makers.get(total), lines)
    source = _ones(count, lines)
    if mask is not source or len(x.shape) != 3 or tuple(count.shape) not in (source.shape, (*source.shape, 1)):
        return None
    if source.shape[1] != x.shape[1] or any(size != 1 for size in source.shape[2:]):
        return None
    nodes = []
    add = lambda operation, name, *args: (
        nodes.append(node_like(node, operation, f"{node.path}/{name}", *args)) or nodes[-1].output
    )
    if source.dtype != "bool":
        source = add(knp.Greater(), "mask", source, 0.5)
    if len(source.shape) == 3:
        source = add(knp.Squeeze(2), "steps", source)
    layer = layers.QuantMaskedMean(len(node.output.shape) == 3)
    return [*nodes, dataclasses.replace(node, operation=layer, args=([x, source],), kwargs={})]


def _bounded(x, makers):
    """What lies behind a lower bound of at most 1, or a small number added to keep from dividing by zero."""
    maker = makers.get(x) if isinstance(x, Value) else None
    if maker is None or len(maker.inputs) != 1:
        return x
    if isinstance(maker.operation, knp.Clip):
        low = maker.operation.x_min
        return maker.inputs[0] if low is not None and np.size(low) == 1 and low <= 1 and maker.operation.x_max is None else x
    limit = {knp.Maximum: 1.0, knp.Add: 1e-3}.get(type(maker.operation))
    others = [_number(a, {}) for a in maker.args if not isinstance(a, Value)] if limit is not None else []
    small = others and others[0] is not None and 0 <= others[0] <= limit
    return maker.inputs[0] if small else x


def _summed(x, makers):
    """What is summed over the steps, or `None`."""
    maker = makers.get(x) if isinstance(x, Value) else None
    if maker is None or not isinstance(maker.operation, knp.Sum):
        return None
    axes = maker.operation.axis
    steps = axes is not None and [axis % len(maker.inputs[0].shape) for axis in tree.flatten(axes)] == [1]
    return maker.inputs[0] if steps else None


def _ones(x, lines):
    """The mask that a value is 1 for and else 0, or `None`."""
    line = lines.get(x) if isinstance(x, Value) else None
    plain = line is not None and (line.on, line.off) == (1.0, 0.0)
    return line.source if plain and all(isinstance(m.operation, (knp.ExpandDims, knp.GetItem)) for m in line.moves) else None


def _masked(maker, lines):
    """The tensor and the mask that a product or a choice keeps part of it by, or twice `None`."""
    operands = [] if maker is None else [a for a in tree.flatten(maker.args) if a is not None]
    if isinstance(getattr(maker, "operation", None), knp.Where) and _number(operands[2], {}) == 0:
        line = lines.get(operands[0])
        return operands[1], operands[0] if line is None else line.source
    if isinstance(getattr(maker, "operation", None), (knp.Multiply, keras.layers.Multiply)) and len(operands) == 2:
        for x, other in (operands, operands[::-1]):
            if _ones(other, lines) is not None and len(other.shape) == 3 and other.shape[2] == 1:
                return x, _ones(other, lines)
    return None, None
