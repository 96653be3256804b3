"""The demo's picture: what int8 does to the activations of each layer."""

import dataclasses
import pathlib

import numpy as np
from keras import ops
from matplotlib.figure import Figure

from keras_quant.graph import trace

GRID, SEEN, ERROR = "#cfd8e3", "#1f5f99", "#c8632b"
# The share of values that a bar shows; a line goes on to the extremes.
SHARE = 0.999


@dataclasses.dataclass(frozen=True)
class LayerError:
    """Attributes:
    path: of the layer.
    grid: lowest and highest value that its int8 grid holds.
    extremes: lowest and highest value that it makes in float.
    most: between which values `SHARE` of them lie, as many below as above.
    sqnr: signal to quantization noise ratio of its exact integers against float, in dB.
    """

    path: str
    grid: tuple
    extremes: tuple
    most: tuple
    sqnr: float


def layer_errors(qmodel, x):
    """Run a quantized model in float and on its integers.

    Args:
        qmodel: quantized `keras.Model` with one input.
        x: its input.

    Returns:
        `LayerError`s in order of execution. Noise accumulates: each layer reads what the layers before it made.
    """
    graph = trace(qmodel)
    inputs = [ops.convert_to_tensor(x)]
    exact = graph.run(inputs, lambda node, args, kwargs: node.operation.main_call(*args, training=False))
    wanted = graph.run(inputs, lambda node, args, kwargs: node.operation.float_call(*args))
    return [_error(node, *(ops.convert_to_numpy(run[node.output]) for run in (exact, wanted))) for node in graph.nodes]


def _error(node, exact, wanted):
    y = node.output.note.quantizer.params()
    low, high, scale = (float(ops.convert_to_numpy(v)) for v in (y.low, y.high, y.scale))
    exact, wanted = exact.astype(np.float64), wanted.astype(np.float64)
    noise = np.sum((exact - wanted) ** 2)
    sqnr = 10 * np.log10(np.sum(wanted**2) / noise) if noise else np.inf
    most = np.quantile(wanted, [(1 - SHARE) / 2, (1 + SHARE) / 2])
    return LayerError(node.path, (low * scale, high * scale), (wanted.min(), wanted.max()), tuple(most), sqnr)


def draw(qmodel, x, path):
    """Write the picture.

    Args:
        qmodel: quantized `keras.Model` with one input.
        x: inputs that it was not trained on.
        path: of the `.png`.
    """
    layers = layer_errors(qmodel, x)
    figure = Figure(figsize=(10, 1.6 + 0.36 * len(layers)), layout="constrained")
    ranges, errors = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    rows = np.arange(len(layers))
    _draw_ranges(ranges, rows, layers)
    _draw_errors(errors, rows, layers)
    ranges.set_yticks(rows, [layer.path for layer in layers])
    ranges.invert_yaxis()
    figure.suptitle(f"Model '{qmodel.name}' in int8, on {len(x):,} samples it was not trained on")
    figure.savefig(pathlib.Path(path), dpi=150)


def _draw_ranges(axes, rows, layers):
    def bars(spans, height, **style):
        low, high = np.transpose(spans)
        return axes.barh(rows, high - low, height, left=low, **style)

    grid = bars([layer.grid for layer in layers], 0.72, color=GRID, label="the int8 grid")
    most = bars([layer.most for layer in layers], 0.32, color=SEEN, label=f"{SHARE:.1%} of the float values")
    extremes = np.transpose([layer.extremes for layer in layers])
    lines = axes.hlines(rows, *extremes, color=SEEN, linewidth=1.5, label="all float values")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(title="Range of activations", xlabel="real value")
    axes.margins(x=0.03)
    _tidy(axes)
    axes.legend(handles=[grid, most, lines], loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, frameon=False)


def _draw_errors(axes, rows, layers):
    for row, layer in zip(rows, layers):
        noisy = np.isfinite(layer.sqnr)
        length, label = (layer.sqnr, f"{layer.sqnr:.1f}") if noisy else (0, "exact")
        axes.barh(row, length, 0.5, color=ERROR)
        axes.annotate(label, (length, row), (4, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set(title="Exact int8 result against float", xlabel="signal to quantization noise (dB)")
    axes.margins(x=0.12)
    _tidy(axes)


def _tidy(axes):
    axes.grid(axis="x", color="#e6e6e6")
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
