"""Where a model moves the batch away from the front and back again, it stays there."""

import dataclasses
import math
import string

import keras
import numpy as np
from keras import tree
from keras.src.ops import core, nn, numpy
from keras.src.ops import math as math_operations

from keras_quant.graph.batch import symbolic_shape, value
from keras_quant.graph.explain import location
from keras_quant.graph.expressions import is_expression
from keras_quant.graph.graph import Value
from keras_quant.layers.derived import is_variable
from keras_quant.layers.slice import full_key

L = keras.layers
_FORMS = {}


def _forms(*operations):
    """Decorator: the function says what these operations are where the batch of their tensors is in front.

    It returns steps, each a tuple of an operation and, if they differ, of the arguments behind the first; or `None`.
    """

    def decorate(function):
        _FORMS.update((operation, function) for operation in operations if operation is not None)
        return function

    return decorate


def batch_to_front(graph):
    """What is computed with the batch on another axis is computed with it in front.

        transpose(2, 0, 3, 1, 4) → x[0], x[1], x[2]      ⟹      transpose(0, 2, 3, 1, 4) → x[:, 0], x[:, 1], x[:, 2]

    Rows of the batch that lie in another order than that of samples, as `(nodes, batch, …)` reshaped to `(nodes · batch, …)`
    has them, are put in that order as well, as long as each is computed for itself.

    A node that has no such form stays, with what leads to it; its error says so.
    """
    front, nodes, doubled, stuck = {}, [], set(), None
    for node in graph.nodes:
        moved = _moved_rows(node, front) or _moved(node, front)
        stuck = node if stuck is None and not moved and any(x in front for x in node.inputs) else stuck
        if not moved or any(x.batch_axis != 0 or x in front for x in tree.flatten(node.outputs)):
            nodes.append(node)  # beside its other form, for those that have none
        if moved:
            doubled.add(node)
            nodes.extend(moved)
    if not doubled:
        return graph
    nodes = [_refused(n, stuck) if n in doubled and stuck else n for n in _read(nodes, doubled, graph)]
    return dataclasses.replace(graph, nodes=nodes)


def _refused(node, stuck):
    """A node with the batch elsewhere than in front, which it has to have for the sake of one that has no other form."""
    refusal = (
        f"Operation '{node.path}' moves, cuts or merges the batch, whose size the runtime sets, and '{stuck.path}' "
        f"({type(stuck.operation).__name__}){location(stuck)} cannot be computed with the batch in front instead. Leave the "
        "first axis whole and work on the others."
    )
    return dataclasses.replace(node, refusal=node.refusal or refusal)


def _read(nodes, doubled, graph):
    """The nodes, but those in `doubled` that nothing reads any more."""
    read, kept = set(tree.flatten(graph.outputs)), []
    for node in reversed(nodes):
        if node not in doubled or read.intersection(tree.flatten(node.outputs)):
            kept.append(node)
            read.update(node.inputs)
    return kept[::-1]


def _moved(node, front):
    """The nodes that make `node`'s outputs with the batch in front; none where they are so already, or cannot be made."""
    outputs, inputs = tree.flatten(node.outputs), node.inputs
    places = [x.batch_axis for x in (*outputs, *inputs)]
    if not any(places) or None in places or any(x.batch_axis and x not in front for x in inputs):
        return []
    steps = _FORMS.get(type(node.operation), lambda node: None)(node)
    if steps is None:
        return []
    front.update((x, _in_front(x)) for x in outputs if x.batch_axis)
    fill = lambda x: front.get(x, x) if isinstance(x, Value) else x
    args, nodes = tree.map_structure(fill, node.args), []
    *first, (operation, *others) = steps
    for index, (step, *given) in enumerate(first):
        path, x = f"{node.path}/{index}", args[0]
        args = (x, *given) if given else args
        spec = step.compute_output_spec(keras.KerasTensor(symbolic_shape(x)), *given)
        nodes.append(dataclasses.replace(node, operation=step, path=path, args=args, outputs=value(spec, path, None)))
        args = (nodes[-1].output,)
    args, outputs = (args[0], *others) if others else args, tree.map_structure(fill, node.outputs)
    return [*nodes, dataclasses.replace(node, operation=operation, args=args, outputs=outputs)]


