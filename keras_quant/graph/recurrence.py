"""The operation of a node that is a loop over the steps of a sequence."""

import dataclasses

import keras
from keras import tree
from keras.src.ops import numpy as knp

from keras_quant import policy as policies
from keras_quant.layers.state import StateUpdate

_FLOAT32 = policies.get("float32")


class Recurrence(keras.Operation):
    """A loop; its node is called with a list of sequences and of first states.

    Args:
        graph: `Graph` of one step of the float model: `[*sequences, *states]` → `[output, *states]`.
        arguments: those of `layers.Loop`, but `step`.
        name: of the layer.
        whole: the `Node` of the float layer.
    """

    def __init__(self, graph, arguments, name, whole):
        super().__init__(name=name)
        self.graph, self.arguments, self.whole = graph, arguments, whole

    def call(self, *args):
        raise NotImplementedError

    def get_config(self):
        return {"name": self.name, "of": id(self)}

    def parted(self, inputs):
        """The sequences among what the node is called with, and the first states."""
        count = self.arguments["sequences"]
        return inputs[:count], inputs[count:]

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
