"""While a layer is traced: what its `call` repeats, here and now, for each of so many samples is a view of one sample.

    positions = ops.broadcast_to(table, (ops.shape(x)[0], *table.shape))       a view of `table`
    x + ops.cast(positions, "float32") * 2                                     is computed of one sample, and a view, too

A function keeps views where two samples give the same two rows that one gives; elsewhere it is computed of all samples.
"""

import contextlib
import functools
import inspect

import keras
import numpy as np
from keras import tree
from keras.src import backend
from keras.src.backend.common.symbolic_scope import in_symbolic_scope

from keras_quant.backend.samples import OTHER_SAMPLES, SAMPLES

# Functions whose integers are sizes; those of others are values.
_SIZED = {"broadcast_to", "tile", "repeat", "reshape", "ones", "zeros", "full", "empty", "slice"}
_CORE = ("cast", "convert_to_tensor", "slice", "stop_gradient")
_OPERATORS = "add sub mul truediv floordiv mod pow matmul and or xor lt le gt ge eq ne".split()


class Repeated(np.ndarray):
    """An array that repeats one sample, as a view of it; so is what NumPy's functions and operators make of it."""

    # Before tensors of the backend.
    __array_priority__ = 1000

    def __array_ufunc__(self, ufunc, method, *args, **kwargs):
        return _made(_as_of_tensors(getattr(ufunc, method)), _plain(args), _plain(kwargs))

    def __array_function__(self, function, types, args, kwargs):
        return _made(function, _plain(args), _plain(kwargs))


def is_repeated(x):
    """Whether an array is a view that repeats one sample for each of those of a trace."""
    return isinstance(x, np.ndarray) and x.ndim > 0 and x.strides[0] == 0 and _is_batch(x.shape[0])


@contextlib.contextmanager
def repeating_views():
    """Let functions of Keras, layers and operators make views of one sample."""
    swaps = [(module, name, _making_views(module, name)) for module, name in _functions()]
    tensor, call = type(keras.ops.convert_to_tensor(0.0)), keras.layers.Layer.__call__
    for name in (f"__{operator}__" for operator in _OPERATORS):
        swaps.append((tensor, name, _leaving(getattr(tensor, name))))
    swaps.append((keras.layers.Layer, "__call__", lambda layer, *a, **k: _called_on_views(call, layer, a, k)))
    before = [(owner, name, name in vars(owner), getattr(owner, name)) for owner, name, _ in swaps]
    try:
        for owner, name, replacement in swaps:
            setattr(owner, name, replacement)
        yield
    finally:
        for owner, name, own, value in before:
            setattr(owner, name, value) if own else delattr(owner, name)


@functools.cache
def _functions():
    found = [(backend.core, name) for name in _CORE]
    for module in (backend.numpy, backend.nn, backend.math):
        own = lambda f, module=module: inspect.isfunction(f) and f.__module__ == module.__name__
        found += [(module, name) for name, f in vars(module).items() if own(f) and not name.startswith("_")]
    return found


# The function that is at work: what it calls in its turn makes no views.
_INSIDE = []


# There are hundreds, and a model has as many layers. What is patched meanwhile is wrapped anew, and not kept for long.
_WRAPPED = {}


def _making_views(module, name):
    function = getattr(module, name)
    known, wrapper = _WRAPPED.get((module, name), (None, None))
    if known is not function:
        wrapper = _wrapped(function, name)
        _WRAPPED[module, name] = function, wrapper
    return wrapper


def _wrapped(function, name):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        if _INSIDE or in_symbolic_scope():
            return function(*args, **kwargs)
        _INSIDE.append(name)
        try:
            return _made(function, args, kwargs, name in _SIZED)
        finally:
            _INSIDE.pop()

    return wrapper


def _leaving(method):
    """A tensor's method, which leaves a view to that view's own."""
    return lambda self, other: NotImplemented if is_repeated(other) else method(self, other)


def _called_on_views(call, layer, args, kwargs):
    """A layer's output; of views of one sample alone it is such a view, too."""
    tensors = [x for x in tree.flatten((args, kwargs)) if len(getattr(x, "shape", ())) > 0]
    if not tensors or not all(map(is_repeated, tensors)):
        return call(layer, *args, **kwargs)
    args, kwargs = tree.map_structure(lambda x: x[:1] if is_repeated(x) else x, (args, kwargs))
    repeated = lambda y: _view(keras.ops.convert_to_numpy(y), len(tensors[0]))
    return tree.map_structure(repeated, call(layer, *_plain(args), **_plain(kwargs)))


def _made(function, args, kwargs, sized=False):
    """What a function makes of arguments, as views of one sample where it can.

    Args:
        sized: whether integers among the arguments are sizes.
    """
    numbers = {x.shape[0] if is_repeated(x) else x for x in tree.flatten((args, kwargs)) if is_repeated(x) or _is_batch(x)}
    if len(numbers) == 1 and (sized or any(map(is_repeated, tree.flatten((args, kwargs))))):
        samples = numbers.pop()
        with contextlib.suppress(Exception):
            one, two = (function(*_with(args, n, sized), **_with(kwargs, n, sized)) for n in (1, 2))
            ones, twos = ([keras.ops.convert_to_numpy(y) for y in tree.flatten(made)] for made in (one, two))
            if ones and all(map(_repeats, ones, twos)):
                return tree.pack_sequence_as(one, [_view(y, samples) for y in ones])
    return function(*args, **kwargs)


def _with(arguments, samples, sized):
    """Arguments with so many samples."""

    def few(x):
        if is_repeated(x):
            return np.array(x[:samples])
        return samples if sized and _is_batch(x) else x

    return tree.map_structure(few, arguments)


def _repeats(one, two):
    """Whether what is made of two samples repeats what is made of one, but for the order of sums."""
    alike = one.ndim > 0 and one.shape[0] == 1 and two.shape == (2, *one.shape[1:])
    if not alike or one.dtype.kind != "f":
        return alike and np.array_equal(two, np.broadcast_to(one, two.shape))
    return np.allclose(two, one, rtol=1e-5, atol=1e-6 * np.max(np.abs(one), initial=0.0), equal_nan=True)


def _view(one, samples):
    return np.broadcast_to(one, (samples, *one.shape[1:])).view(Repeated)


def _plain(arguments):
    return tree.map_structure(lambda x: x.view(np.ndarray) if isinstance(x, Repeated) else x, arguments)


def _as_of_tensors(function):
    """NumPy's function, in which a number of Python or NumPy does not widen what tensors would hold in float32."""

    def narrow(*args, **kwargs):
        made = function(*args, **kwargs)
        wide = any(getattr(x, "ndim", 0) > 0 and x.dtype == np.float64 for x in args)
        return made.astype("float32") if getattr(made, "dtype", None) == np.float64 and not wide else made

    return narrow


def _is_batch(size):
    return isinstance(size, int) and size > 0 and (size % SAMPLES == 0 or size % OTHER_SAMPLES == 0)