def _moved_rows(node, front):
    """As `_moved`, where the batch holds rows in another order than that of samples, or comes to do so."""
    inputs, outputs = node.inputs, tree.flatten(node.outputs)
    known = [x for x in inputs if x in front]
    if not known or len(known) < len(inputs):
        return []
    if isinstance(node.operation, numpy.Reshape):
        (x,), y = inputs, node.output
        merges = (
            x.batch_axis and y.batch_axis == 0 and _rows_before(x) == y.rows and x.shape[x.batch_axis + 1 :] == y.shape[1:]
        )
        parts = x.batch_axis == 0 and y.batch_axis and _rows_before(y) == x.rows
        if not (merges or parts):
            return []
        operation = numpy.Reshape((-1, *_in_front(y).shape[1:]))
    elif any(x.batch_axis != 0 for x in (*inputs, *outputs)) or any(y.rows != inputs[0].rows for y in outputs):
        return []
    else:
        operation = node.operation
    front.update((y, _in_front(y)) for y in outputs)
    args, kwargs, made = tree.map_structure(
        lambda x: front.get(x, x) if isinstance(x, Value) else x, (node.args, node.kwargs, node.outputs)
    )
    return [dataclasses.replace(node, operation=operation, args=args, kwargs=kwargs, outputs=made)]


def _rows_before(x):
    """How many rows for a sample a value has, with the axes before its batch."""
    return x.rows * math.prod(x.shape[: x.batch_axis])


def _in_front(x):
    axis = x.batch_axis
    shape = (x.shape[axis], *x.shape[:axis], *x.shape[axis + 1 :])
    return dataclasses.replace(x, shape=shape, batch_axis=0)


def _axis(axis, x):
    """Where an axis of a value lies once its batch is in front."""
    batch, axis = x.batch_axis, axis % len(x.shape)
    return 0 if axis == batch else axis + 1 if axis < batch else axis


@_forms(numpy.Transpose, numpy.Swapaxes, numpy.Moveaxis)
def _transpose(node):
    (x,) = node.inputs
    order = _order(node.operation, len(x.shape))
    return [(numpy.Transpose([0, *(_axis(axis, x) for axis in order if axis != x.batch_axis)]),)]


def _order(operation, rank):
    axes = list(range(rank))
    if isinstance(operation, numpy.Transpose):
        return axes[::-1] if operation.axes is None else [axis % rank for axis in operation.axes]
    if isinstance(operation, numpy.Swapaxes):
        a, b = operation.axis1 % rank, operation.axis2 % rank
        axes[a], axes[b] = axes[b], axes[a]
        return axes
    sources, destinations = ([axis % rank for axis in given] for given in (operation.source, operation.destination))
    axes = [axis for axis in axes if axis not in sources]
    for destination, source in sorted(zip(destinations, sources)):
        axes.insert(destination, source)
    return axes


@_forms(numpy.ExpandDims, numpy.Squeeze)
def _single_axes(node):
    """Where they lie: in the longer shape, whose batch is none of them."""
    (x,), operation = node.inputs, node.operation
    longer = node.output if isinstance(operation, numpy.ExpandDims) else x
    if operation.axis is None:
        return None
    axes = sorted(_axis(axis, longer) for axis in tree.flatten(operation.axis))
    return [(type(operation)(axes[0]),)] if len(axes) == 1 and axes[0] else None


