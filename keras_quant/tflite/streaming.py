"""Files that take a sequence a few steps a call, and what is kept between calls: variables, or inputs and outputs."""

import dataclasses

import numpy as np
from keras import ops, tree

from keras_quant.errors import ExportError
from keras_quant.graph import settle_halves, trace
from keras_quant.graph.kept import keep, stateful
from keras_quant.graph.streaming import Keep, stream
from keras_quant.tflite.concatenate import join
from keras_quant.tflite.ends import check_end_types, output_tensor
from keras_quant.tflite.export import reduced_precision
from keras_quant.tflite.file import write_atomically
from keras_quant.tflite.flatbuffer import SIGNATURE, finish, parse
from keras_quant.tflite.loop import like
from keras_quant.tflite.lower import Lowering, checked_graph, lower_graph, lowers_float, params_of
from keras_quant.tflite.report import describe
from keras_quant.tflite.writer import KINDS, Tensor, TensorType, Writer

DESCRIPTION, STATEFUL, RESET = "keras_quant", "keras_quant, stateful", "reset"
KEPT_IN = "variables", "inputs"


def export_streaming(qmodel, path, keeps_in="variables", input_type=None, output_type=None):
    """Write a quantized model as a `.tflite` that takes a sequence a few steps a call.

    Args:
        qmodel: quantized `keras.Model`.
        path: of the file.
        keeps_in: "variables" of the file, which the signature `reset` sets to zero; or "inputs" and outputs of it, which
            whoever runs it hands on.
        input_type, output_type: as of `keras_quant.export`.

    Returns:
        `ExportReport`.

    Raises:
        ExportError: for a layer that needs steps which are still to come.
    """
    if keeps_in not in KEPT_IN:
        raise ExportError(f'`streaming` is True, "variables" or "inputs". Received: streaming={keeps_in!r}')
    check_end_types(input_type=input_type, output_type=output_type)
    settle_halves(trace(qmodel, keep_float=True))
    return _written(path, *_parts(stream(checked_graph(qmodel)), Lowering(1, input_type), output_type, keeps_in))


def export_stateful(qmodel, path, batch_size="auto", input_type=None, output_type=None):
    """Write a model with `stateful` layers, whose states are variables of the file; args as of `keras_quant.export`.

    Raises:
        ExportError: for another batch size than the model's.
    """
    check_end_types(input_type=input_type, output_type=output_type)
    settle_halves(trace(qmodel, keep_float=True))
    graph = checked_graph(qmodel)
    (layer, *_) = (node.operation for node in stateful(graph))
    if batch_size not in ("auto", layer.batch_size):
        raise ExportError(
            f"Layer '{layer.name}' is stateful and keeps the states of {layer.batch_size} sequences. Leave `batch_size` "
            f"out, or build the model for another one. Received: batch_size={batch_size}"
        )
    return _written(path, *_parts(keep(graph), Lowering(layer.batch_size, input_type), output_type), STATEFUL)


def _written(path, parts, lowering, description=DESCRIPTION):
    content = finish(parts, description)
    write_atomically(path, content)
    return describe(path, content, parse(content), layers={SIGNATURE: lowering.layers})


def _parts(made, lowering, output_type, keeps_in="variables"):
    """What `finish` takes of a `Stream`, and the `Lowering` of its signature."""
    graph = made.graph
    before = [_tensor_of(lowering, state) for state in made.states]
    handles = _read(lowering, made.states, before) if keeps_in == "variables" else []
    lowering.tensors.update(zip((state.before for state in made.states), before))
    lower_graph(lowering, graph)
    lowering.writer.metadata |= reduced_precision(graph, lowering)
    inputs = {value.name: lowering.inputs[value] for value in graph.inputs}
    values = dict(zip(graph.output_names, tree.flatten(graph.outputs)))
    outputs = {name: output_tensor(lowering, name, lowering.tensors[v], output_type) for name, v in values.items()}
    after = [lowering.tensors[state.after] for state in made.states]
    if keeps_in == "inputs":
        inputs |= {state.before.name: x for state, x in zip(made.states, before)}
        outputs |= {state.after.name: x for state, x in zip(made.states, after)}
        return {SIGNATURE: (lowering.writer, inputs, outputs)}, lowering
    for handle, x in zip(handles, after):
        lowering.operator("ASSIGN_VARIABLE", [handle, x], [], 1, (2, 6, 0))
    return {SIGNATURE: (lowering.writer, inputs, outputs), RESET: _reset(before)}, lowering


