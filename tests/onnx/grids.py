"""An `.onnx` and a `.tflite` of one model, tensor by tensor: scales, zero points, integers of weights."""

import numpy as np
import onnx

from keras_quant.graph import trace
from keras_quant.layers import (
    DynamicConv2D,
    DynamicDense,
    QuantConv2D,
    QuantLayer,
    QuantPad,
    QuantZeroPadding2D,
    QuantZeroPadding3D,
)
from keras_quant.layers.affine import QuantAffine
from keras_quant.layers.conv import QuantTransposedConvolution
from keras_quant.layers.weighted import QuantWeighted
from keras_quant.onnx import describe, places
from keras_quant.onnx import read_model as read_onnx
from keras_quant.tflite import read_model as read_tflite
from keras_quant.tflite.parity import _tensors_inside
from keras_quant.tflite.report import text
from keras_quant.tflite.writer import TensorType

# What lies between a value and the pair that gives its grid.
MOVES = ("Transpose", "Reshape", "Clip", "Slice", "Gather", "Identity", "Squeeze")
_KINDS = {TensorType.INT8: np.int8, TensorType.INT16: np.int16, TensorType.INT32: np.int32, TensorType.INT64: np.int64}


def same(qmodel, path, tflite):
    """Hold one file against the other; returns how many grids and how many constants were compared."""
    graph = trace(qmodel, keep_float=True)
    ours, theirs = activations_of_onnx(path), activations_of_tflite(qmodel, tflite)
    shared = ours.keys() & theirs.keys()
    # Zeros around an image join the convolution behind it.
    padding = {n.path for n in graph.nodes if isinstance(n.operation, (QuantPad, QuantZeroPadding2D, QuantZeroPadding3D))}
    assert theirs.keys() - ours.keys() <= padding, theirs.keys() - ours.keys()
    for name in shared:
        assert ours[name] == theirs[name], (name, ours[name], theirs[name])
    ours, theirs = constants_of_onnx(path), constants_of_tflite(tflite)
    layers = {n.path: n.operation for n in graph.nodes if isinstance(n.operation, QuantLayer)}
    weighted = [p for p, layer in layers.items() if isinstance(layer, (QuantWeighted, QuantAffine))]
    wanted = {f"{path}/{part}" for path in weighted for part in ("kernel", "bias")}
    wanted |= {name for name in ours if name.endswith("/constant")}
    dynamic = {n.path: n.operation for n in graph.nodes if isinstance(n.operation, (DynamicConv2D, DynamicDense))}
    wanted |= {f"{path}/kernel" for path in dynamic}
    layers |= dynamic
    assert wanted <= ours.keys() and wanted <= theirs.keys(), wanted - (ours.keys() & theirs.keys())
    for name in wanted:
        layer, part = name.rsplit("/", 1)
        same_constant(ours[name], theirs[name], layers[layer], part)
    return len(shared), len(wanted)


def activations_of_onnx(path):
    """For each layer path scale and zero point of its output, in terms of int8 or int16."""
    model = read_onnx(path)
    constants = {t.name: t for t in model.graph.initializer}
    number = lambda name: onnx.numpy_helper.to_array(constants[name])
    makers = {name: node for node in model.graph.node for name in node.output}
    readers = {}
    for node in model.graph.node:
        for name in node.input[:1]:
            readers.setdefault(name, []).append(node)

    def grid(value):
        node = makers.get(value)
        while node is not None and node.op_type in MOVES:
            node = makers.get(node.input[-1 if node.op_type == "Gather" and node.input[0] in constants else 0])
        if node is None or node.op_type != "QuantizeLinear":
            node = behind(value)
        zero = number(node.input[2])
        return np.float32(number(node.input[1])), int(zero) - (128 if zero.dtype == np.uint8 else 0)

    def behind(value):
        for node in readers.get(value, []):
            if node.op_type == "DequantizeLinear":
                return node
            found = behind(node.output[0]) if node.op_type in MOVES else None
            if found is not None:
                return found
        return None

    found = {}
    for layer, place in places.read(model)[0].items():
        found[layer] = grid(place.value)
        # What `verify` goes by.
        assert found[layer] == (np.float32(place.scale), place.zero_point), layer
    return found


