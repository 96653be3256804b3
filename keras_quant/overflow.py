"""Layers that compute in float16 and reach beyond it."""

from collections.abc import Iterator

import keras
from keras import ops, tree

from keras_quant import backend
from keras_quant.data import input_batches
from keras_quant.errors import CalibrationError
from keras_quant.graph.graph import in_float
from keras_quant.graph.kinds import is_real
from keras_quant.graph.loops import everywhere, inner_graph


def check_overflow(graph, data, steps=None):
    """Refuse a layer that computes in float16, whose largest number is 65,504, and makes an infinite one of the data.

    What masks set far below all scores may be minus infinity.

    Args:
        graph: of a quantized model, as traced.
        data, steps: as of `calibrate`.

    Raises:
        CalibrationError: with the layer's path.
    """
    halves = [place for place in everywhere(graph) if _is_half(place.node)]
    # What can be gone through once only is calibration's.
    if not halves or isinstance(data, Iterator):
        return
    wanted = {id(place.node) for place in halves}

    def step(*inputs):
        finite = []

        def compute(node, args, kwargs):
            if inner_graph(node) is not None:
                inner_graph(node).run(node.operation.float_steps(*args), compute, release=True)
            outputs = in_float(node, args, kwargs)
            if id(node) in wanted:
                finite.append(ops.all(tree.flatten(outputs)[0] < float("inf")))
            return outputs

        graph.run(inputs, compute, release=True)
        return finite

    step = backend.compiled_for_batches(step)
    for arrays in input_batches(data, graph.inputs, steps):
        for place, is_finite in zip(halves, step(*map(ops.convert_to_tensor, arrays))):
            if not bool(is_finite):
                raise CalibrationError(
                    f"Layer '{place.path}' computes in float16, which ends at 65,504, and goes beyond that on the "
                    "calibration data, or gets NaN. Give the layer the policy 'float32', or scale what it takes down."
                )


def _is_half(node):
    values = tree.flatten(node.outputs)
    return isinstance(node.operation, keras.Operation) and is_real(values[0]) and values[0].dtype == "float16"