def _tensor_of(lowering, state):
    """The tensor in which a state begins."""
    value, writer = state.before, lowering.writer
    if state.grid is None:
        real = "float" in value.dtype
        make = writer.real if real else lambda *args, **kwargs: writer.integers(*args, kind=KINDS[value.dtype], **kwargs)
        return make(value.name, value.shape[1:], rows=value.rows)
    params = state.grid.params().stored
    numbers = (ops.convert_to_numpy(x) for x in (params.scale, params.zero_point))
    return writer.activation(value.name, value.shape[1:], *numbers, KINDS[params.type.storage], value.rows)


def _read(lowering, states, tensors):
    """Read the variables, which a subgraph sets to zero before the first call; returns their handles."""
    first = Writer()
    _assign_zeros(first, tensors)
    lowering.writer.call_once((first, [], []))
    handles = []
    for index, (state, x) in enumerate(zip(states, tensors)):
        lowering.path = state.before.name
        handles.append(_handle(lowering.writer, index))
        lowering.operator("READ_VARIABLE", [handles[-1]], x, 1, (2, 6, 0))
    return handles


def _handle(writer, index):
    place, name = writer._tensor(f"variable_{index}", (), TensorType.RESOURCE, 0, None, None)
    handle = Tensor(place, name, (), kind=TensorType.RESOURCE)
    names = {"container": b"", "sharedName": b"state_%d" % index}
    writer.operator("VAR_HANDLE", [], handle, 1, (2, 6, 0), "VarHandleOptions", **names)
    return handle


def _assign_zeros(writer, tensors):
    for index, x in enumerate(tensors):
        dtype = {TensorType.FLOAT32: np.float32, TensorType.INT8: np.int8, TensorType.INT16: np.int16}.get(x.kind)
        dtype = np.dtype(next(name for name, kind in KINDS.items() if kind == x.kind)) if dtype is None else dtype
        zeros = writer.constant(x.name, np.full(x.shape, x.zero_point, dtype), x.scale, zero_point=x.zero_point)
        writer.operator("ASSIGN_VARIABLE", [_handle(writer, index), zeros], [], 1, (2, 6, 0))


def _reset(tensors):
    """The signature that sets all to zero; one has to have an input and an output, which here do nothing."""
    writer = Writer()
    _assign_zeros(writer, tensors)
    given, made = (
        Tensor(*writer._tensor(name, (1,), TensorType.INT32, 0, None, None), (1,), kind=TensorType.INT32)
        for name in ("any", "done")
    )
    zero = writer.constant("zero", np.zeros(1, np.int32))
    writer.operator("ADD", [given, zero], made, 1, (1, 5, 0), "AddOptions")
    return writer, {"any": given}, {"done": made}


@lowers_float(Keep, takes_grids=True)
def kept(lowering, layer, inputs, output):
    """CONCATENATION of what is kept and what is new; or a STRIDED_SLICE of the last steps."""
    first = inputs[0]
    y = like(lowering.writer, output.name, (first.shape[0], *output.shape), first)
    if layer.count is None:
        return join(lowering, inputs, y, dataclasses.replace(output, params=params_of(first)), layer.axis)
    begin, end = [0] * len(first.shape), list(first.shape)
    begin[layer.axis] = end[layer.axis] - layer.count
    ints = lambda values: lowering.writer.constant(f"{output.name}/cut", np.asarray(values, np.int32))
    bounds = ints(begin), ints(end), ints([1] * len(begin))
    lowering.operator("STRIDED_SLICE", [first, *bounds], y, 2, (1, 14, 0), "StridedSliceOptions")
    return y
