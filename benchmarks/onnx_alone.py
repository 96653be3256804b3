"""Every operator of an `.onnx` on its own: each gets the integers that Keras computes, whatever those before it make."""

import dataclasses

import numpy as np
import onnx
import onnxruntime
from keras import ops

from keras_quant.graph import trace
from keras_quant.onnx import places, read_model
from keras_quant.tflite.parity import keras_side

_TYPES = {f"tensor({dtype})": np.dtype(dtype) for dtype in ("uint8", "int8", "int16", "bool")}
_TYPES["tensor(float)"] = np.dtype("float32")


@dataclasses.dataclass(frozen=True)
class Alone:
    """Attributes:
    kind: class of the layer.
    steps: largest difference between ONNX Runtime and Keras, in steps of the grid.
    differ: how many elements differ.
    elements: how many there are.
    """

    kind: str
    steps: int
    differ: int
    elements: int


def alone(qmodel, path, x):
    """Compare the operators of a file with the layers of its model, one by one.

    Args:
        qmodel: quantized model.
        path: of its `.onnx`.
        x: inputs, by name where there are several.

    Returns:
        Dict from layer paths to `Alone`.
    """
    layers, _ = places.read(read_model(path))
    graph = trace(qmodel, keep_float=True)
    arrays = [x[value.name] if isinstance(x, dict) else x for value in graph.inputs]
    _, integers = keras_side(qmodel, graph, list(layers), [])({}, *map(ops.convert_to_tensor, arrays))
    integers = {layer: np.asarray(made).astype(int) for layer, made in zip(layers, integers)}
    model = _cut(read_model(path), {place.value for place in layers.values()})
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = {value.name: array for value, array in zip(graph.inputs, arrays)}
    for layer, place in layers.items():
        given[f"given/{place.value}"] = np.moveaxis(integers[layer], -1, 1) if place.first else integers[layer]
    fed = {i.name: _shifted(given[i.name], i.type, 128) for i in session.get_inputs()}
    names = [place.value for place in layers.values()]
    types = {o.name: o.type for o in session.get_outputs()}
    kinds = {node.path: type(node.operation).__name__ for node in graph.nodes}
    found = {}
    for (layer, place), made in zip(layers.items(), session.run(names, fed)):
        made = _shifted(made.astype(int), types[place.value], -128, int)
        steps = np.abs((np.moveaxis(made, 1, -1) if place.first else made) - integers[layer])
        found[layer] = Alone(kinds[layer], int(steps.max(initial=0)), np.count_nonzero(steps), steps.size)
    return found


def _shifted(array, kind, by, dtype=None):
    return (array + by if kind == "tensor(uint8)" else array).astype(dtype or _TYPES[kind])


def _cut(model, values):
    """The model with some values as outputs, and all that reads them reading inputs in their place."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    known = {info.name: info for info in (*inferred.value_info, *inferred.output)}
    for node in model.graph.node:
        node.input[:] = [f"given/{name}" if name in values else name for name in node.input]
    read = {name for node in model.graph.node for name in node.input}
    for name in sorted(values):
        model.graph.output.append(known[name])
        if f"given/{name}" in read:
            kind = known[name].type.tensor_type
            sizes = [dim.dim_value or None for dim in kind.shape.dim]
            info = onnx.helper.make_tensor_value_info(f"given/{name}", kind.elem_type, [None, *sizes[1:]])
            model.graph.input.append(info)
    return model
