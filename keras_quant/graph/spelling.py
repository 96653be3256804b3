"""While a layer is traced: what `call` may write beside a symbolic tensor, and what it makes without one."""

import contextlib
import functools
import inspect
import warnings

import keras
import numpy as np
from keras import tree
from keras.src import backend
from keras.src.backend.common import KerasVariable
from keras.src.layers.merging.base_merge import Merge
from keras.src.ops import numpy as knp
from keras.src.ops.node import Node

# Methods behind `w * x` and the like. A symbolic tensor has none for `==`.
_OPERATORS = "add sub mul truediv floordiv mod pow matmul and or xor lt le gt ge".split()


@contextlib.contextmanager
def symbolic_spelling(layer=None, weights=None):
    """Variables and arrays on the left of a symbolic tensor leave the operation to it; lists of numbers become arrays.

    Layers may return what is no tensor, `None` beside one, as they may in a model that is called. What they tell `fit`
    alone, losses and metrics, is not heard; a loss is warned of.

    What is no tensor of the graph has one sample when it is repeated for each of an open batch. So
    `broadcast_to(positions, shape(x))`, of which Keras makes a tensor here and now, is a constant beside `x`.
    """
    patches = [
        *_left_operands(),
        *_open_batch(),
        (keras.Operation, "symbolic_call", _with_arrays),
        (keras.KerasTensor, "__getitem__", _with_any_index),
        (keras.layers.Layer, "symbolic_call", _by_its_call(weights)),
        (Merge, "symbolic_call", _of_shapes),
        (Node, "__init__", _node_of_tensors),
        (keras.layers.Layer, "add_loss", _loss_is_left_out),
        *((metric, "update_state", lambda *args, **kwargs: None) for metric in _metrics(layer)),
    ]
    with contextlib.ExitStack() as stack:
        for owner, name, replacement in patches:
            stack.enter_context(_patched(owner, name, replacement))
        yield


@contextlib.contextmanager
def _patched(owner, name, replacement):
    own = name in vars(owner)
    before = getattr(owner, name, None)
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, before) if own else delattr(owner, name)


def _left_operands():
    # NumPy asks this attribute whether to leave an operation to the right side.
    yield keras.KerasTensor, "__array_ufunc__", None
    for operator in _OPERATORS:
        name = f"__{operator}__"
        if hasattr(KerasVariable, name):
            yield KerasVariable, name, _leaving(getattr(KerasVariable, name))


def _leaving(method):
    """A variable's method, which leaves a symbolic tensor to that tensor's own."""
    return lambda self, other: NotImplemented if isinstance(other, keras.KerasTensor) else method(self, other)


def _open_batch():
    one = lambda size: 1 if size is None else size
    once = lambda sizes: list(map(one, sizes)) if isinstance(sizes, (list, tuple)) else one(sizes)
    for name in ("broadcast_to", "repeat", "tile"):
        function = getattr(backend.numpy, name)
        made = lambda x, sizes, *args, f=function, **kwargs: f(x, once(sizes), *args, **kwargs)
        yield backend.numpy, name, functools.wraps(function)(made)


def _with_arrays(self, *args, **kwargs):
    """`Operation.symbolic_call`, in which a list of numbers beside a tensor is an array."""
    if type(self).__module__ == knp.__name__ and list(inspect.signature(self.call).parameters) == ["x1", "x2"]:
        args, kwargs = _arrays(args, kwargs)
    return _SYMBOLIC_CALL(self, *args, **kwargs)


def _by_its_call(weights):
    """A layer's `symbolic_call`; its `call` may take more than its `compute_output_spec`, as keras_hub's attention does."""

    def symbolic_call(self, *args, **kwargs):
        kwargs = without_flag(self, kwargs)
        with contextlib.nullcontext() if weights is None else weights.as_variables():
            # What an EinsumDense declares leaves sizes open.
            known = not isinstance(self, keras.layers.EinsumDense) and _declares(self, args, kwargs)
            return (_LAYER_CALL if known else _traced)(self, *args, **kwargs)

    return symbolic_call


