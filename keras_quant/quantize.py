"""The verb `quantize`: any Keras model → a quantization-aware one."""

from keras_quant.calibrate import calibrate, has_ranges
from keras_quant.errors import QuantizationError
from keras_quant.graph import (
    expand,
    expand_masks,
    fuse_activations,
    fuse_batch_norms,
    fuse_input_scales,
    join_biases,
    keep_integers,
    lift_additive_masks,
    lift_choices,
    lift_constants,
    lift_masked_means,
    lift_tables,
    lift_weights,
    merge_rescalings,
    place,
    scale_inner_softmaxes,
    trace,
)
from keras_quant.graph.ends import widen_ends
from keras_quant.layers import QuantLayer
from keras_quant.policy import as_map

PASSES = (
    expand_masks,
    expand,
    lift_masked_means,
    lift_additive_masks,
    lift_choices,
    lift_tables,
    keep_integers,
    lift_weights,
    join_biases,
    lift_constants,
    fuse_batch_norms,
    fuse_activations,
    merge_rescalings,
    fuse_input_scales,
    scale_inner_softmaxes,
)
FALLBACKS = (None, "float")


def quantize(
    model,
    policy="int8",
    calibration_data=None,
    calibration_steps=None,
    fallback=None,
    ends=None,
    calibration_method="mse",
):
    """Swap a model's layers for quantization-aware ones.

    Args:
        model: a built `keras.Model`: Sequential, Functional, nested or subclassed. It is left as it is.
        policy: precision of the layers: a name such as "int8" or "int4", a `Policy`, or a `PolicyMap` from layer paths to
            policies.
        calibration_data: whatever `fit` takes; sets the activation ranges at once, see `calibrate`. Without it they are
            set by the first batches of `fit`, or by a later `calibrate`.
        calibration_steps: number of batches of `calibration_data` to use; all by default.
        fallback: what becomes of a layer that cannot be traced or has no quantized form. `None` for an error; "float" to
            keep it as it is, between quantized layers. A layer that no rule lowers exports with
            `export(..., fallback="converter")`.
        ends: policy of the first and last layers with weights, by name or as a `Policy`, where `policy` names none for them;
            "int16" keeps them wider.
        calibration_method: how ranges are chosen from `calibration_data`: `method` of `calibrate`.

    Returns:
        A new Functional `keras.Model` with the same weights, inputs, outputs and layer paths, not compiled.

    Raises:
        UnsupportedLayerError: for a layer that cannot be traced, has no quantized form, or not in the policy's precision.
        QuantizationError: for a model without built inputs, a dynamic shape, weights that are not finite, or an unknown
            policy or fallback.
        CalibrationError: for calibration data that does not fit.
    """
    if fallback not in FALLBACKS:
        raise QuantizationError(f"`fallback` is one of {list(FALLBACKS)}. Received: fallback={fallback!r}")
    qmodel = place(fused_graph(model, as_map(policy), fallback, ends), model.name, fallback)
    if calibration_data is not None and has_ranges(qmodel):
        calibrate(qmodel, calibration_data, calibration_steps, method=calibration_method)
    return qmodel


def fused_graph(model, policies, fallback=None, ends=None):
    """The leaf graph of a float model with its policies, batch normalizations and activations joined to the layers before.

    Args:
        model, fallback, ends: as of `quantize`.
        policies: `PolicyMap`.

    Returns:
        `Graph`, of which `place` makes the quantized model.
    """
    graph = trace(model, keep_float=lambda path: fallback == "float" or policies[path].computes_in_float)
    if any(isinstance(node.operation, QuantLayer) for node in graph.nodes):
        raise QuantizationError(
            f"Model '{model.name}' holds quantized layers already. Quantize the float model, or use this one as it is: "
            "`calibrate`, `fit` and `export` take it."
        )
    policies.warn_unmatched([node.path for node in graph.nodes])
    graph = graph.with_policies(policies)
    graph = graph if ends is None else widen_ends(graph, ends)
    for graph_pass in PASSES:
        graph = graph_pass(graph)
    return graph