def activations_of_tflite(qmodel, path):
    """Likewise."""
    _, model = read_tflite(path)
    tensors = {text(t.name): t.quantization for t in model.subgraphs[0].tensors}
    inside = {layer: tensors[name] for layer, name in _tensors_inside(qmodel, model).items()}
    return {
        n: (np.float32(q.scale[0]), int(q.zeroPoint[0])) for n, q in inside.items() if q is not None and q.scale is not None
    }


def constants_of_onnx(path):
    """By name scales, zero points and integers."""
    held = {t.name: onnx.numpy_helper.to_array(t) for t in read_onnx(path).graph.initializer}
    tensors = [t for t in describe(path).tensors if t.constant]
    found = {t.name: (np.float32(t.scale), t.zero_point, held[t.name].astype(int)) for t in tensors}
    # Dynamic layers have products of integers, without DequantizeLinear.
    scales = {name.removesuffix("/scale"): held[name].ravel() for name in held if name.endswith("/kernel/scale")}
    return found | {name: (scale, 0, held[name].astype(int)) for name, scale in scales.items() if name not in found}


def constants_of_tflite(path):
    """Likewise."""
    _, model = read_tflite(path)
    found = {}
    for tensor in model.subgraphs[0].tensors:
        q, data = tensor.quantization, model.buffers[tensor.buffer].data
        if data is not None and q is not None and q.scale is not None:
            found[text(tensor.name)] = np.float32(q.scale), np.asarray(q.zeroPoint), integers(tensor, bytes(data))
    return found


def integers(tensor, data):
    """The integers of a constant of a `.tflite`, packed ones, the first in the lowest bits, included."""
    bits = {TensorType.INT4: 4, TensorType.INT2: 2}.get(tensor.type)
    if bits is None:
        return np.frombuffer(data, _KINDS[tensor.type]).reshape(tensor.shape).astype(int)
    held = np.frombuffer(data, np.uint8)[:, None] >> np.arange(0, 8, bits) & (1 << bits) - 1
    held = held.ravel()[: np.prod(tensor.shape)].astype(int)
    return np.where(held >= 1 << bits - 1, held - (1 << bits), held).reshape(tensor.shape)


def same_constant(ours, theirs, layer, part):
    (scale, zero, values), (wanted_scale, wanted_zero, wanted) = ours, theirs
    assert zero == 0 and np.all(wanted_zero == 0), (layer.name, part)
    zeros = part == "kernel" and wanted.size > values.size
    if isinstance(layer, QuantConv2D) and layer.groups == 1 and (zeros or len(wanted) > layer.filters):
        wanted_scale, wanted = of_one_column(wanted_scale, wanted, layer, part)
    if isinstance(layer, QuantTransposedConvolution):
        wanted_scale, wanted = of_all_phases(wanted_scale, wanted, layer, part)
        if layer.rank == 3:
            wanted_scale, wanted = of_one_image(wanted_scale, wanted, layer, part)
        scale, values = of_one_phase(scale, values, wanted, layer, part)
    elif part == "kernel":
        # MatMulInteger takes the units last.
        values, wanted = alike(values.T if isinstance(layer, DynamicDense) else values, wanted)
    elif values.shape != wanted.shape:
        values = np.moveaxis(values, 1, -1)
    np.testing.assert_array_equal(scale, wanted_scale, layer.name)
    np.testing.assert_array_equal(values.reshape(wanted.shape), wanted, layer.name)


def of_one_column(scale, wanted, layer, part):
    """What a CONV_2D over blocks of columns holds for the first output of a block: the kernel as `(filters, h, w, c)`."""
    outputs, width = len(scale) // layer.filters, layer.kernel_size[1]
    assert np.array_equal(scale, np.tile(scale[: layer.filters], outputs))
    first = wanted[: layer.filters]
    if part == "bias":
        assert np.array_equal(wanted, np.tile(first, outputs))
        return scale[: layer.filters], first
    first = first.reshape(*first.shape[:2], -1, layer.kernel.shape[2])
    assert np.count_nonzero(first[:, :, :width]) * outputs == np.count_nonzero(wanted)
    return scale[: layer.filters], first[:, :, :width]


