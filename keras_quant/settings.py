"""Keras's global settings, on which the arithmetic of a quantized model must not depend."""

import contextlib
import warnings

import keras
from keras.src.backend import AutocastScope
from keras.src.backend.common.variables import get_autocast_scope

from keras_quant.errors import QuantizationError

FLOAT = "float32"


@contextlib.contextmanager
def float32():
    """What is made and computed inside is float32, whatever `keras.config` and the layers around it say.

    Also a decorator of functions: `@float32()`.
    """
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    # Some versions of Keras find no dtype for variables in a scope without one; outside of a layer's call there is none.
    with contextlib.nullcontext() if get_autocast_scope() is None else AutocastScope(None):
        if floatx == policy.name == FLOAT:
            yield
            return
        try:
            _set(FLOAT, FLOAT)
            yield
        finally:
            _set(floatx, policy)


def _set(floatx, policy):
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)


def warn_of_rounded_data():
    """Warn where Keras rounds arrays to half precision before a model sees them."""
    floatx = keras.config.floatx()
    if floatx in ("float16", "bfloat16"):
        warnings.warn(
            f"Keras rounds arrays to `keras.config.floatx()`, {floatx}, before `fit` and `predict` pass them to a model. "
            "The file gets them as they are and may differ for it. Pass a `tf.data.Dataset`, or call "
            "`keras.config.set_floatx('float32')`.",
            stacklevel=3,
        )


class InFloat32:
    """Mixin before a Keras layer: its variables and its arithmetic are float32, whatever Keras's settings are.

    Args:
        dtype: "float32", which is the default here.
    """

    def __init__(self, *args, dtype=None, **kwargs):
        with float32():
            super().__init__(*args, dtype=FLOAT, **kwargs)
        self._check_dtype(dtype)

    def __call__(self, *args, **kwargs):
        with float32():
            return super().__call__(*args, **kwargs)

    @property
    def dtype_policy(self):
        """Keras's dtype policy of the layer, "float32"."""
        return super().dtype_policy

    @dtype_policy.setter
    def dtype_policy(self, value):
        self._check_dtype(value)

    def _check_dtype(self, dtype):
        if dtype is not None and keras.dtype_policies.get(dtype).name != FLOAT:
            name = keras.dtype_policies.get(dtype).name
            raise QuantizationError(
                f"Layer '{self.name}' ({type(self).__name__}) computes in float32 under any dtype policy, since that is how "
                f"the integers of the file are found. Leave `dtype` out. Received: dtype='{name}'"
            )
