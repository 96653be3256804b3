"""The batch of a model while it is traced: a large prime, so that its multiples are told apart from all other sizes.

Layers merge windows or frames into the batch, `reshape(x, (-1, 7, 7, c))`, `ops.shape(x)[0] * n`, and part them again. With
a prime number of samples each shape, and each integer that is computed from one, says how many rows there are for a sample.
"""

import inspect
import math

import keras
import numpy as np
from keras import tree
from keras.src.ops.numpy import BroadcastTo, Concatenate, Reshape

from keras_quant.backend.samples import OTHER_SAMPLES, SAMPLES
from keras_quant.errors import UnsupportedLayerError
from keras_quant.graph.call import call_symbolically, counts_anew, operations_numbered_by
from keras_quant.graph.explain import NoAssignments
from keras_quant.graph.expressions import Weight, is_expression, is_weight, of_one_sample
from keras_quant.graph.graph import Value
from keras_quant.graph.repeated import is_repeated, repeating_views
from keras_quant.graph.spelling import symbolic_spelling
from keras_quant.layers.derived import is_variable


def fixed(inputs):
    """The batch that all inputs of a model share where it is no open one, or `None`."""
    sizes = {value.shape[0] for value in inputs}
    return sizes.pop() if len(sizes) == 1 else None


def symbolic_shape(value, samples=SAMPLES):
    """A value's shape with so many samples."""
    if value.batch_axis is None:
        return tuple(value.shape)
    return tuple(samples * value.rows if axis == value.batch_axis else size for axis, size in enumerate(value.shape))


def value(spec, path, note, size=None):
    """The `Value` of what a leaf makes of `SAMPLES` samples.

    Args:
        spec: symbolic tensor.
        path: of the leaf.
        note: `Value.note`.
        size: of a fixed batch.
    """
    axis = next((axis for axis, length in enumerate(spec.shape) if _rows(length)), None)
    if axis is None:
        return Value(tuple(spec.shape), spec.dtype, path, note, 1, None)
    rows = _rows(spec.shape[axis])
    first = None if size is None else size * rows
    shape = tuple(first if place == axis else length for place, length in enumerate(spec.shape))
    return Value(shape, spec.dtype, path, note, rows, axis)


def _rows(size):
    """How many rows for a sample a dimension holds; 0 where it is not the batch."""
    return size // SAMPLES if isinstance(size, int) and size % SAMPLES == 0 else 0


def sized(operation, x):
    """A Reshape whose sizes are known: `None`, which a Functional model writes for what was open, follows from the input."""
    if not (operation.newshape and isinstance(x, Value)):
        return operation
    shape = list(operation.newshape)
    total, open_axes = math.prod(symbolic_shape(x)), [axis for axis, size in enumerate(shape) if size in (None, -1)]
    if len(open_axes) > 1 and 0 in open_axes:
        shape[0] = SAMPLES * x.rows
        open_axes.remove(0)
    if len(open_axes) != 1:
        # A batch that was fixed when the model was built: the sample says how many rows there are.
        sample = math.prod(size for size in shape[1:])
        return (
            Reshape((-1, *shape[1:]))
            if not open_axes and x.batch_axis == 0 and sample and total % sample == 0
            else operation
        )
    known = math.prod(size for size in shape if size not in (None, -1))
    if not known or total % known:
        return operation
    shape[open_axes[0]] = total // known
    return Reshape(tuple(shape))


def repeated(operation, args):
    """What a Concatenate along another axis is called with, each constant among it with as many samples as the tensors."""
    if not isinstance(operation, Concatenate) or operation.axis == 0:
        return args
    rows = next((x.rows for x in tree.flatten(args) if isinstance(x, Value)), 1)
    constant = lambda x: not isinstance(x, Value) and len(getattr(x, "shape", ())) > 0
    spec = lambda x: keras.KerasTensor((SAMPLES * rows, *x.shape[1:]), keras.backend.standardize_dtype(x.dtype))
    return tree.map_structure(lambda x: spec(x) if constant(x) else x, args)


def relative(operation, spec):
    """A reshaping or repeating operation whose sizes do not hold the batch of the trace."""
    if not isinstance(operation, (Reshape, BroadcastTo)):
        return operation
    if isinstance(operation, Reshape) and spec.shape and _rows(spec.shape[0]):
        return Reshape((-1, *spec.shape[1:]))
    return type(operation)(tuple(None if _rows(size) else size for size in spec.shape))


def constants(arguments, path, source):
    """What an operation is called with, but that a constant which was repeated for each sample has one, and broadcasts.

    Raises:
        UnsupportedLayerError: for the number of samples, or a constant that differs between them.
    """
    return tree.map_structure(lambda x: _of_one_sample(x, path, source), arguments)


