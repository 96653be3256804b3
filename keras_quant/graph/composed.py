"""Functions of `keras.ops` that amount to sums, products and functions of one value."""

import numpy as np
from keras.src.ops import math, nn, numpy

from keras_quant.graph.expand import expands
from keras_quant.graph.expressions import numbers_of
from keras_quant.graph.graph import Value
from keras_quant.graph.steps import Steps, axes_without_batch
from keras_quant.layers.table import ReciprocalNoNan

# So many factors `prod` and `cumprod` multiply one after the other.
MOST_FACTORS = 64
# On the device no number is NaN: these are what they are without.
_SAME = {
    "Fabs": "Absolute",
    "Fmax": "Maximum",
    "Fmin": "Minimum",
    "Nansum": "Sum",
    "Nanmean": "Mean",
    "Nanmax": "Max",
    "Nanmin": "Min",
    "Nanprod": "Prod",
    "Nanvar": "Var",
    "Nanstd": "Std",
    "Nancumsum": "Cumsum",
    "Nancumprod": "Cumprod",
}


@expands(numpy, *_SAME)
def _same(node):
    operation = getattr(numpy, _SAME[type(node.operation).__name__])
    names = [name for name in ("axis", "keepdims") if hasattr(node.operation, name)]
    made = operation(**{name: getattr(node.operation, name) for name in names})
    steps = Steps(node)
    return steps.end(steps(made, *node.args))


@expands(numpy, "NanToNum", "Real", "Conj", "Conjugate")
def _unchanged(node):
    return Steps(node).end(node.inputs[0])


@expands(math, "Logsumexp")
def _log_sum_exp(node):
    """Less the largest value, which comes back afterwards."""
    x, operation, steps = node.inputs[0], node.operation, Steps(node)
    axes = axes_without_batch(operation.axis, len(x.shape))
    if axes is None:
        return [node]
    largest = steps(numpy.Max(axes, keepdims=True), x)
    powers = steps(numpy.Exp(), steps(numpy.Subtract(), x, largest))
    total = steps(numpy.Log(), steps(numpy.Sum(axes, keepdims=True), powers))
    return steps.end(steps(numpy.Add(), largest, total))


@expands(numpy, "Logaddexp")
def _log_add_exp(node):
    """The larger one and `softplus(-|a - b|)`."""
    if len(node.inputs) < 2:
        return [node]
    steps = Steps(node)
    distance = steps(numpy.Absolute(), steps(numpy.Subtract(), *node.inputs))
    rest = steps(nn.Softplus(), steps(numpy.Negative(), distance))
    return steps.end(steps(numpy.Add(), steps(numpy.Maximum(), *node.inputs), rest))


@expands(numpy, "Logaddexp2")
def _log_add_exp2(node):
    if len(node.inputs) < 2:
        return [node]
    steps, two = Steps(node), float(np.log(2.0))
    a, b = (steps(numpy.Multiply(), x, two) for x in node.inputs)
    return steps.end(steps(numpy.Multiply(), steps(numpy.Logaddexp(), a, b), 1.0 / two))


@expands(numpy, "Hypot")
def _hypot(node):
    if len(node.inputs) < 2:
        return [node]
    steps = Steps(node)
    squares = [steps(numpy.Square(), x) for x in node.inputs]
    return steps.end(steps(numpy.Sqrt(), steps(numpy.Add(), *squares)))


@expands(numpy, "DivideNoNan")
def _divide_no_nan(node):
    """The product with a reciprocal that is 0 at 0."""
    if len(node.inputs) < 2:
        return [node]
    steps, (a, b) = Steps(node), node.inputs
    return steps.end(steps(numpy.Multiply(), a, steps(ReciprocalNoNan(), b)))


@expands(numpy, "Ptp")
def _peak_to_peak(node):
    x, operation, steps = node.inputs[0], node.operation, Steps(node)
    ends = [steps(kind(operation.axis, keepdims=operation.keepdims), x) for kind in (numpy.Max, numpy.Min)]
    return steps.end(steps(numpy.Subtract(), *ends))


