"""What recurrent layers keep from one call to the next."""

import contextlib
import dataclasses

from keras import ops, tree

from keras_quant.graph.graph import Graph, Value
from keras_quant.graph.loops import inner_graph
from keras_quant.graph.rebuild import changed
from keras_quant.graph.trace import trace
from keras_quant.layers import annotation
from keras_quant.layers.loop import Loop


@dataclasses.dataclass(frozen=True)
class State:
    """What is kept from one call to the next: zeros at first.

    Attributes:
        before, after: `Value`s at the beginning and at the end of a call.
        grid: the quantizer on whose grid it lies, or `None`.
    """

    before: Value
    after: Value
    grid: object


@dataclasses.dataclass(frozen=True)
class Stream:
    """A graph of one call.

    Attributes:
        graph: `Graph`, its states among neither inputs nor outputs.
        states: list of `State`s.
        frames: how many steps a call takes.
        warm: for each output, in flattened order, how many of its first steps are not the model's; `None` for an output
            without steps, which is the model's once a whole sequence was taken.
    """

    graph: Graph
    states: list
    frames: int
    warm: list


def stateful(graph):
    """The nodes of a graph whose layers are `stateful` and keep what they end with."""
    loops = [node for node in graph.nodes if inner_graph(node) is not None and node.operation.stateful]
    return [node for node in loops if len(node.args[0]) == node.operation.sequences]


def is_stateful(model):
    """Whether a quantized model has such layers."""
    flagged = any(isinstance(layer, Loop) and layer.stateful for layer in model._flatten_layers())
    return flagged and bool(stateful(trace(model, keep_float=True)))


def reset(graph):
    """Set the states that the layers of a graph keep to zero."""
    for node in stateful(graph):
        node.operation.reset_state()


@contextlib.contextmanager
def from_zero(graph):
    """A context that begins with states of zero and leaves them as they were."""
    loops = [node.operation for node in stateful(graph)]
    before = [[ops.convert_to_numpy(x) for x in loop.kept] for loop in loops]
    reset(graph)
    try:
        yield
    finally:
        for loop, values in zip(loops, before):
            for variable, value in zip(loop.kept, values):
                variable.assign(value)


def keep(graph):
    """The `Stream` of a model with `stateful` layers: a call takes what the model does, and goes on where the last ended."""
    nodes, kept, loops = [], {}, stateful(graph)
    for node in graph.nodes:
        layer = node.operation
        if node in loops:
            # A layer that is called twice goes on where its first call ended.
            known = kept.get(id(layer))
            node, states = carried_on(node, node.args[0], tree.flatten(node.outputs), known)
            first = states if known is None else known
            kept[id(layer)] = [State(old.before, new.after, new.grid) for old, new in zip(first, states)]
        nodes.append(node)
    states = [state for one in kept.values() for state in one]
    made = dataclasses.replace(graph, nodes=nodes)
    return Stream(made, states, graph.inputs[0].shape[1], [0] * len(tree.flatten(graph.outputs)))


def carried_on(node, sequences, outputs, last=None):
    """A loop's node with its states among what it takes and gives, and the `State`s.

    Args:
        node: of a `Loop` that is given no first states.
        sequences: `Value`s that it reads.
        outputs: `Value`s of its output, and of as many of its states as somebody reads.
        last: `State`s of an earlier call, after which this one goes on.
    """
    layer, states = node.operation, []
    for index, inner in enumerate(inner_graph(node).inputs[layer.sequences :]):
        note, rows = annotation(layer.step.outputs[1 + index]), next(v.rows for v in node.inputs)
        name, shape = f"{node.path.replace('/', '.')}_state_{index}", (None, *inner.shape[1:])
        before = Value(shape, "float32", name, note, rows) if last is None else last[index].after
        known = outputs[1 + index : 2 + index]
        after = known[0] if known else Value(shape, "float32", f"{name}_after", note, rows)
        states.append(State(before, after, None if note is None else note.quantizer))
    going_on = changed(layer, return_state=True, hidden_states=0, is_continued=True)
    args = ([*sequences, *(state.before for state in states)],)
    made = [outputs[0], *(state.after for state in states)]
    return dataclasses.replace(node, operation=going_on, args=args, kwargs={}, outputs=made), states
