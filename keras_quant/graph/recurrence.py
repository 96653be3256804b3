"""The operation of a node that is a loop over the steps of a sequence."""

import dataclasses
import warnings

import keras
from keras import tree
from keras.src.ops import numpy as knp

from keras_quant import policy as policies
from keras_quant.graph.expressions import is_expression, weights_in
from keras_quant.layers.state import StateUpdate

_FLOAT32 = policies.get("float32")


class Recurrence(keras.Operation):
    """A loop; its node is called with a list of sequences and of first states.

    Args:
        graph: `Graph` of one step of the float model: `[*sequences, *states]` → `[output, *states]`.
        arguments: those of `layers.Loop`, but `step`.
        layer: the float layer.
        whole: its `Node`.
        hoisted: operations of the step that are computed for all steps at once, before the loop.
    """

    def __init__(self, graph, arguments, layer, whole, hoisted):
        super().__init__(name=layer.name)
        self.graph, self.arguments, self.layer, self.whole, self.hoisted = graph, arguments, layer, whole, hoisted

    def call(self, *args):
        raise NotImplementedError

    def get_config(self):
        return {"name": self.name, "of": id(self)}

    def parted(self, inputs):
        """The sequences among what the node is called with, and the first states."""
        count = self.arguments["sequences"]
        return inputs[:count], inputs[count:]

    def is_like(self, other):
        """Whether another loop is a call of the same layer, in the same way."""
        return self.layer is other.layer and self.arguments == other.arguments

    def prepared(self, policy):
        """The step's graph as `place` takes it, with a policy for all but what makes states of real numbers."""
        from keras_quant.graph.passes import prepare

        real = self._makers_of_real(self.graph)
        own = [dataclasses.replace(n, policy=_FLOAT32 if n in real else policy) for n in self.graph.nodes]
        return prepare(dataclasses.replace(self.graph, nodes=own))

    def real_states(self, graph):
        """For each state, whether it is real numbers on a fixed-point grid."""
        makers = {v for node in self._makers_of_real(graph) for v in tree.flatten(node.outputs)}
        return [v in makers for v in tree.flatten(graph.outputs)[1:]]

    def _makers_of_real(self, graph):
        """`StateUpdate`s, and choices by a mask between what they make and what was before."""
        made, found = {}, []
        for node in graph.nodes:
            chosen = isinstance(node.operation, knp.Where) and any(v in made for v in node.inputs)
            if isinstance(node.operation, StateUpdate) or chosen:
                made.update(dict.fromkeys(tree.flatten(node.outputs)))
                found.append(node)
        return found


def one_loop_a_layer(graph):
    """A graph in which the calls of a recurrent layer are those of one loop, with the same weights in front of it.

    A call with a mask and one without stay loops of their own.
    """
    loops, shared = [], {}
    for node in graph.nodes:
        loop = node.operation
        if isinstance(loop, Recurrence):
            alike = (other for other, policy in loops if policy == node.policy and loop.is_like(other))
            known = next(alike, loop)
            loops.append((known, node.policy))
            shared[id(loop)] = known
            shared.update(zip(map(id, loop.hoisted), known.hoisted))
    _warn_of_shared_cells(graph, [loop for loop, _ in loops])
    nodes = [dataclasses.replace(n, operation=shared.get(id(n.operation), n.operation)) for n in graph.nodes]
    return dataclasses.replace(graph, nodes=nodes)


def _warn_of_shared_cells(graph, loops):
    """Of cells that stand in several recurrent layers, or are called by hand as well: the weights of a loop are its own."""
    own = tuple(f"{loop.whole.path}/" for loop in loops)  # what is computed for all steps at once, in front of a loop
    nodes = [node for node in graph.nodes if not node.path.startswith(own)]
    read = [x for node in nodes for x in tree.flatten((node.args, node.kwargs)) if is_expression(x)]
    read = {id(weight.variable) for x in read for weight in weights_in(x)}
    layers, seen = {id(loop.layer): loop for loop in loops}, set()
    for loop in layers.values():
        cell = loop.layer.cell
        if id(cell) in seen or any(id(variable) in read for variable in cell.variables):
            warnings.warn(
                f"Layer '{loop.whole.path}' is recurrent, and its cell is called elsewhere, too. Each gets its own weights, "
                "equal now, which train apart. Call the layer itself, on a sequence of one step: "
                "`layer(ops.expand_dims(x, 1), initial_state=states)`.",
                stacklevel=2,
            )
        seen.add(id(cell))
