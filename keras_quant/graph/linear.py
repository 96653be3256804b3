"""Functions of `keras.ops` that are a product with constants: sums along an axis, masks, resizing, blurring."""

import keras
import numpy as np
from keras import ops
from keras.src.ops import image, math, nn, numpy

from keras_quant.graph.expand import expands
from keras_quant.graph.expressions import expression_of
from keras_quant.graph.graph import Value
from keras_quant.graph.kinds import is_real
from keras_quant.graph.steps import Steps, axes_without_batch

# What the kernels resize by; any other interpolation is a product with constant matrices.
_OF_KERNELS = ("bilinear", "nearest")


@expands(numpy, "Cumsum")
def _cumulative_sum(node):
    x, steps = node.inputs[0], Steps(node)
    axes = axes_without_batch(node.operation.axis, len(x.shape))
    if axes is None or not is_real(x):
        return [node]
    size = x.shape[axes[0]]
    return steps.end(steps.along(x, axes[0], np.triu(np.ones((size, size), "float32"))))


@expands(numpy, "Trapezoid")
def _trapezoid(node):
    operation, y, steps = node.operation, node.inputs[0], Steps(node)
    axis = operation.axis % len(y.shape)
    if axis == 0:
        return [node]
    size = y.shape[axis]
    places = np.arange(size) * float(operation.dx) if operation.x is None else np.asarray(operation.x, "float64")
    if places.shape != (size,):
        return [node]
    widths = np.diff(places)
    weights = (np.append(widths, 0) + np.append(0, widths)) / 2
    return steps.end(steps.along(y, axis, weights.reshape(-1, 1).astype("float32")))


@expands(numpy, "Tril", "Triu")
def _triangle(node):
    x, steps = node.inputs[0], Steps(node)
    if len(x.shape) < 3 or not is_real(x):
        return [node]
    cut = np.tril if isinstance(node.operation, numpy.Tril) else np.triu
    mask = cut(np.ones(x.shape[-2:], "float32"), node.operation.k)
    return steps.end(steps(numpy.Multiply(), x, mask))


@expands(numpy, "Inner")
def _inner(node):
    """With a constant: its rows are the columns of a matrix product."""
    x, other = node.args
    if not isinstance(x, Value) or isinstance(other, Value) or len(other.shape) not in (1, 2):
        return [node]
    other, steps = expression_of(other), Steps(node)
    matrix = ops.transpose(other) if len(other.shape) == 2 else ops.expand_dims(other, -1)
    return steps.end(steps(numpy.Matmul(), x, matrix))


@expands(image, "RGBToGrayscale")
def _grayscale(node):
    """The weights of the colours, as Keras has them."""
    operation, x, steps = node.operation, node.inputs[0], Steps(node)
    axis = len(x.shape) - 1 if operation.data_format == "channels_last" else len(x.shape) - 3
    weights = ops.image.rgb_to_grayscale(np.eye(3, dtype="float32").reshape(1, 3, 1, 3), data_format="channels_last")
    return steps.end(steps.along(x, axis, ops.convert_to_numpy(weights).reshape(3, 1)))


@expands(image, "GaussianBlur")
def _gaussian_blur(node):
    return _filtered(node, [_response(node.operation, 2 * max(node.operation.kernel_size) + 1)])


@expands(image, "SobelEdges")
def _sobel_edges(node):
    """Two filters behind a border that mirrors the image."""
    x, steps = node.inputs[0], Steps(node)
    if node.operation.data_format != "channels_last":
        return [node]
    responses = _response(node.operation, 7)
    padded = steps(numpy.Pad([(0, 0), (1, 1), (1, 1), (0, 0)], mode="reflect"), x)
    edges = []
    for index in range(2):
        kernel = np.repeat(responses[2:5, 2:5, index][::-1, ::-1, None, None], x.shape[-1], 2)
        edges.append(steps(nn.DepthwiseConv(1, "valid", "channels_last", 1), padded, kernel))
    edges = [steps(numpy.ExpandDims(-1), edge) for edge in edges]
    return steps.end(steps(numpy.Concatenate(-1), edges))


