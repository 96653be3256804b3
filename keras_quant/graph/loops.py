"""What walks a model's graph and wants to know the layers inside of loops, too."""

import dataclasses

from keras_quant.graph.graph import Node
from keras_quant.layers.loop import Loop, StepInput


@dataclasses.dataclass(frozen=True)
class Place:
    """A node of a graph, or of the steps of a loop in it.

    Attributes:
        node: `Node`.
        path: its own, or inside of a loop the loop's and its name there: "lstm/gates".
        times: how often it is run for one sample.
    """

    node: Node
    path: str
    times: int = 1


def inner_graph(node):
    """The graph of one step of a node that is a loop; `None` for any other."""
    return node.operation.traced.graph if isinstance(node.operation, Loop) else None


def loops_of(graph):
    """The nodes of a graph that are loops."""
    return [node for node in graph.nodes if inner_graph(node) is not None]


def inner_path(loop, path, name):
    """The path of a layer inside a loop.

    Args:
        loop: path of the loop.
        path: of the layer in the graph of the step, where it begins with the loop's own name.
        name: of the loop's layer.
    """
    return f"{loop}/{path.removeprefix(f'{name}.')}"


def steps_of(node):
    """How many steps a loop takes for one sample."""
    sequence = node.inputs[0]
    return sequence.rows * sequence.shape[1]


def everywhere(graph):
    """The nodes of a graph, those inside of a loop before it; the step's inputs are none.

    Args:
        graph: `Graph` of a model, traced.

    Returns:
        List of `Place`s.
    """
    found = []
    for node in graph.nodes:
        inside = inner_graph(node)
        for inner in () if inside is None else everywhere(inside):
            if not isinstance(inner.node.operation, StepInput):
                path = inner_path(node.path, inner.path, node.operation.name)
                found.append(Place(inner.node, path, inner.times * steps_of(node)))
        found.append(Place(node, node.path))
    return found
