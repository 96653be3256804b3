"""Tensors inside the loops of a file: the operators of one step, run on all steps of what Keras computes."""

import numpy as np

from keras_quant.graph.loops import inner_path, loops_of
from keras_quant.tflite.flatbuffer import SIGNATURE, finish
from keras_quant.tflite.lower import Lowering, Output, lower_nodes


class LoopComparison:
    """Compares what a loop's step makes inside, tensor by tensor, on the states that `predict` has.

    The step is lowered alone, as it is in the loop's body, and takes each step of each sequence as a sample: a state that
    went wrong would otherwise make all steps behind it differ.

    Args:
        node: `Node` of the `Loop`.
        runtime: function (bytes of a file) → `Runtime`.
    """

    def __init__(self, node, runtime):
        from keras_quant.tflite.parity import Comparison, keras_side, leaving_float, read_dynamically

        self.node, self.graph = node, node.operation.traced.graph.with_calls_apart()
        content, self.fed, names = step_file(node.operation)
        edges = leaving_float(self.graph)
        given = {path: names[path] for path in (*edges, *read_dynamically(self.graph)) if path in names}
        inside = {path: name for path, name in names.items() if path not in edges}
        side = keras_side(None, self.graph, list(inside), list(given), loops_of(self.graph))
        self.compare = Comparison({}, inside, given, side, runtime(content), inner_comparisons(self.graph, runtime))
        self.compare.tolerate(self.graph)
        for path, report in self.compare.inside.items():
            report.name = inner_path(node.path, path, node.operation.name)
            if node.operation.is_exact and report.tolerance is not None:
                report.tolerance = 0.0

    @property
    def reports(self):
        """`TensorParity` of each tensor inside, in order of execution."""
        return self.compare.reports_inside(self.graph)

    def add(self, steps):
        """Compare the steps of one batch.

        Args:
            steps: as of `Loop.integer_steps`.
        """
        self.compare.add(dict(zip(self.fed, map(np.asarray, steps))))


def inner_comparisons(graph, runtime):
    """A `LoopComparison` for each loop of a graph; args as there."""
    return [LoopComparison(node, runtime) for node in loops_of(graph)]


def step_file(layer):
    """A file of one step of a `Loop`, as the loop's body has it, with every tensor among its outputs.

    Args:
        layer: `Loop`, traced.

    Returns:
        The file's bytes; names of its inputs' tensors, in the step's order; and a dict from the paths of the step's layers
        to the names of the tensors that they make.
    """
    graph = layer.traced.graph.with_calls_apart()
    lowering = Lowering(1 if loops_of(graph) else None)
    for slot, value in enumerate(graph.inputs):
        entrance = layer.entrances.get(slot)
        params = None if entrance is None else entrance.grid.params().stored
        given = Output(value.name, value.shape[1:], params, value.dtype)
        lowering.tensors[value] = lowering.inputs[value] = lowering.activation(given)
    lower_nodes(lowering, graph.nodes)
    inputs = {x.name: x for x in lowering.inputs.values()}
    made = {path: lowering.tensors[v] for node in graph.nodes for path, v in node.named_outputs().items()}
    made = {path: x for path, x in made.items() if x.name not in inputs}
    outputs = {x.name: x for x in made.values()}
    content = finish({SIGNATURE: (lowering.writer, inputs, outputs)}, f"one step of {layer.name}")
    return content, list(inputs), {path: x.name for path, x in made.items()}
