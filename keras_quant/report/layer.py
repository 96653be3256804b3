"""One layer's line in a report, and the columns that show it."""

import dataclasses
import math
from collections.abc import Callable

from keras_quant.report.histogram import Histogram


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """Attributes:
    index: place in the order of execution, from 0.
    path: of the layer, or of a part of a layer of several operators.
    kind: name of its class; of the operator, in the report of a file.
    policy: name of its policy, "" for an operation without.
    stored: type that its weights have in the file, "" without.
    input_shapes, output_shape: `None` for the batch.
    parameters: number of weights, ranges aside.
    macs: multiply-accumulates for one sample; `None` where they are not known.
    file_macs: those that its operators in the file compute: more where a kernel is filled up with zeros, or a function of
        one value is done by convolutions; `None` without a file.
    bytes: of its constants in the file; `None` without a file.
    low, high: real range of its grid, or, in float, of what it made of the data; `None` if not known.
    scale, zero_point: of its grid; `None` without one, or if its range was never set.
    clipped: share of its float values that lie beyond the grid.
    local_sqnr: signal to quantization noise ratio in dB of the layer alone, its input rounded onto its grid.
    sqnr: that of its output against the float model, with the noise of all layers before it.
    runs_on: "XNNPACK", "built-in kernel", or "" for a layer that is no operator of its own in the file.
    reason: why an operator of it is off XNNPACK, and what would mend it, if that is known.
    operators: names of its operators in the file.
    weights, activations: `Histogram`s over the integers, or `None`.
    """

    index: int
    path: str
    kind: str
    policy: str
    input_shapes: tuple
    output_shape: tuple
    parameters: int = 0
    macs: int | None = None
    file_macs: int | None = None
    bytes: int | None = None
    stored: str = ""
    low: float | None = None
    high: float | None = None
    scale: float | None = None
    zero_point: int | None = None
    clipped: float | None = None
    local_sqnr: float | None = None
    sqnr: float | None = None
    runs_on: str = ""
    reason: str = ""
    operators: tuple = ()
    weights: Histogram | None = None
    activations: Histogram | None = None


@dataclasses.dataclass(frozen=True)
class Column:
    """Attributes:
    key: what `sort` and the data frame call it.
    heading: in tables.
    meaning: one sentence.
    value: function of a `LayerReport`: what is sorted by; `None` where there is nothing.
    text: function of a `LayerReport`: what is shown; `""` where there is nothing.
    descending: whether sorting puts the largest first.
    numeric: whether it is aligned right.
    """

    key: str
    heading: str
    meaning: str
    value: Callable
    text: Callable
    descending: bool = False
    numeric: bool = False


def shape_text(shape):
    return "×".join("?" if size is None else str(size) for size in shape)


def compact(number):
    """An integer with a unit: 300,774,272 is "301 M"."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= 0.9995 * size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def share_text(share):
    """A share as a percentage, in which a few are not none."""
    if 0 < share < 1e-5:
        return "< 0.001 %"
    return f"{100 * share:.{0 if share == 0 else 3 if share < 0.1 else 1}f} %"


def decibel_text(sqnr):
    return "exact" if sqnr == math.inf else "none" if sqnr == -math.inf else f"{sqnr:.1f}"


def sqnr_text(sqnr):
    """As `decibel_text`, with the unit where there is a number."""
    return f"{decibel_text(sqnr)} dB" if math.isfinite(sqnr) else decibel_text(sqnr)


def range_text(layer):
    if layer.low is None:
        return "not set" if layer.kind.startswith("Quant") else ""
    return f"{layer.low:.4g} … {layer.high:.4g}"


def _attribute(key, heading, meaning, text=str, **options):
    value = lambda layer: getattr(layer, key)
    return Column(key, heading, meaning, value, lambda layer: "" if value(layer) is None else text(value(layer)), **options)


def policy_text(layer):
    """The policy, and where kernels take no narrower type the one that its weights have in the file."""
    narrow = layer.policy == "int4" or layer.policy.startswith(
        ("w2", "w3", "w4", "dynamic_int2", "dynamic_int3", "dynamic_int4")
    )
    return f"{layer.policy}, a byte each" if narrow and layer.stored == "int8" else layer.policy


_MOST, _LEAST = {"descending": True, "numeric": True}, {"numeric": True}
COLUMNS = (
    _attribute("index", "#", "place in the order of execution", **_LEAST),
    _attribute("path", "layer", "path of the layer"),
    _attribute("kind", "class", "class of the layer, or operator of the file"),
    Column("policy", "policy", "precision", lambda layer: layer.policy, policy_text),
    Column(
        "output_shape",
        "output",
        "shape of the output",
        lambda layer: math.prod(size or 1 for size in layer.output_shape),
        lambda layer: shape_text(layer.output_shape),
        descending=True,
    ),
    Column(
        "macs",
        "MACs",
        "multiply-accumulates for one sample",
        lambda layer: layer.macs,
        lambda layer: "?" if layer.macs is None else compact(layer.macs),
        **_MOST,
    ),
    _attribute("bytes", "bytes", "constants in the file", lambda n: f"{n:,}", **_MOST),
    Column(
        "range",
        "range",
        "real values that the grid reaches",
        lambda layer: None if layer.low is None else layer.high - layer.low,
        range_text,
        descending=True,
        numeric=True,
    ),
    _attribute("clipped", "clipped", "share of the float values beyond the grid", share_text, **_MOST),
    _attribute("local_sqnr", "SQNR alone", "dB of the layer alone, on float inputs", decibel_text, **_LEAST),
    _attribute("sqnr", "SQNR", "dB against the float model, noise of the layers before included", decibel_text,
               **_LEAST),
    Column(
        "runs_on",
        "runs on",
        "XNNPACK, or a built-in kernel",
        lambda layer: layer.runs_on or None,
        lambda layer: layer.runs_on,
    ),
    _attribute("scale", "scale", "step of the grid", lambda scale: f"{scale:.4g}", **_MOST),
    _attribute("zero_point", "zero point", "integer that stands for 0", **_MOST),
    _attribute("parameters", "weights", "number of weights", lambda n: f"{n:,}", **_MOST),
)  # fmt: skip
BY_KEY = {column.key: column for column in COLUMNS}
# What takes data to know.
MEASURED = ("clipped", "local_sqnr", "sqnr")
