"""Rules for convolutions that quantize activations as they run: ConvInteger."""

import math

import numpy as np
from keras import ops

from keras_quant.integer.axis import axes
from keras_quant.integer.phases import Phases
from keras_quant.layers import (
    DynamicConv1D,
    DynamicConv1DTranspose,
    DynamicConv2D,
    DynamicConv2DTranspose,
    DynamicConv3D,
    DynamicConv3DTranspose,
)
from keras_quant.onnx.conv import in_order, pads_of
from keras_quant.onnx.conv_transpose import by_phase, interleaved, skipped_of, with_holes
from keras_quant.onnx.dynamic import (
    activated,
    held_kernel,
    kernel_integers,
    on_its_grid,
    on_own_grids,
    product_of_integers,
    scaled,
)
from keras_quant.onnx.lower import lowers_float
from keras_quant.onnx.lowering import Made
from keras_quant.tflite.volumes import image_kernel, phase_kernel


@lowers_float(DynamicConv1D, DynamicConv2D)
def conv(lowering, layer, inputs, output):
    (x,) = inputs
    kernel, scale = kernel_integers(layer)
    lead = getattr(layer, "lead", 0)
    pads = [(before + lead, after) for before, after in pads_of(layer, x.shape, layer.kernel_size)]
    geometry, rows = _geometry(layer, layer.rank), layer.has_grids_of_rows(x.shape[-1])
    y = _convolved(lowering, layer, lowering.real(x, True), kernel, scale, layer.bias, pads, geometry, rows)
    return Made(activated(lowering, layer, y, output.shape, first=True), True)


@lowers_float(DynamicConv3D)
def conv_3d(lowering, layer, inputs, output):
    """By images, as in the `.tflite`: each has its own grid there."""
    (x,) = inputs
    kernel, scale = kernel_integers(layer)
    depth, *image = axes(layer, x.shape[:-1], output.shape[:-1])
    real = _images(lowering, x, depth, layer.groups)
    pads = [(axis.before, max(axis.missing, 0)) for axis in image]
    geometry, rows = _geometry(layer, 2), layer.has_grids_of_rows(depth.taps * x.shape[-1])
    y = _convolved(lowering, layer, real, image_kernel(kernel), scale, layer.bias, pads, geometry, rows, whole=False)
    y = lowering.node("Transpose", [y], perm=[0, 2, 3, 1])
    return Made(activated(lowering, layer, lowering.reshape(y, (-1, *output.shape)), output.shape))


