"""Policies of floats as Keras's own dtype policies, which layers that stay Keras's own hold."""

from keras_quant.policy.policy import Policy

_NAMES = {"float32": "float32", "mixed_float16": "float16"}
# float16 with float32 variables, for a loss scale to work on.
_DTYPES = {"float32": "float32", "float16": "mixed_float16", "dynamic": "float32"}


def dtype_of(policy):
    """The name of the Keras dtype policy for a `Policy` that computes in float."""
    return _DTYPES[policy.activations]


def policy_name(operation):
    """The name of the policy of a layer of a quantized model; `None` for an operation, which has none of its own.

    A loop has that of the layers with weights in its steps, if it is one.
    """
    if getattr(operation, "step", None) is not None:
        inside = [layer for layer in operation.step.layers if getattr(layer, "kernel", None) is not None]
        names = {policy_name(layer) for layer in inside}
        return names.pop() if len(names) == 1 else None
    own, dtype = getattr(operation, "policy", None), getattr(operation, "dtype_policy", None)
    return own.name if isinstance(own, Policy) else _NAMES.get(getattr(dtype, "name", None))