def _declares(layer, args, kwargs):
    if not _Declared.is_trusted and not type(layer).__module__.startswith("keras."):
        return False
    try:
        inspect.signature(layer.compute_output_spec).bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def without_flag(layer, kwargs):
    """Keyword arguments without `training` where a layer's `call` does not take it, as Keras lets it be called."""
    flagged = "training" in kwargs and not getattr(layer, "_call_has_training_arg", True)
    return {name: value for name, value in kwargs.items() if name != "training"} if flagged else kwargs


def _traced(self, *args, **kwargs):
    kwargs = without_flag(self, kwargs)
    return _recorded(self, args, kwargs, backend.compute_output_spec(self.call, *args, **kwargs))


class _Declared:
    """Whether what a layer's `compute_output_spec` says is taken for what its `call` makes."""

    is_trusted = True


def outputs_as_traced():
    """Context in which what a layer of one's own returns, called on the way, is what its `call` makes."""
    return _patched(_Declared, "is_trusted", False)


def _with_any_index(self, key):
    """`x[None]`, `x[:8]`: a symbolic tensor of Keras takes them in a tuple only."""
    return _GET_ITEM(self, (key,) if key is None or isinstance(key, slice) else key)


_SYMBOLIC_CALL, _NODE, _GET_ITEM = keras.Operation.symbolic_call, Node.__init__, keras.KerasTensor.__getitem__
_LAYER_CALL = keras.layers.Layer.symbolic_call
# Newer Keras records a layer's call elsewhere.
_MAKES_NODES = _LAYER_CALL is _SYMBOLIC_CALL


def _of_shapes(self, *args, **kwargs):
    """A merging layer's `symbolic_call`; its rules for shapes know symbolic tensors only."""
    return _recorded(self, args, kwargs, self.compute_output_spec(*symbols_for_constants(args), **kwargs))


def _recorded(self, args, kwargs, outputs):
    if _MAKES_NODES:
        Node(operation=self, call_args=args, call_kwargs=kwargs, outputs=outputs)
    return outputs


def symbols_for_constants(structure):
    symbol = lambda x: keras.KerasTensor(tuple(x.shape), dtype=keras.backend.standardize_dtype(x.dtype))
    constant = lambda x: hasattr(x, "shape") and not isinstance(x, keras.KerasTensor)
    return tree.map_structure(lambda x: symbol(x) if constant(x) else x, structure)


def _node_of_tensors(self, operation, call_args=None, call_kwargs=None, outputs=None):
    tensors = [x for x in tree.flatten(outputs) if isinstance(x, keras.KerasTensor)]
    _NODE(self, operation, call_args, call_kwargs, tensors)


def is_nothing(x):
    """Whether an output of a layer is none that another one computes with."""
    return x is None or isinstance(x, (bool, int, float, str))


def _loss_is_left_out(self, loss):
    warnings.warn(
        f"Layer '{self.name}' calls `add_loss`; the quantized model is made of what it computes and leaves that loss out. "
        "Add it in the `loss` that you compile the quantized model with.",
        stacklevel=2,
    )


def _metrics(layer):
    layers = [] if layer is None else layer._flatten_layers()
    return [metric for one in layers for metric in getattr(one, "_metrics", [])]


def _arrays(args, kwargs):
    array = lambda x: np.asarray(x, "float32") if isinstance(x, (list, tuple)) else x
    return tuple(map(array, args)), {name: array(x) for name, x in kwargs.items()}


def independent(operation, args, kwargs):
    """What a call computes that reads no tensor of the graph, or only the shape of one; one sample stands for all."""
    if "training" in inspect.signature(operation.call).parameters:
        kwargs = {**kwargs, "training": False}
    with symbolic_spelling():
        return operation(*args, **kwargs)