@_forms(numpy.GetItem)
def _get_item(node):
    x, key = node.args
    if any(isinstance(entry, Value) for entry in tree.flatten(key)):
        return None
    entries, axis, others, whole = full_key(key, len(x.shape)), 0, [], False
    for entry in entries:
        if entry is not None and axis == x.batch_axis:
            whole = isinstance(entry, slice) and entry in (slice(None), slice(0, None))
        else:
            others.append(entry)
        axis += entry is not None
    return [(numpy.GetItem(), (slice(None), *others))] if whole else None


@_forms(core.Unstack, numpy.Split, getattr(numpy, "ArraySplit", None))
def _parts(node):
    (x,), operation = node.inputs, node.operation
    axis = _axis(operation.axis, x)
    if axis == 0:
        return None
    if isinstance(operation, core.Unstack):
        return [(core.Unstack(operation.num, axis),)]
    return [(type(operation)(operation.indices_or_sections, axis),)]


_ELEMENTWISE = [
    *(
        "Add",
        "Subtract",
        "Multiply",
        "Divide",
        "TrueDivide",
        "Negative",
        "Square",
        "Sqrt",
        "Exp",
        "Maximum",
        "Minimum",
        "Tanh",
    ),
]
_FUNCTIONS = ["Relu", "Relu6", "Sigmoid", "Silu", "Gelu", "Elu", "LeakyRelu", "HardSigmoid", "HardSilu"]


@_forms(
    *(getattr(numpy, name, None) for name in _ELEMENTWISE),
    *(getattr(nn, name, None) for name in _FUNCTIONS),
    *(core.Cast, L.Activation, L.ReLU, L.Dropout, L.Identity),
)
def _elementwise(node):
    """Between tensors whose batch is on the same axis, and numbers; or of a tensor and a constant, alike for all samples."""
    alike = {(x.batch_axis, len(x.shape)) for x in node.inputs}
    others = [x for x in tree.flatten((node.args, node.kwargs)) if not isinstance(x, Value)]
    if len(alike) > 1:
        return None
    if all(len(getattr(x, "shape", ())) == 0 for x in others):
        return [(node.operation,)]
    ((batch, rank),), (x, *constant) = alike, node.args
    if not isinstance(x, Value) or len(constant) != 1 or is_expression(constant[0]) or is_variable(constant[0]):
        return None
    values = np.asarray(constant[0])
    values = values.reshape((1,) * (rank - values.ndim) + values.shape)
    return [(node.operation, np.moveaxis(values, batch, 0))] if values.ndim == rank and values.shape[batch] == 1 else None


@_forms(math_operations.SegmentSum)
def _segment_sum(node):
    """Of constant segments: a product with a matrix of zeros and ones."""
    (x,), members = node.inputs, _members(node)
    rest = string.ascii_lowercase[: len(x.shape) - 2]
    return None if members is None else [(numpy.Einsum(f"XY{rest},ZY->XZ{rest}"), np.float32(members))]


@_forms(getattr(math_operations, "SegmentMax", None), getattr(math_operations, "SegmentMin", None))
def _segment_extreme(node):
    """Of constant segments: over each one's rows, the shorter ones' repeated up to the number of the longest.

    A segment without rows stays: Keras says that it is the lowest number of the type, which no grid has.
    """
    (x,), members = node.inputs, _members(node)
    if members is None or not members.any(axis=1).all():
        return None
    count, longest = len(members), members.sum(axis=1).max()
    rows = np.stack([np.resize(np.flatnonzero(row), longest) for row in members])
    reduction = numpy.Max if isinstance(node.operation, math_operations.SegmentMax) else numpy.Min
    apart = (-1, count, int(longest), *_in_front(x).shape[2:])
    return [(numpy.Take(1), rows.reshape(-1)), (numpy.Reshape(apart),), (reduction(2),)]


def _members(node):
    """For each segment, whether each row is one of it; `None` where that is computed from the input."""
    _, ids = node.args
    if isinstance(ids, Value):
        return None
    ids, count = np.asarray(ids), node.operation.num_segments
    return ids == np.arange(ids.max() + 1 if count is None else count)[:, None]


