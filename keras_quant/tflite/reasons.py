"""Why an operator is not on XNNPACK, or not integer, and which change to the model would mend it."""

_FUNCTIONS = "relu, leaky_relu, elu, hard_sigmoid, hard_silu, sigmoid, silu or tanh"
_TABLE = (
    "a function of many values by a table, which XNNPACK has for int8 only as ELU, LOGISTIC and TANH",
    f"As an activation use {_FUNCTIONS}; for a normalization use BatchNormalization.",
)
_REASONS = {
    "SOFTMAX": ("XNNPACK's SOFTMAX is float", "At the end of the model leave it out and take the largest logit."),
    "GELU": ("XNNPACK's GELU is float", f"Use {_FUNCTIONS}."),
    "CAST": _TABLE,
    "GATHER": ("XNNPACK has none", "Take runs of neighbouring elements, or along another axis than the last."),
    "REVERSE_V2": ("XNNPACK has none, and slices would take longer", ""),
    "AVERAGE_POOL_2D": ("XNNPACK's AVERAGE_POOL_2D is float", "Export with keras_quant, which lowers it otherwise."),
    "RELU": ("XNNPACK's RELU is float", "Export with keras_quant, which lowers it to QUANTIZE or fuses it."),
    "RELU6": ("XNNPACK's RELU6 is float", "Export with keras_quant, which lowers it to QUANTIZE or fuses it."),
    "HARD_SWISH": ("XNNPACK's HARD_SWISH is float", "Export with keras_quant, which lowers it otherwise."),
    "RESIZE_NEAREST_NEIGHBOR": ("XNNPACK has none", "Use a whole factor, or bilinear interpolation."),
}


def explain(name, dtypes):
    """The reason and the remedy for an operator that XNNPACK leaves, or that computes in float.

    Args:
        name: of the operator.
        dtypes: names of the dtypes of its activations.

    Returns:
        Two strings; the remedy may be empty.
    """
    if "bool" in dtypes:
        return "XNNPACK has no kernels for masks", ""
    if is_float(dtypes):
        return "it computes in float", "Give its layer a policy of integers, or a quantized form, see `keras_quant.layers`."
    if name in ("ADD", "GATHER") and "int32" in dtypes:
        return _TABLE
    if name == "QUANTIZE" and dtypes == {"int8", "int16"}:
        return _REASONS["SOFTMAX"]
    if name != "SOFTMAX" and any(dtype.startswith("int16") for dtype in dtypes):
        return "XNNPACK has no int16 kernels", "Use int8 activations for this layer."
    if name in _REASONS:
        return _REASONS[name]
    return "XNNPACK has no int8 kernel for it, or refuses its shape or its scales", ""


def is_float(dtypes):
    """Whether an operator with activations of these dtypes computes in float."""
    return any(dtype.startswith(("float", "bfloat")) for dtype in dtypes)
