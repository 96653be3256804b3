"""Sums of products over any labels, `einsum` and EinsumDense, become those that are one matrix product."""

import string

import keras
from keras import ops
from keras.src.ops import numpy

from keras_quant.graph.expand import expands
from keras_quant.graph.expressions import movable
from keras_quant.graph.graph import Value
from keras_quant.graph.steps import Steps
from keras_quant.graph.weights import built

L = keras.layers
# So many kernels, one for each place along an axis, are applied one by one.
MOST_KERNELS = 64


def _labels(subscripts, ranks):
    """The labels of operands and result, with letters in place of an ellipsis."""
    operands, _, result = subscripts.replace(" ", "").partition("->")
    operands = operands.split(",")
    free = [letter for letter in string.ascii_letters if letter not in subscripts]
    width = max((rank - len(o) + 3 for o, rank in zip(operands, ranks) if "..." in o), default=0)
    letters = "".join(free[:width])
    fill = lambda o, rank: o.replace("...", letters[width - (rank - len(o) + 3) :] if "..." in o else "")
    operands = [fill(o, rank) for o, rank in zip(operands, ranks)]
    return operands, result.replace("...", letters)


@expands(numpy, "Einsum")
def _einsum(node):
    """With a constant it is an EinsumDense; of one tensor a sum and a transpose; of three, two products."""
    if "->" not in node.operation.subscripts:
        return [node]  # Keras's symbolic result has another order of axes than the one that it computes.
    operands, result = _labels(node.operation.subscripts, [len(x.shape) for x in node.args])
    if node.kwargs or any(len({*text}) != len(text) for text in operands):
        return [node]
    steps, args = Steps(node), list(node.args)
    constants = [i for i, x in enumerate(args) if not isinstance(x, Value)]
    if len(args) == 2 and len(constants) == 1 and set(operands[0]) | set(operands[1]) >= set(result):
        return _with_constant(node, steps, operands, result, constants[0])
    if constants:
        return [node]
    args, operands = _summed_alone(steps, args, operands, result)
    if len(args) == 1:
        order = [operands[0].index(label) for label in result]
        return steps.end(steps(numpy.Transpose(order), args[0]) if order != sorted(order) else args[0])
    if len(args) > 2:
        rest = "".join(operands[2:]) + result
        joined = "".join(dict.fromkeys(label for label in operands[0] + operands[1] if label in rest))
        first = steps(numpy.Einsum(f"{operands[0]},{operands[1]}->{joined}"), *args[:2])
        return steps.end(steps(numpy.Einsum(f"{','.join([joined, *operands[2:]])}->{result}"), first, *args[2:]))
    subscripts = f"{','.join(operands)}->{result}"
    if subscripts == node.operation.subscripts.replace(" ", "") and args == list(node.args):
        return [node]
    return steps.end(steps(numpy.Einsum(subscripts), *args))


def _summed_alone(steps, args, operands, result):
    """Labels that one operand alone has, and the result has not, are summed over first."""
    summed = []
    for index, x in enumerate(args):
        others = result + "".join(operands[:index] + operands[index + 1 :])
        axes = [axis for axis, label in enumerate(operands[index]) if label not in others]
        summed.append((steps(numpy.Sum(axes), x) if axes else x, "".join(o for o in operands[index] if o in others)))
    return [list(column) for column in zip(*summed)]


def _with_constant(node, steps, operands, result, index):
    x, kernel = node.args[1 - index], node.args[index]
    if {*operands[index]} <= {*result} & {*operands[1 - index]}:
        return [node]  # a product of values, not of sums
    equation = f"{operands[1 - index]},{operands[index]}->{result}"
    layer = L.EinsumDense(equation, node.output.shape[1:])
    try:
        built(layer, x.shape, {"kernel": kernel})
    except ValueError:
        return [node]
    return steps.end(steps(layer, x))


@expands(L, "EinsumDense")
def _einsum_dense(node):
    """Transposed to where it is a Dense layer over the last axes; a kernel for each place of an axis is applied there."""
    layer, x = node.operation, node.inputs[0]
    (inputs, kernel), result = _labels(layer.equation, [len(x.shape), len(layer.kernel.shape)])
    summed = "".join(label for label in inputs if label in kernel and label not in result)
    both = "".join(label for label in inputs if label in kernel and label in result)
    made = "".join(label for label in kernel if label not in inputs)
    kept = "".join(label for label in inputs if label not in kernel)
    plain = all(len({*text}) == len(text) for text in (inputs, kernel, result))
    if not plain or set(result) != {*kept, *both, *made} or inputs[0] != result[0] or inputs[0] != kept[0]:
        return [node]
    whole_bias = layer.bias is None or set(layer.bias_axes) == set(made)
    if (
        not both
        and summed
        and made
        and (kernel, inputs, result) == (summed + made, kept + summed, kept + made)
        and whole_bias
    ):
        return [node]
    steps = Steps(node)
    if both:
        product = _place_by_place(steps, layer, x, (inputs, kernel, result), both[0])
    else:
        product = _as_dense(steps, layer, x, (inputs, kernel, result), (kept, summed, made))
    if product is None:
        return [node]
    if layer.bias is not None:
        product = steps(numpy.Add(), product, layer.bias)
    if layer.activation is not keras.activations.linear:
        product = steps(L.Activation(layer.activation), product)
    return steps.end(product)


def _as_dense(steps, layer, x, labels, groups):
    (inputs, kernel, result), (kept, summed, made) = labels, groups
    array = ops.transpose(movable(layer.kernel), [kernel.index(label) for label in summed + made])
    x = _ordered(steps, x, inputs, kept + summed)
    if not summed:
        free = next(letter for letter in string.ascii_letters if letter not in inputs + kernel)
        x, summed, array = steps(numpy.ExpandDims(-1), x), free, ops.expand_dims(array, 0)
    free = next(letter for letter in string.ascii_letters if letter not in inputs + kernel + summed)
    outputs = made or free
    array = array if made else ops.expand_dims(array, -1)
    sizes = dict(zip(kept + summed, x.shape))
    shape = [sizes[label] for label in kept[1:]] + list(array.shape[len(summed) :])
    dense = L.EinsumDense(f"{kept + summed},{summed + outputs}->{kept + outputs}", shape)
    built(dense, x.shape, {"kernel": array})
    dense.trainable = layer.trainable
    product = steps(dense, x)
    product = product if made else steps(numpy.Squeeze(-1), product)
    return _ordered(steps, product, kept + made, result)


def _ordered(steps, x, labels, wanted):
    order = [labels.index(label) for label in wanted]
    return x if order == sorted(order) else steps(numpy.Transpose(order), x)


def _place_by_place(steps, layer, x, labels, label):
    """The layer without one of its labels, for each place along that axis, side by side."""
    inputs, kernel, result = labels
    axis, size = result.index(label), x.shape[inputs.index(label)]
    if size > MOST_KERNELS:
        return None
    array, places = movable(layer.kernel), []
    equation = f"{inputs},{kernel}->{result}".replace(label, "")
    shape = [{**dict(zip(kernel, array.shape)), **dict(zip(inputs, x.shape))}[other] for other in result if other != label]
    for place in range(size):
        part = steps(numpy.GetItem(), x, (*[slice(None)] * inputs.index(label), place))
        own = L.EinsumDense(equation, shape[1:])
        built(own, part.shape, {"kernel": ops.take(array, place, kernel.index(label))})
        own.trainable = layer.trainable
        places.append(steps(numpy.ExpandDims(axis), steps(own, part)))
    return steps(numpy.Concatenate(axis), places) if size > 1 else places[0]