@_forms(numpy.Matmul)
def _matmul(node):
    if len(node.inputs) == 1:
        # By a matrix of the model's own.
        x, other = node.args
        behind = isinstance(x, Value) and len(other.shape) == 2 and x.batch_axis < len(x.shape) - 1
        return [(node.operation, other)] if behind else None
    alike = {(x.batch_axis, len(x.shape)) for x in node.inputs}
    before = all(x.batch_axis < len(x.shape) - 2 for x in node.inputs)
    return [(node.operation,)] if len(alike) == 1 and len(node.inputs) == 2 and before else None


@_forms(numpy.Einsum)
def _einsum(node):
    """The letter of the batch comes first, in tensors and in the result."""
    given, result = node.operation.subscripts.replace(" ", "").split("->")
    terms = given.split(",")
    if "..." in given or len(terms) != len(node.args):
        return None
    letters = {term[x.batch_axis] for term, x in zip(terms, node.args) if isinstance(x, Value)}
    if len(letters) != 1 or result.find(*letters) != node.output.batch_axis:
        return None
    (batch,) = letters
    first = lambda term: batch + term.replace(batch, "")
    terms = [first(term) if isinstance(x, Value) else term for term, x in zip(terms, node.args)]
    return [(numpy.Einsum(f"{','.join(terms)}->{first(result)}"),)]


@_forms(numpy.Concatenate, L.Concatenate, numpy.Stack)
def _concatenate(node):
    alike = {(x.batch_axis, len(x.shape)) for x in node.inputs}
    longer = node.output if isinstance(node.operation, numpy.Stack) else node.inputs[0]
    axis = _axis(node.operation.axis, longer)
    return (
        [(type(node.operation)(axis),)]
        if len(alike) == 1 and axis and len(node.inputs) == len(tree.flatten(node.args))
        else None
    )


@_forms(numpy.Take)
def _take(node):
    x, places = node.args
    if node.operation.axis is None or isinstance(places, Value) or len(getattr(places, "shape", ())) > 1:
        return None
    axis = _axis(node.operation.axis, x)
    return [(numpy.Take(axis), places)] if axis else None


@_forms(numpy.Sum, numpy.Mean, numpy.Max, numpy.Min)
def _reduction(node):
    (x,), operation = node.inputs, node.operation
    if operation.axis is None or getattr(operation, "initial", None) is not None:
        return None
    axes = tuple(_axis(axis, x) for axis in tree.flatten(operation.axis))
    return [(type(operation)(axes, operation.keepdims),)] if all(axes) else None


@_forms(L.Dense, L.LayerNormalization)
def _of_last_axis(node):
    (x,), axis = node.inputs, getattr(node.operation, "axis", -1)
    last = axis in (-1, [-1], len(x.shape) - 1, [len(x.shape) - 1]) and x.batch_axis < len(x.shape) - 1
    return [(node.operation,)] if last else None


@_forms(numpy.Reshape)
def _reshape(node):
    """What lies before the batch has to stay; parts of what lies behind it may become its rows, or rows parts of that."""
    (x,), y = node.inputs, node.output
    before = math.prod(x.shape[: x.batch_axis])
    if before != math.prod(y.shape[: y.batch_axis]) or max(x.rows, y.rows) % min(x.rows, y.rows):
        return None
    last = (numpy.Reshape((-1, *_in_front(y).shape[1:])),)
    if x.rows == y.rows:
        return [last]
    parts, rest = max(x.rows, y.rows) // min(x.rows, y.rows), math.prod(y.shape[y.batch_axis + 1 :])
    rest = rest if y.rows > x.rows else rest // parts
    apart = (-1, before, parts, rest) if y.rows > x.rows else (-1, parts, before, rest)
    return [(numpy.Reshape(apart),), (numpy.Transpose((0, 2, 1, 3)),), last]