@expands(numpy, "Average")
def _average(node):
    """The mean, or a sum with weights that add up to one."""
    x, *weights = node.args if len(node.args) > 1 else (*node.args, node.kwargs.get("weights"))
    steps, rank = Steps(node), len(x.shape)
    if weights[0] is None:
        return steps.end(steps(numpy.Mean(node.operation.axis), x))
    axes = axes_without_batch(node.operation.axis, rank)
    if axes is None or len(axes) > 1:
        return [node]
    if isinstance(weights[0], Value):
        total = steps(numpy.Sum(axes), steps(numpy.Multiply(), x, weights[0]))
        return steps.end(steps(numpy.Divide(), total, steps(numpy.Sum(axes), weights[0])))
    array = np.asarray(numbers_of(weights[0]), "float64")
    if array.ndim != 1:
        return [node]
    return steps.end(steps.along(x, axes[0], (array / array.sum()).reshape(-1, 1).astype("float32")))


@expands(numpy, "Prod")
def _product(node):
    """Halves are multiplied with each other until one value is left."""
    x, operation, steps = node.inputs[0], node.operation, Steps(node)
    axes = axes_without_batch(operation.axis, len(x.shape))
    if axes is None or any(x.shape[axis] > MOST_FACTORS for axis in axes):
        return [node]
    for axis in axes:
        while (size := x.shape[axis]) > 1:
            half = size // 2
            halves = [steps.cut(x, axis, 0, half), steps.cut(x, axis, half, 2 * half)]
            product = steps(numpy.Multiply(), *halves)
            odd = [steps.cut(x, axis, 2 * half, size)] if size % 2 else []
            x = steps(numpy.Concatenate(axis), [product, *odd]) if odd else product
    return steps.end(x)


@expands(numpy, "Cumprod")
def _cumulative_product(node):
    x, steps = node.inputs[0], Steps(node)
    axes = axes_without_batch(node.operation.axis, len(x.shape))
    if axes is None or x.shape[axes[0]] > MOST_FACTORS:
        return [node]
    (axis,) = axes
    factors = [steps.cut(x, axis, i, i + 1) for i in range(x.shape[axis])]
    products = factors[:1]
    for factor in factors[1:]:
        products.append(steps(numpy.Multiply(), products[-1], factor))
    return steps.end(steps(numpy.Concatenate(axis), products) if len(products) > 1 else x)


@expands(numpy, "Diff")
def _differences(node):
    x, steps = node.inputs[0], Steps(node)
    axis = node.operation.axis % len(x.shape)
    if axis == 0:
        return [node]
    for _ in range(node.operation.n):
        x = steps(numpy.Subtract(), steps.cut(x, axis, 1, None), steps.cut(x, axis, 0, -1))
    return steps.end(x)


@expands(numpy, "Cross")
def _cross(node):
    """`a₂b₃ - a₃b₂` and so on, along an axis of three."""
    if len(node.inputs) < 2:
        return [node]
    operation, (a, b), steps = node.operation, node.inputs, Steps(node)
    given = operation.axisa, operation.axisb, operation.axisc
    axes = [axis % len(x.shape) for axis, x in zip(given, (a, b, node.output))]
    if 0 in axes or len({*axes}) > 1 or a.shape[axes[0]] != 3 or b.shape[axes[1]] != 3:
        return [node]
    turned = lambda x, order: steps(numpy.Take(axes[0]), x, np.array(order))
    first = steps(numpy.Multiply(), turned(a, [1, 2, 0]), turned(b, [2, 0, 1]))
    second = steps(numpy.Multiply(), turned(a, [2, 0, 1]), turned(b, [1, 2, 0]))
    return steps.end(steps(numpy.Subtract(), first, second))


@expands(math, "CDist")
def _distances(node):
    """Of every row of one tensor from every row of the other."""
    a, b = node.inputs
    steps = Steps(node)
    between = steps(numpy.Subtract(), steps(numpy.ExpandDims(-2), a), steps(numpy.ExpandDims(-3), b))
    return steps.end(steps(numpy.Sqrt(), steps(numpy.Sum(-1), steps(numpy.Square(), between))))


@expands(numpy, "Select")
def _select(node):
    """The first choice whose condition holds: one `where` inside the other."""
    conditions, choices, *default = node.args
    steps, chosen = Steps(node), default[0] if default else 0.0
    for condition, choice in reversed(list(zip(conditions, choices))):
        chosen = steps(numpy.Where(), condition, choice, chosen)
    return steps.end(chosen)