def _response(operation, size):
    """What a filter makes of an image with a single bright pixel, `(size, size)`, or with the filter's results last."""
    point = np.zeros((1, size, size, 1), "float32")
    point[0, size // 2, size // 2] = 1.0
    like = type(operation)(**{**_settings(operation), "data_format": "channels_last"})
    return ops.convert_to_numpy(like(point))[0, :, :, 0]


def _settings(operation):
    names = ("kernel_size", "sigma")
    return {name: getattr(operation, name) for name in names if hasattr(operation, name)}


def _filtered(node, responses):
    x, steps = node.inputs[0], Steps(node)
    if node.operation.data_format != "channels_last" or len(x.shape) != 4:
        return [node]
    rows, columns = node.operation.kernel_size
    (response,) = responses
    middle = response.shape[0] // 2
    # Turned round, the response to a point is the kernel; an even one lies to the left of the middle.
    begin = [middle - (size - 1 - (size - 1) // 2) for size in (rows, columns)]
    kernel = response[begin[0] : begin[0] + rows, begin[1] : begin[1] + columns][::-1, ::-1]
    kernel = np.repeat(np.ascontiguousarray(kernel)[:, :, None, None], x.shape[-1], 2)
    return steps.end(steps(nn.DepthwiseConv(1, "same", "channels_last", 1), x, kernel))


@expands(image, "Resize")
@expands(keras.layers, "Resizing")
def _resize(node):
    """By interpolations that no kernel has, and behind a filter against aliasing: a matrix for the rows, one for columns."""
    operation, x = node.operation, node.inputs[0]
    plain = not (operation.crop_to_aspect_ratio or operation.pad_to_aspect_ratio)
    if len(x.shape) != 4 or operation.data_format != "channels_last" or not plain:
        return [node]
    smaller = any(after < before for before, after in zip(x.shape[1:3], node.output.shape[1:3]))
    antialias = getattr(operation, "antialias", False)
    filtered = antialias and smaller and operation.interpolation != "nearest"
    if operation.interpolation in _OF_KERNELS and not filtered:
        return [node]
    return _by_matrices(node, operation.interpolation, antialias)


@expands(keras.layers, "UpSampling2D")
def _upsampling(node):
    operation = node.operation
    if operation.interpolation in _OF_KERNELS or operation.data_format != "channels_last":
        return [node]
    return _by_matrices(node, operation.interpolation, False)


def _by_matrices(node, interpolation, antialias):
    x, steps = node.inputs[0], Steps(node)
    for axis in (1, 2):
        before, after = x.shape[axis], node.output.shape[axis]
        if before != after:
            columns = np.eye(before, dtype="float32")[None, :, None, :]
            resized = ops.image.resize(columns, (after, 1), interpolation=interpolation, antialias=antialias)
            x = steps.along(x, axis, ops.convert_to_numpy(resized)[0, :, 0].T)
    return steps.end(x)


@expands(nn, "AdaptiveAveragePool")
@expands(keras.layers, "AdaptiveAveragePooling1D", "AdaptiveAveragePooling2D", "AdaptiveAveragePooling3D")
def _adaptive_average(node):
    """Where the output divides the input, pooling with one window; else a product with a constant matrix for each axis."""
    return _adaptive(node, ("AveragePooling1D", "AveragePooling2D", "AveragePooling3D"), _mean_of_windows)


def _mean_of_windows(steps, x, axis, windows):
    matrix = np.zeros((x.shape[axis], len(windows)), "float32")
    for place, (begin, end) in enumerate(windows):
        matrix[begin:end, place] = 1.0 / (end - begin)
    return steps.along(x, axis, matrix)


@expands(nn, "AdaptiveMaxPool")
@expands(keras.layers, "AdaptiveMaxPooling1D", "AdaptiveMaxPooling2D", "AdaptiveMaxPooling3D")
def _adaptive_maximum(node):
    """Where the output divides the input, pooling with one window; else the maximum of each window, side by side."""
    return _adaptive(node, ("MaxPooling1D", "MaxPooling2D", "MaxPooling3D"), _largest_of_windows)


def _largest_of_windows(steps, x, axis, windows):
    largest = [steps(numpy.Max(axis, keepdims=True), steps.cut(x, axis, *window)) for window in windows]
    return steps(numpy.Concatenate(axis), largest) if len(largest) > 1 else largest[0]


def _adaptive(node, classes, reduce):
    """Channels last in between; `reduce` takes the windows along one axis."""
    x, steps, rank = node.inputs[0], Steps(node), len(node.inputs[0].shape)
    if len(node.output.shape) != rank:
        return [node]  # Keras's operation knows no shape of what has its channels last
    first = (node.operation.data_format or keras.config.image_data_format()) == "channels_first"
    wanted = node.output.shape[2:] if first else node.output.shape[1:-1]
    x = steps(numpy.Transpose([0, *range(2, rank), 1]), x) if first else x
    before = x.shape[1:-1]
    if not any(size % after for size, after in zip(before, wanted)):
        window = [size // after for size, after in zip(before, wanted)]
        layer = getattr(keras.layers, classes[rank - 3])(window[0] if rank == 3 else window, data_format="channels_last")
        x = steps(layer, x)
    else:
        for axis, size in enumerate(wanted, 1):
            x = reduce(steps, x, axis, _windows(x.shape[axis], size))
    return steps.end(steps(numpy.Transpose([0, rank - 1, *range(1, rank - 1)]), x) if first else x)


def _windows(before, after):
    """Begin and end of each window, as adaptive pooling cuts them."""
    return [(i * before // after, -(-(i + 1) * before // after)) for i in range(after)]


@expands(math, "ExtractSequences")
def _sequences(node):
    """Frames side by side: each row of indices is one."""
    x, operation, steps = node.inputs[0], node.operation, Steps(node)
    if len(x.shape) < 2:
        return [node]
    count = node.output.shape[-2]
    places = np.arange(count)[:, None] * operation.sequence_stride + np.arange(operation.sequence_length)
    return steps.end(steps(numpy.Take(len(x.shape) - 1), x, places))