def of_all_phases(scale, wanted, layer, part):
    """The kernel `(filters, h, w, c)` of a transposed convolution of images, from that of the CONV_2D of all its phases."""
    strides = (1, *layer.strides)[-2:]
    filters = len(scale) // np.prod(strides)
    assert np.array_equal(scale, np.tile(scale[:filters], np.prod(strides)))
    if part == "bias":
        assert np.array_equal(wanted, np.tile(wanted[:filters], np.prod(strides)))
        return scale[:filters], wanted[:filters]
    return scale[:filters], joined(np.moveaxis(wanted, -1, 1), strides, filters)


def of_one_image(scale, wanted, layer, part):
    """What that of images holds once for each image between two strides in depth: the kernel as `(filters, *window, c)`."""
    stride = layer.strides[0]
    assert np.array_equal(scale, np.tile(scale[: layer.filters], stride))
    if part == "bias":
        return scale[: layer.filters], wanted[: layer.filters]
    taps = wanted.shape[-1] // layer.kernel.shape[-1]
    split = np.flip(wanted.reshape(stride, layer.filters, *wanted.shape[1:3], taps, -1), 4)
    whole = split.transpose(1, 4, 0, 2, 3, 5).reshape(layer.filters, taps * stride, *wanted.shape[1:3], -1)
    reach = (layer.kernel_size[0] - 1) * layer.dilation_rate[0] + 1
    assert np.count_nonzero(whole[:, reach:]) == 0
    return scale[: layer.filters], whole[:, :reach]


def of_one_phase(scale, values, wanted, layer, part):
    """What the Conv of a transposed convolution repeats for each place between two strides, once."""
    phases = len(scale) // layer.filters
    repeats = [scale, values] if part == "bias" else [scale]
    assert all(np.array_equal(array, np.tile(array[: layer.filters], phases)) for array in repeats)
    scale = scale[: layer.filters]
    if part == "bias":
        return scale, values[: layer.filters]
    kernel = joined(values, layer.strides, layer.filters)
    window = [size for size in wanted.shape[1:-1] if wanted.ndim == kernel.ndim or size > 1]
    cut = kernel[(slice(None), *map(slice, window))]
    assert np.count_nonzero(cut) == np.count_nonzero(kernel)
    return scale, cut


def joined(kernel, strides, filters):
    """The kernel `(filters, *window, channels)` of a transposed convolution, from that of the Conv of all its phases."""
    count, (channels, *taps) = len(strides), kernel.shape[1:]
    split = kernel.reshape(*strides, filters, channels, *taps)
    split = np.flip(split, tuple(range(count + 2, 2 * count + 2)))
    # Place s·t + r is tap t of phase r.
    order = [count, *(axis for i in range(count) for axis in (count + 2 + i, i)), count + 1]
    return split.transpose(order).reshape(filters, *(t * s for t, s in zip(taps, strides)), channels)


def alike(kernel, wanted):
    """A kernel `(filters, channels, *window)` and one of the `.tflite` in one layout."""
    if kernel.ndim < 3:
        return kernel, wanted
    kernel = np.moveaxis(kernel, 1, -1)
    if kernel.ndim == 5:
        # Depth is beside channels.
        kernel = np.moveaxis(kernel, 1, 3)
        if kernel.shape[-1] == 1 and wanted.shape[0] == 1:
            return np.moveaxis(kernel, 0, -1), wanted
        return kernel, wanted
    if kernel.shape[-1] == 1 and wanted.shape[0] == 1:
        return np.moveaxis(kernel, 0, -1), wanted
    if kernel.size < wanted.size:
        # A depthwise kernel as that of a convolution, zero but for each filter's own channel.
        assert np.count_nonzero(wanted, axis=-1).max() <= 1
        return kernel[..., 0], wanted.sum(-1)
    return kernel, wanted