def _of_one_sample(x, path, source):
    if isinstance(x, bool) or not (isinstance(x, int) or hasattr(x, "shape")) or isinstance(x, Value) or is_variable(x):
        return x
    if isinstance(x, int):
        if x and x % SAMPLES == 0:
            raise UnsupportedLayerError(_enters(path, source))
        return x
    if not len(x.shape) or not _rows(x.shape[0]):
        return x
    if is_expression(x):
        one = of_one_sample(x)
        if tuple(one.shape) != (1, *x.shape[1:]):
            raise UnsupportedLayerError(_differs(path, source, x.shape))
        return one
    array = np.asarray(x)
    if not is_repeated(array) and not np.array_equal(array, np.broadcast_to(array[:1], array.shape)):
        raise UnsupportedLayerError(_differs(path, source, array.shape))
    return keras.ops.convert_to_tensor(array[:1])


def _differs(path, source, shape):
    return (
        f"Operation '{path}'{f' at {source}' if source else ''} takes a constant that differs from sample to sample. "
        f"Make it an input of the model. Received: shape ('batch', {', '.join(map(str, shape[1:]))})"
    )


def _enters(path, source):
    return (
        f"Operation '{path}'{f' at {source}' if source else ''} computes with the number of samples in a batch, which the "
        "runtime sets. Use shapes for it only, or divide by a number of your own."
    )


def called(layer, args, kwargs, weights=None):
    """What a layer's `call` makes of symbolic tensors.

    Args:
        layer: Keras layer.
        args, kwargs: what it is called with; tensors have `SAMPLES` samples.
        weights: as of `call_symbolically`.

    Raises:
        UnsupportedLayerError: if numbers inside depend on how many samples there are.
    """
    own = _CALLS.get(type(layer))
    call = (lambda *given: call_symbolically(layer, *given, weights)) if own is None else (lambda a, k: own(layer, *a, **k))
    with NoAssignments(), symbolic_spelling(layer, weights), repeating_views():
        outputs = call(args, kwargs)
        if inspect.getmodule(type(layer)).__name__.split(".")[0] in ("keras", "keras_quant"):
            return outputs
        numbers = _numbers(outputs)
        if numbers:
            more = lambda x: _with_samples(x, OTHER_SAMPLES)
            with operations_numbered_by(counts_anew()):
                others = _numbers(call(*tree.map_structure(more, (args, kwargs))))
            if numbers != others:
                raise UnsupportedLayerError(_enters(layer.name, None))
    return outputs


def _with_samples(x, samples):
    if isinstance(x, Weight):
        return x
    if not isinstance(x, keras.KerasTensor):
        constant = not isinstance(x, keras.Variable) and len(getattr(x, "shape", ())) > 0
        if not constant or _rows(x.shape[0]) != 1:
            return x
        one = keras.ops.convert_to_numpy(x[:1])
        return np.broadcast_to(one, (samples, *one.shape[1:]))
    shape = tuple(_rows(size) * samples if size and _rows(size) else size for size in x.shape)
    return keras.Input(batch_shape=shape, dtype=x.dtype, name="traced")


def _numbers(outputs):
    """The numbers that are no integers among what leads to tensors."""
    found, seen, pending = [], set(), [x for x in tree.flatten(outputs) if isinstance(x, keras.KerasTensor)]
    while pending:
        history = pending.pop()._keras_history
        if history.operation is None:
            continue
        node = history.operation._inbound_nodes[history.node_index]
        if id(node) not in seen:
            seen.add(id(node))
            pending.extend(node.input_tensors)
            found.extend(map(_number, tree.flatten((node.arguments.args, node.arguments.kwargs))))
    return [number for number in found if number is not None]


def _number(x):
    if isinstance(x, float):
        return x
    scalar = not is_weight(x) and len(getattr(x, "shape", (None,))) == 0
    return float(np.asarray(x, "float64")) if scalar else None


def _time_distributed(layer, inputs, training=None, mask=None):
    """`keras.layers.TimeDistributed`: the steps in the batch, since the layer inside sees each on its own."""
    ops = keras.ops
    merged = lambda x: ops.reshape(x, (-1, *x.shape[2:]))
    kwargs = {"training": training} if layer.layer._call_has_training_arg else {}
    if mask is not None and layer.layer._call_has_mask_arg:
        kwargs["mask"] = merged(mask)
    outputs = layer.layer(merged(inputs), **kwargs)
    return tree.map_structure(lambda y: ops.reshape(y, (-1, inputs.shape[1], *y.shape[1:])), outputs)


# What some layers of Keras amount to, where their own `call` takes the batch apart.
_CALLS = {keras.layers.TimeDistributed: _time_distributed}
