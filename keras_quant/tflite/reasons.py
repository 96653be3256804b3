"""Why an operator is not on XNNPACK, or not integer, and which change to the model would mend it."""

# What is left to say of an operator of another file.
UNKNOWN = "XNNPACK has no int8 kernel for it, or refuses its shape or its scales"
_FUNCTIONS = "relu, leaky_relu, elu, hard_sigmoid, hard_silu, sigmoid, silu or tanh"
_OF_A_FUNCTION = {"CAST", "ADD", "GATHER"}
_FUNCTION = (
    "a function of many values by a table, which XNNPACK has for int8 only as ELU, LOGISTIC and TANH",
    f"As an activation use {_FUNCTIONS}; for a normalization use BatchNormalization.",
)
_ROWS = ("it picks rows of a table, for which XNNPACK has no kernel", "")
_FOUR_BITS = ("XNNPACK unpacks no rows of 4 bits", "Those of a table of 8 bits are not packed.")
_SEAM = ("integers and real numbers meet here", "")
_MOVED = ("it moves real numbers", "")
_EXACT = ("a step of an integer layer that is exact in float", "")
_FLOAT = ("it computes in float", "Give its layer a policy of integers, or a quantized form, see `keras_quant.layers`.")
_MOVES = {"CONCATENATION", "PAD", "RESHAPE", "SLICE", "STRIDED_SLICE", "TRANSPOSE"}
# Of no type at all.
_LOOP = ("it repeats what is inside of it, of which XNNPACK takes the operators that it has kernels for", "")
# Of what a loop does beside the operators of its layers.
OF_LOOP = ("it finds a step's place in a sequence", "")
_NOT_THERE = {"ARG_MAX", "ARG_MIN", "CUMSUM", "MIRROR_PAD", "ONE_HOT", "REVERSE_V2", "TOPK_V2"}
_REASONS = {
    "SOFTMAX": ("XNNPACK's SOFTMAX is float", "At the end of the model leave it out and take the largest logit."),
    "GELU": ("XNNPACK's GELU is float", f"Use {_FUNCTIONS}."),
    "CAST": _FUNCTION,
    "GATHER": ("XNNPACK has none", "Take runs of neighbouring elements, or along another axis than the last."),
    "AVERAGE_POOL_2D": ("XNNPACK's AVERAGE_POOL_2D is float", "Export with keras_quant, which lowers it otherwise."),
    "RELU": ("XNNPACK's RELU is float", "Export with keras_quant, which lowers it to QUANTIZE or fuses it."),
    "RELU6": ("XNNPACK's RELU6 is float", "Export with keras_quant, which lowers it to QUANTIZE or fuses it."),
    "HARD_SWISH": ("XNNPACK's HARD_SWISH is float", "Export with keras_quant, which lowers it otherwise."),
    "RESIZE_NEAREST_NEIGHBOR": ("XNNPACK has none", "Use a whole factor, or bilinear interpolation."),
}


def explain(name, dtypes, shape=(), beside=(), of_integers=False):
    """The reason and the remedy for an operator that XNNPACK leaves, or that computes in float.

    Args:
        name: of the operator.
        dtypes: names of the dtypes of its activations.
        shape: of its first operand.
        beside: names of all operators of its layer.
        of_integers: whether its layer is one of integers.

    Returns:
        Two strings; the remedy may be empty.
    """
    if name == "WHILE":
        return _LOOP
    whole = not dtypes.isdisjoint({"int32", "int64"})
    if name == "GATHER" and whole and len(shape) > 1:
        return _ROWS
    if name in _OF_A_FUNCTION and whole and _OF_A_FUNCTION <= set(beside):
        return _FUNCTION
    if name in _NOT_THERE:
        return f"XNNPACK has no {name}", ""
    if "bool" in dtypes:
        return "XNNPACK has no kernels for masks", ""
    if is_float(dtypes):
        return _of_float(name, dtypes, beside, of_integers)
    if whole:
        return "XNNPACK has no kernels for ids and other whole numbers", ""
    if name == "QUANTIZE" and dtypes == {"int8", "int16"}:
        return _REASONS["SOFTMAX"]
    if name != "SOFTMAX" and any(dtype.startswith("int16") for dtype in dtypes):
        return "XNNPACK has no int16 kernels", "Use int8 activations for this layer."
    return _REASONS.get(name, (UNKNOWN, ""))


def _of_float(name, dtypes, beside, of_integers):
    if "int4" in dtypes:
        return _FOUR_BITS
    if of_integers and len(beside) > 1:
        return _EXACT
    if name in ("QUANTIZE", "DEQUANTIZE"):
        return _SEAM
    return _MOVED if name in _MOVES else _FLOAT


def is_float(dtypes):
    """Whether an operator with activations of these dtypes computes in float."""
    return any(dtype.startswith(("float", "bfloat")) for dtype in dtypes)
