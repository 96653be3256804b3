"""What a layer's `call` makes of symbolic tensors, whether it is written with Keras or with TensorFlow."""

import collections
import contextlib

import keras
from keras.src.backend.common import global_state

from keras_quant.backend import symbolic_outputs
from keras_quant.errors import QuantizationError
from keras_quant.graph.explain import AssignmentError, truer
from keras_quant.graph.spelling import outputs_as_traced
from keras_quant.layers.base import GridInputs


def call_symbolically(layer, args, kwargs, weights=None):
    """The outputs of `layer.call`; where it does not take Keras's tensors, as TensorFlow traces it.

    Args:
        layer: Keras layer.
        args, kwargs: what it is called with.
        weights: `Weights`, which stand for its variables where its `call` takes symbols for them, too; `None` for numbers.

    Raises:
        Exception: the error that says more about why neither goes.
    """
    if weights is not None and not isinstance(layer, GridInputs):
        # What is wrong with it, if anything, the next attempt says.
        with contextlib.suppress(Exception), _numbered_again_after_errors(), weights.as_symbols(layer):
            return layer.call(*args, **kwargs)
    try:
        return layer.call(*args, **kwargs)
    except (QuantizationError, AssignmentError):
        raise
    except Exception as error:
        if not _is_the_users(layer):
            raise
        symbols = contextlib.nullcontext() if weights is None else weights.as_symbols(layer)
        with contextlib.suppress(Exception), _numbered_again_after_errors(), outputs_as_traced(), symbols:
            return layer.call(*args, **kwargs)
        if weights is not None:
            with contextlib.suppress(Exception), _numbered_again_after_errors():
                return symbolic_outputs(layer, args, kwargs, weights.symbol)
        try:
            return symbolic_outputs(layer, args, kwargs)
        except Exception as second:
            raise truer(error, second) from None


def _is_the_users(layer):
    """Layers of Keras and quantized ones are known by their class, or left whole, where they do not take such tensors."""
    if isinstance(layer, GridInputs):
        return False
    return isinstance(layer, keras.layers.Lambda) or not type(layer).__module__.startswith(("keras.", "keras_quant."))


@contextlib.contextmanager
def operations_numbered_by(counts):
    """Keras numbers operations by name through the whole process; here they go on from `counts`, a dict that is kept.

    So an operation has the same path however often, and after whatever, a model is traced.
    """
    outer = global_state.get_global_attribute(_COUNTS)
    global_state.set_global_attribute(_COUNTS, counts)
    try:
        yield
    finally:
        global_state.set_global_attribute(_COUNTS, outer)


@contextlib.contextmanager
def _numbered_again_after_errors():
    """What is tried in vain takes no numbers."""
    counts = global_state.get_global_attribute(_COUNTS)
    before = dict(counts)
    try:
        yield
    except Exception:
        counts.clear()
        counts.update(before)
        raise


def counts_anew():
    """Counts for `operations_numbered_by`, from zero."""
    return collections.defaultdict(int)


_COUNTS = "object_name_uids"
