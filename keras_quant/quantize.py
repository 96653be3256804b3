"""The verb `quantize`: any Keras model → a quantization-aware one."""

import dataclasses
import json

from keras_quant.calibrate import has_ranges, set_ranges
from keras_quant.errors import QuantizationError
from keras_quant.graph import place, prepare, ranges_apart, settle_halves, trace, warn_of_ranges_apart, with_float_ends
from keras_quant.graph.computed_sizes import paths_with_sizes
from keras_quant.graph.ends import widen_ends
from keras_quant.graph.gaps import warn_of_gaps
from keras_quant.graph.named_activations import part_named_activations
from keras_quant.graph.sizes import at_size
from keras_quant.layers import QuantLayer
from keras_quant.overflow import check_overflow
from keras_quant.policy import as_map
from keras_quant.quantizers import ranges
from keras_quant.settings import float32
from keras_quant.tflite.lower import lowers_in_float

FALLBACKS = (None, "float")


@float32()
def quantize(
    model,
    policy="int8",
    calibration_data=None,
    calibration_steps=None,
    fallback=None,
    ends=None,
    calibration_method="mse",
    input_shape=None,
    integer_only=False,
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
        input_shape: size of the quantized model where the given one leaves it open, as `Input((None, None, 3))` does: a
            shape without batch, a list of them, or a dict by input name. By default that of `calibration_data`.
        integer_only: whether all policies are, see `Policy`: for neural processing units and microcontrollers, which take
            no float operator. What is in float by itself, such as a spectrogram, stays so.

    Returns:
        A new Functional `keras.Model` with the same weights, inputs, outputs and layer paths, not compiled.

    Raises:
        UnsupportedLayerError: for a layer that cannot be traced, has no quantized form, or not in the policy's precision.
        QuantizationError: for a model without built inputs, a size that is open or that the model cannot take, weights that
            are not finite, or an unknown policy or fallback.
        CalibrationError: for calibration data that does not fit.
    """
    if fallback not in FALLBACKS:
        raise QuantizationError(f"`fallback` is one of {list(FALLBACKS)}. Received: fallback={fallback!r}")
    model, calibration_data = at_size(model, input_shape, calibration_data)
    policies, ends = as_map(policy), None if ends is None else as_map(ends)
    if integer_only:
        policies, ends = policies.integer_only(), None if ends is None else ends.integer_only()
    graph = fused_graph(model, policies, fallback, None if ends is None else ends.default)
    qmodel, apart = place(graph, model.name, fallback), ()
    if calibration_data is not None and any(node.policy.activations == "float16" for node in graph.nodes):
        check_overflow(trace(qmodel, keep_float=True), calibration_data, calibration_steps)
    if calibration_data is not None and has_ranges(qmodel):
        method = ranges.get(calibration_method)
        qmodel, apart = _calibrated(qmodel, graph, fallback, calibration_data, calibration_steps, method)
    origin = {"policies": policies.get_config(), "ends": None if ends is None else ends.get_config()}
    origin |= {"fallback": fallback, "apart": sorted(apart), "sized": graph.sized}
    qmodel.origin = json.dumps(origin)
    return qmodel


def _calibrated(qmodel, graph, fallback, data, steps, method):
    """The quantized model of a float graph with its ranges set; another one, if what its end joins lies far apart.

    Returns:
        The model, and the paths of what is joined in float for that.
    """
    observed, seen = set_ranges(qmodel, data, steps, "auto", method)
    apart = {apart.path for apart in ranges_apart(observed)}
    wider = with_float_ends(graph, apart, lowers_in_float)
    if wider is not graph:
        measured, qmodel = qmodel, place(wider, qmodel.name, fallback)
        _copy_state(measured, qmodel)
        observed = trace(qmodel, keep_float=True)
        settle_halves(observed)
    warn_of_ranges_apart(observed)
    warn_of_gaps(seen)
    return qmodel, apart


def _copy_state(source, target):
    """Copy the variables of the layers that both models have, ranges among them."""
    known = {(type(layer), layer.name): layer for layer in source.layers}
    for layer in target.layers:
        if (type(layer), layer.name) in known:
            layer.set_weights(known[type(layer), layer.name].get_weights())


def fused_graph(model, policies, fallback=None, ends=None):
    """The leaf graph of a float model with its policies, batch normalizations and activations joined to the layers before.

    Args:
        model, fallback, ends: as of `quantize`.
        policies: `PolicyMap`.

    Returns:
        `Graph`, of which `place` makes the quantized model.
    """
    in_float = lambda path: fallback == "float" or policies[path].computes_in_float
    graph = trace(model, keep_float=in_float, follow_weights=True)
    if any(isinstance(node.operation, QuantLayer) for node in graph.nodes):
        raise QuantizationError(
            f"Model '{model.name}' holds quantized layers already. Quantize the float model, or use this one as it is: "
            "`calibrate`, `fit` and `export` take it."
        )
    graph = dataclasses.replace(graph, sized=paths_with_sizes(graph))
    graph = part_named_activations(graph.with_policies(policies), policies)
    policies.warn_unmatched([node.path for node in graph.nodes])
    graph = graph if ends is None else widen_ends(graph, ends)
    return prepare(graph)
