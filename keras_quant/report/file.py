"""The report of a `.tflite` file: what the file alone says."""

import math

import numpy as np

from keras_quant.report.histogram import count
from keras_quant.report.layer import LayerReport
from keras_quant.report.model import ModelReport
from keras_quant.tflite import describe, read_model
from keras_quant.tflite.flatbuffer import one_subgraph
from keras_quant.tflite.report import tensors_of
from keras_quant.tflite.subgraphs import located_operators

# Smallest and largest integer of the types that hold quantized values.
_LIMITS = {"int2": (-2, 1), "int4": (-8, 7), "int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}
NOTE = "From the file alone: errors and histograms of activations are measured on the Keras model."


def report_file(path):
    """`keras_quant.report` of a `.tflite`: a line for each operator, called by the name of its output.

    Args:
        path: of the file.

    Returns:
        `ModelReport`.

    Raises:
        ModelFileError: if the file is missing, damaged, or cannot be loaded.
    """
    content, model = read_model(path)
    exported = describe(path, content, model)
    model = first_signature(model)
    inputs, seen = model.subgraphs[0].inputs, set()
    batch = exported.tensors[inputs[0]].shape[0] if len(inputs) else 1
    layers = [
        _operator(index, info, one, tensors_of(model, one.place), model, batch, seen)
        for index, (info, one) in enumerate(zip(exported.operators, located_operators(model)))
    ]
    notes = (NOTE, *([f"Of the first of the signatures {', '.join(exported.signatures)}."] if exported.signatures else []))
    weights = sum(layer.parameters for layer in layers)
    return ModelReport(str(path), tuple(layers), exported, 4 * weights, notes=notes)


def first_signature(model):
    """The parsed model of what a file runs where no signature is named; of this its report speaks."""
    return one_subgraph(model, model.signatureDefs[0].subgraphIndex if model.signatureDefs else 0)


def _operator(index, info, one, tensors, model, batch, seen):
    read = [int(i) for i in one.operator.inputs if i >= 0]
    made = next((tensors[int(i)] for i in (*one.operator.outputs, *read)), None)
    held = [i for i in read if tensors[i].constant and (tensors[i].scale or tensors[i].dtype.startswith("float"))]
    buffer_of = lambda i: model.subgraphs[one.place].tensors[i].buffer
    new = [i for i in held if buffer_of(i) not in seen]
    seen.update(map(buffer_of, new))
    inputs = [tensors[i] for i in read if not tensors[i].constant]
    return LayerReport(
        index=index,
        path=info.layer,
        kind=info.name,
        policy="" if made is None else made.dtype,
        input_shapes=tuple(tensor.shape for tensor in inputs),
        output_shape=() if made is None else made.shape,
        parameters=sum(math.prod(tensors[i].shape) for i in new),
        macs=info.macs // max(batch, 1),
        file_macs=info.macs // max(batch, 1),
        bytes=info.bytes,
        runs_on="XNNPACK" if info.on_xnnpack else "built-in kernel",
        reason="" if info.on_xnnpack else f"{info.reason}. {info.remedy}".strip(),
        operators=(info.name,),
        weights=_weights(held, tensors, model, one.place),
        **_grid(made),
    )


def _grid(tensor):
    if tensor is None or not tensor.scale or tensor.dtype not in _LIMITS:
        return {}
    scale, zero_point = tensor.scale[0], tensor.zero_point
    low, high = ((limit - zero_point) * scale for limit in _LIMITS[tensor.dtype])
    return {"low": low, "high": high, "scale": scale, "zero_point": zero_point}


def _weights(held, tensors, model, place):
    """`Histogram` of the largest constant of integers."""
    held = [i for i in held if tensors[i].dtype in ("int2", "int4", "int8")]
    if not held:
        return None
    index = max(held, key=lambda i: math.prod(tensors[i].shape))
    data = np.asarray(model.buffers[model.subgraphs[place].tensors[index].buffer].data, np.uint8)
    return count(_unpacked(data, tensors[index]), *_LIMITS[tensors[index].dtype])


def _unpacked(data, tensor):
    """The integers of a constant, of which a byte holds one, two or four, the first lowest."""
    bits = int(tensor.dtype.removeprefix("int"))
    digits = (data[:, None] >> np.arange(0, 8, bits, dtype=np.uint8)) & (2**bits - 1)
    values = digits.reshape(-1)[: math.prod(tensor.shape)].astype(np.int64)
    return np.where(values >= 2 ** (bits - 1), values - 2**bits, values)
