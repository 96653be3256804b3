"""What moves, cuts, joins and repeats values."""

import math

import numpy as np
from keras import ops
from keras.src.ops import numpy as knp

from keras_quant.backend.graph_functions.operator import Plan, made_by, reads, recognizes


@reads("Reshape")
def _reshape(operator, x, shape):
    """Of a tensor that was reshaped before, straight from what that was."""
    if tuple(x.shape) == operator.output_shape:
        return x
    before = made_by(x, knp.Reshape)
    source = x if before is None else before[0]
    if tuple(source.shape) == operator.output_shape:
        return source
    return ops.reshape(source, [-1 if size is None else size for size in operator.output_shape])


@reads("ExpandDims")
def _expand_dims(operator, x, axis):
    axis = operator.integer(axis, "an axis")
    return ops.expand_dims(x, axis % (len(x.shape) + 1))


@reads("Squeeze")
def _squeeze(operator, x):
    rank = len(x.shape)
    axes = sorted(axis % rank for axis in operator.attribute("squeeze_dims"))
    axes = axes or [axis for axis, size in enumerate(x.shape) if size == 1]
    before = made_by(x, knp.ExpandDims)
    if before is not None and _axes(before[1].axis, rank) == axes:
        return before[0]
    return ops.squeeze(x, tuple(axes)) if axes else x


def _axes(axis, rank):
    return sorted(a % rank for a in (axis if isinstance(axis, (list, tuple)) else [axis]))


@reads("Transpose")
def _transpose(operator, x, order):
    order = operator.integers(order, "an order of axes")
    return x if order == sorted(order) else ops.transpose(x, order)


@reads("ConcatV2")
def _concatenate(operator, *operands):
    *tensors, axis = operands
    return ops.concatenate(tensors, operator.integer(axis, "an axis"))


@reads("Concat")
def _concatenate_first_form(operator, axis, *tensors):
    return _concatenate(operator, *tensors, axis)


@reads("Pack")
def _stack(operator, *tensors):
    return ops.stack(tensors, operator.attribute("axis"))


@reads("Unpack")
def _unstack(operator, x):
    axis = operator.attribute("axis") % len(x.shape)
    return [x[(*[slice(None)] * axis, index)] for index in range(operator.attribute("num"))]