def _images(lowering, x, depth, groups=1):
    """The images of a volume, channels first, `(n·d', groups·kd·c/groups, h, w)`, each beside its neighbours in depth."""
    real, (_, height, width, channels) = lowering.real(x, False), x.shape
    if (depth.taps, depth.stride) == (1, 1):
        return lowering.node("Transpose", [lowering.reshape(real, (-1, height, width, channels))], perm=[0, 3, 1, 2])
    pads = depth.before, max(depth.missing, 0)
    if any(pads):
        real = lowering.node("Pad", [real, lowering.ints("deep", [0, pads[0], 0, 0, 0, 0, pads[1], 0, 0, 0])])
    real = lowering.reshape(real, (-1, sum(pads) + depth.size, height, width, groups, channels // groups))
    parts = [
        lowering.node("Slice", [real, *(lowering.ints(*pair) for pair in _places(depth, tap * depth.dilation))])
        for tap in range(depth.taps)
    ]
    real = lowering.node("Concat", parts, axis=-1) if len(parts) > 1 else parts[0]
    real = lowering.reshape(real, (-1, height, width, depth.taps * channels))
    return lowering.node("Transpose", [real], perm=[0, 3, 1, 2])


def _places(depth, start):
    end = start + (depth.outputs - 1) * depth.stride + 1
    return ("starts", [start]), ("ends", [end]), ("axes", [1]), ("steps", [depth.stride])


def _geometry(layer, count):
    """Attributes of a ConvInteger over the last `count` axes of a layer's window."""
    last = lambda values: list(values)[-count:]
    return {"strides": last(layer.strides), "dilations": last(layer.dilation_rate), "group": layer.groups}


def _convolved(lowering, layer, real, kernel, scale, bias, pads, geometry, rows=False, whole=None):
    """ConvInteger of real numbers, on their own grids, and back to real numbers.

    Args:
        lowering: `Lowering`.
        layer: the one that it is done for.
        real: name of real numbers, channels first.
        kernel: integers `(*window, c / groups, filters)`.
        scale, bias: by filters; the bias may be `None`.
        pads: zeros before and after along each axis of the window.
        geometry: attributes of the node.
        rows: whether the grids are of rows of channels.
        whole: whether one grid may be for all; by default for a file of one sample.
    """
    count = kernel.ndim - 2
    filters = held_kernel(lowering, layer, kernel.transpose(-1, -2, *range(count)))
    geometry = {"kernel_shape": kernel.shape[:count], **geometry}
    sums = None
    if (lowering.builder.batch_size == 1 if whole is None else whole) and not rows:
        q, step, zero = on_its_grid(lowering, real)
        geometry["pads"] = in_order(pads)
    else:
        border = [0, 0, *(before for before, _ in pads), 0, 0, *(after for _, after in pads)]
        real = lowering.node("Pad", [real, lowering.ints("pads", border)]) if any(border) else real
        q, step, zero = on_own_grids(lowering, real, [1] if rows else list(range(1, count + 2)))
        sums = kernel.sum(tuple(range(count + 1)), dtype=np.int32).reshape(-1, *[1] * count)
    y = product_of_integers(lowering, "ConvInteger", [q, filters], zero, sums, **geometry)
    return scaled(lowering, y, step, scale.reshape(-1, *[1] * count), bias)


@lowers_float(DynamicConv1DTranspose, DynamicConv2DTranspose)
def conv_transpose(lowering, layer, inputs, output):
    (x,) = inputs
    kernel, scale = kernel_integers(layer)
    y = _transposed(lowering, layer, lowering.real(x, True), x.shape, output.shape, kernel, scale, layer.bias)
    return Made(activated(lowering, layer, y, output.shape, first=True), True)


@lowers_float(DynamicConv3DTranspose)
def conv_transpose_3d(lowering, layer, inputs, output):
    """By images, as in the `.tflite`."""
    (x,) = inputs
    kernel, scale = kernel_integers(layer)
    phases = Phases.of(layer, -3, x.shape[0], output.shape[0])
    depth, height, width, filters = output.shape
    real, scale = _images(lowering, x, phases.axis), np.tile(scale, phases.stride)
    bias = None if layer.bias is None else np.tile(ops.convert_to_numpy(layer.bias), phases.stride)
    made = height, width, phases.stride * filters
    shape = *x.shape[1:3], phases.axis.taps * x.shape[3]
    y = _transposed(lowering, layer, real, shape, made, phase_kernel(phases, kernel), scale, bias, whole=False)
    y = lowering.reshape(y, (-1, phases.axis.outputs, phases.stride, filters, height, width))
    y = lowering.node("Transpose", [y], perm=[0, 1, 2, 4, 5, 3])
    y = lowering.reshape(y, (-1, phases.axis.outputs * phases.stride, height, width, filters))
    ends = ("starts", [phases.skipped]), ("ends", [phases.skipped + depth]), ("axes", [1])
    y = lowering.node("Slice", [y, *(lowering.ints(*pair) for pair in ends)])
    return Made(activated(lowering, layer, y, output.shape))


def _transposed(lowering, layer, real, shape, made, kernel, scale, bias, whole=None):
    """Real numbers `(n, c, *shape)` by a transposed kernel, `(n, filters, *made)`: as on int8, a Conv for each phase.

    Args:
        shape, made: of a sample of the inputs and of the outputs, channels last.
        kernel, scale, bias: integers `(*window, filters, c)` and the others by filters.
        whole: as of `_convolved`.
    """
    count = len(shape) - 1
    strides, dilation = (tuple(values)[-count:] for values in (layer.strides, layer.dilation_rate))
    kernel = with_holes(dilation, kernel)
    skipped = skipped_of(layer.padding, strides, shape, made, kernel.shape)
    rows = layer.has_grids_of_rows(shape[-1])
    if rows:
        # A tap alone has the grid of its row: what it lacks at the end is written out.
        ends = [max(math.ceil((c + size) / s) - old, 0) for c, size, s, old in zip(skipped, made, strides, shape)]
        real = lowering.node("Pad", [real, lowering.ints("ends", [0] * (count + 4) + ends)]) if any(ends) else real
        shape = *(old + end for old, end in zip(shape, ends)), shape[-1]
    kernel, taps = by_phase(kernel, strides, shape, made, skipped)
    phases = int(np.prod(strides))
    scale, bias = np.tile(scale, phases), None if bias is None else np.tile(bias, phases)
    kernel, pads = kernel.transpose(*range(2, count + 2), 1, 0), [(size - 1, size - 1) for size in taps]
    y = _convolved(lowering, layer, real, kernel, scale, bias, pads, {}, rows, whole)
    sizes = [old + size - 1 for old, size in zip(shape, taps)]
    y = interleaved(lowering, y, strides, made[-1], sizes) if phases > 1 else y
    stops = [cut + wanted for cut, wanted in zip(skipped, made)]
    limits = [lowering.ints(*pair) for pair in (("begins", skipped), ("stops", stops), ("along", range(2, 2 + count)))]
    return lowering.node("Slice", [y, *limits])
