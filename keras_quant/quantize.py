"""The verb `quantize`: any Keras model → a quantization-aware one."""

from keras_quant.calibrate import calibrate
from keras_quant.errors import QuantizationError
from keras_quant.graph import (
    expand,
    fuse_activations,
    fuse_batch_norms,
    fuse_input_scales,
    join_biases,
    lift_constants,
    lift_weights,
    merge_rescalings,
    place,
    trace,
)
from keras_quant.layers import QuantLayer

PASSES = (
    expand,
    lift_weights,
    join_biases,
    lift_constants,
    fuse_batch_norms,
    fuse_activations,
    merge_rescalings,
    fuse_input_scales,
)
POLICIES = ("int8",)
FALLBACKS = (None, "float")


def quantize(model, policy="int8", calibration_data=None, calibration_steps=None, fallback=None):
    """Swap a model's layers for quantization-aware ones.

    Args:
        model: a built `keras.Model`: Sequential, Functional, nested or subclassed. It is left as it is.
        policy: precision of the layers: "int8" (weights per channel and activations per tensor).
        calibration_data: whatever `fit` takes; sets the activation ranges at once, see `calibrate`. Without it they are
            set by the first batches of `fit`, or by a later `calibrate`.
        calibration_steps: number of batches of `calibration_data` to use; all by default.
        fallback: what becomes of a layer that cannot be traced or has no quantized form. `None` for an error; "float" to
            keep it as it is, between quantized layers. Such a model exports with `export(..., fallback="converter")`.

    Returns:
        A new Functional `keras.Model` with the same weights, inputs, outputs and layer paths, not compiled.

    Raises:
        UnsupportedLayerError: for a layer that cannot be traced or has no quantized form.
        QuantizationError: for a model without built inputs, a dynamic shape, weights that are not finite, or an unknown
            policy or fallback.
        CalibrationError: for calibration data that does not fit.
    """
    if policy not in POLICIES:
        raise QuantizationError(f"`policy` is one of {list(POLICIES)}. Received: policy={policy!r}")
    if fallback not in FALLBACKS:
        raise QuantizationError(f"`fallback` is one of {list(FALLBACKS)}. Received: fallback={fallback!r}")
    graph = trace(model, keep_float=fallback == "float")
    if any(isinstance(node.operation, QuantLayer) for node in graph.nodes):
        raise QuantizationError(
            f"Model '{model.name}' holds quantized layers already. Quantize the float model, or use this one as it is: "
            "`calibrate`, `fit` and `export` take it."
        )
    for graph_pass in PASSES:
        graph = graph_pass(graph)
    qmodel = place(graph, model.name, fallback)
    if calibration_data is not None:
        calibrate(qmodel, calibration_data, calibration_steps)
    return qmodel