@reads("Split")
def _split(operator, axis, x):
    axis = operator.integer(axis, "an axis") % len(x.shape)
    return _pieces(x, [x.shape[axis] // operator.attribute("num_split")] * operator.attribute("num_split"), axis)


@reads("SplitV")
def _split_by_sizes(operator, x, sizes, axis):
    axis = operator.integer(axis, "an axis") % len(x.shape)
    sizes = operator.integers(sizes, "sizes")
    missing = x.shape[axis] - sum(size for size in sizes if size >= 0)
    return _pieces(x, [missing if size < 0 else size for size in sizes], axis)


def _pieces(x, sizes, axis):
    ends = np.cumsum(sizes).tolist()
    if len(sizes) == 1:
        return [x]
    return [x[(*[slice(None)] * axis, slice(end - size, end))] for size, end in zip(sizes, ends)]


@reads("Slice")
def _slice(operator, x, begin, size):
    begin, size = operator.integers(begin, "a start"), operator.integers(size, "a size")
    ends = [None if n < 0 or n == whole else b + n for b, n, whole in zip(begin, size, x.shape)]
    whole_batch = operator.output_shape[0] is None and x.shape[0] is None
    key = [slice(b or None, end) for b, end in zip(begin, ends)]
    return x[(slice(None) if whole_batch else key[0], *key[1:])]


@reads("StridedSlice")
def _strided_slice(operator, x, begin, end, strides):
    """What `x[1:-1, ..., None, 0]` does: masks say what an entry of the key is."""
    begin, end, strides = (operator.integers(v, "an index") for v in (begin, end, strides))
    has = lambda mask, place: operator.attribute(mask) >> place & 1
    key = []
    for place, (first, last, step) in enumerate(zip(begin, end, strides)):
        if has("ellipsis_mask", place):
            key.append(Ellipsis)
        elif has("new_axis_mask", place):
            key.append(None)
        elif has("shrink_axis_mask", place):
            key.append(first)
        else:
            first = None if has("begin_mask", place) else first
            last = None if has("end_mask", place) else last
            key.append(slice(first or (None if step > 0 else first), last, None if step == 1 else step))
    return x if all(k in (Ellipsis, slice(None)) for k in key) else x[tuple(key)]


@reads("GatherV2")
def _gather(operator, x, indices, axis):
    axis, shared = operator.integer(axis, "an axis"), operator.attribute("batch_dims")
    if not shared:
        return ops.take(x, indices, axis)
    shape = operator.input_shape()
    if shared != axis % len(shape):
        operator.refuse("picks along another axis than the first behind `batch_dims`. Give them the same number.")
    return _gather_of_each(x, shape, operator.constant(indices, "indices with `batch_dims`")[0], shared)


def _gather_of_each(x, shape, indices, axis):
    """What lies before the axis is joined with it, and its places counted on; `indices` are those of one sample."""
    before, size, behind = shape[1:axis], shape[axis], shape[axis + 1 :]
    first = np.arange(math.prod(before)).reshape(*before, *[1] * (indices.ndim - len(before))) * size
    joined = ops.reshape(x, (-1, math.prod(before) * size, *behind))
    taken = ops.take(joined, (indices + first).reshape(-1), 1)
    return ops.reshape(taken, (-1, *indices.shape, *behind))


@reads("Gather", "ResourceGather")
def _gather_rows(operator, table, indices):
    return ops.take(table, indices, 0)


@reads("ReverseV2")
def _flip(operator, x, axes):
    axes = operator.integers(axes, "axes")
    for axis in axes:
        x = ops.flip(x, axis % len(x.shape))
    return x


@reads("Roll")
def _roll(operator, x, shift, axis):
    shifts, axes = operator.integers(shift, "a shift"), operator.integers(axis, "an axis")
    return ops.roll(x, tuple(shifts), tuple(axes)) if len(axes) > 1 else ops.roll(x, shifts[0], axes[0])


@reads("Pad", "PadV2")
def _pad(operator, x, widths, value=None):
    value = 0 if value is None else operator.constant(value, "a value").item()
    return ops.pad(x, _widths(operator, widths), "constant", **({"constant_values": value} if value else {}))


@reads("MirrorPad")
def _mirror(operator, x, widths):
    return ops.pad(x, _widths(operator, widths), operator.attribute("mode").lower())


def _widths(operator, widths):
    return [tuple(pair) for pair in operator.constant(widths, "widths").tolist()]


@reads("Tile")
def _tile(operator, x, repeats):
    return ops.tile(x, operator.integers(repeats, "counts"))


@reads("BroadcastTo")
def _broadcast_to(operator, x, shape):
    return x if tuple(x.shape) == operator.output_shape else ops.broadcast_to(x, operator.output_shape)


@reads("DepthToSpace")
def _depth_to_space(operator, x):
    size, (_, height, width, channels) = operator.attribute("block_size"), _images(operator, x).shape
    if hasattr(ops, "depth_to_space"):
        return ops.depth_to_space(x, size, data_format="channels_last")
    blocks = ops.reshape(x, (-1, height, width, size, size, channels // size**2))
    moved = ops.transpose(blocks, (0, 1, 3, 2, 4, 5))
    return ops.reshape(moved, (-1, height * size, width * size, channels // size**2))


@reads("SpaceToDepth")
def _space_to_depth(operator, x):
    size, (_, height, width, channels) = operator.attribute("block_size"), _images(operator, x).shape
    if hasattr(ops, "space_to_depth"):
        return ops.space_to_depth(x, size, data_format="channels_last")
    blocks = ops.reshape(x, (-1, height // size, size, width // size, size, channels))
    moved = ops.transpose(blocks, (0, 1, 3, 2, 4, 5))
    return ops.reshape(moved, (-1, height // size, width // size, size**2 * channels))


@reads("ExtractImagePatches")
def _extract_patches(operator, x):
    size, strides, rates = (operator.attribute(name)[1:3] for name in ("ksizes", "strides", "rates"))
    return ops.image.extract_patches(
        x,
        tuple(size),
        strides=tuple(strides),
        dilation_rate=tuple(rates) if tuple(rates) != (1, 1) else 1,
        padding=operator.attribute("padding").lower(),
        data_format="channels_last",
    )


@reads("ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic")
def _resize(operator, x, size):
    interpolation = {"ResizeBilinear": "bilinear", "ResizeNearestNeighbor": "nearest", "ResizeBicubic": "bicubic"}
    size = tuple(operator.integers(size, "a size"))
    if operator.attribute("align_corners") and operator.type == "ResizeBilinear":
        before = operator.input_shape()[1:3]
        rows, columns = (_between_corners(*sizes) for sizes in zip(before, size))
        return ops.einsum("bhvc,vw->bhwc", ops.einsum("buvc,uh->bhvc", x, rows), columns)
    if operator.attribute("align_corners") or not operator.attribute("half_pixel_centers"):
        operator.refuse("takes other pixels than `keras.ops.image.resize` does. Use `tf.image.resize`.")
    return ops.image.resize(x, size, interpolation=interpolation[operator.type], data_format="channels_last")


def _between_corners(before, after):
    """The matrix (before, after) of a linear interpolation in which first and last pixels stay where they are."""
    places = np.arange(after) * ((before - 1) / max(after - 1, 1))
    return np.maximum(1 - np.abs(np.arange(before)[:, None] - places), 0).astype("float32")


def _images(operator, x):
    if operator.attribute("data_format") != "NHWC":
        operator.refuse("works on channels that come first. Let them come last, `data_format='NHWC'`.")
    return x


@recognizes("Reshape")
def _tensordot(operation):
    """The product of each row, which `tf.tensordot` and Keras make of two reshapes around a matrix product."""
    product = operation.inputs[0].op
    if product.type != "MatMul" or product.get_attr("transpose_a") or product.get_attr("transpose_b"):
        return None
    before, kernel = product.inputs[0].op, product.inputs[1]
    if before.type != "Reshape" or kernel.shape.rank != 2:
        return None
    source, made = before.inputs[0], operation.outputs[0]
    rows_stay = source.shape.rank and source.shape[:-1] == made.shape[:-1] and source.shape[-1] == kernel.shape[0]
    return Plan([source, kernel], lambda operator, x, kernel: ops.matmul(x, kernel)) if rows_stay else None
