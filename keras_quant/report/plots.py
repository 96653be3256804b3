"""The page's plots, as SVG whose colors the page's style sheet gives."""

import contextlib
import html
import io
import re

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from keras_quant.report.layer import compact, share_text, sqnr_text

# Stand-ins for the style sheet's variables: Matplotlib wants colors, which light and dark pages have different ones of.
INK, MUTED, LINE = "#010101", "#020202", "#030303"
FIRST, SECOND, PAPER = "#040404", "#050505", "#060606"
_VARIABLES = {PAPER: "--paper", INK: "--ink", MUTED: "--muted", LINE: "--line", FIRST: "--first", SECOND: "--second"}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "keras_quant",
    "text.parse_math": False,  # a layer's name may hold any character
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
}
# Bars with names, before the others are one bar; lines in one plot.
MOST_BARS, MOST_LINES = 20, 8
# Opacity says how many values an integer has: this blue is seen on white and on black.
_DENSITY = LinearSegmentedColormap.from_list("density", [(0.23, 0.52, 0.93, 0.0), (0.23, 0.52, 0.93, 1.0)])
# Decibels at which an exact layer is drawn: there is no infinity to draw.
_HEADROOM = 5


@contextlib.contextmanager
def style():
    """The look of the plots; all are drawn inside."""
    with matplotlib.rc_context(_STYLE):
        yield


def svg(figure, label):
    """A figure as an `<svg>` element, for screen readers called `label`."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawn = text.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r'<g id="[\w.]+_\d+">', "<g>", drawn)  # the page has many plots, whose names would be the same
    drawn = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\.\d\d)\d+", r"\1", tag.group()), drawn)  # coordinates
    for color, variable in _VARIABLES.items():
        drawn = drawn.replace(color, f"var({variable})")
    drawn = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", drawn)
    name = html.escape(label, quote=True)
    head = rf'<svg xmlns:xlink="http://www.w3.org/1999/xlink" role="img" aria-label="{name}" viewBox='
    return head + re.sub(r"<svg [^>]*?viewBox=(\"[^\"]+\")[^>]*>", r"\1>", drawn, count=1)


def _figure(width, height):
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _number_layers(axis):
    axis.get_major_locator().set_params(integer=True)
    axis.set_label_text("layer, in the order of execution")


def bytes_by_layer(report):
    """Horizontal bars of the largest layers, and one for all others; `None` without a file."""
    layers = sorted((layer for layer in report.layers if layer.bytes), key=lambda layer: -layer.bytes)
    if not layers:
        return None
    bars = [(layer.path, layer.bytes) for layer in layers[:MOST_BARS]]
    others = layers[MOST_BARS:]
    bars += [(f"{len(others)} others", sum(layer.bytes for layer in others))] if others else []
    figure, axes = _figure(6.4, 0.9 + 0.24 * len(bars))
    rows = np.arange(len(bars))
    names, sizes = zip(*bars)
    unit, divisor, digits = ("kB", 1000, 1) if max(sizes) >= 10_000 else ("bytes", 1, 0)
    sizes = np.array(sizes) / divisor
    axes.barh(rows, sizes, 0.7, color=[FIRST] * min(len(layers), MOST_BARS) + [MUTED] * bool(others))
    for row, size in zip(rows, sizes):
        axes.annotate(f"{size:,.{digits}f}", (size, row), (4, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(rows, [shortened(name) for name in names])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.12, y=0.01)
    axes.set(xlabel=f"constants in the file ({unit})")
    return svg(figure, "Bytes by layer")


def shortened(name, most=34):
    """A name that fits beside a plot: its end says more than its beginning."""
    return name if len(name) <= most else "…" + name[1 - most :]


def errors_by_layer(report):
    """SQNR over the order of execution; `None` without data."""
    layers = [layer for layer in in_order(report) if layer.sqnr is not None or layer.local_sqnr is not None]
    figures = [value for layer in layers for value in (layer.sqnr, layer.local_sqnr) if value is not None]
    finite = [value for value in figures if np.isfinite(value)]
    if not finite:
        return None
    figure, axes = _figure(6.4, 3.4)
    top, bottom = max(finite) + _HEADROOM, min(finite)
    for key, color, marker, label in (
        ("local_sqnr", FIRST, "o", "the layer alone, on float inputs"),
        ("sqnr", SECOND, ".", "at its output, noise of the layers before it included"),
    ):
        points = [(layer.index, getattr(layer, key)) for layer in layers if getattr(layer, key) is not None]
        if points:
            x, y = zip(*points)
            line = "-" if key == "sqnr" else "none"
            y = np.clip(y, bottom, top)
            axes.plot(x, y, linestyle=line, marker=marker, markersize=4, linewidth=1, color=color, label=label)
    _name_lowest(axes, layers, top)
    _number_layers(axes.xaxis)
    axes.set(ylabel="SQNR (dB)")
    axes.margins(x=0.02)
    axes.set_ylim(bottom - 0.12 * (top - bottom), top + 2)
    if top - _HEADROOM < max(figures):
        axes.axhline(top, color=MUTED, linewidth=0.8, linestyle=":")
        axes.annotate("exact", (0, top), (2, -10), textcoords="offset points", color=MUTED, fontsize=9)
    figure.legend(loc="outside upper left", ncols=1)
    return svg(figure, "Error by layer")


def _name_lowest(axes, layers, top, count=3):
    known = sorted((layer for layer in layers if layer.local_sqnr is not None), key=lambda layer: layer.local_sqnr)
    last = max(layer.index for layer in layers)
    for rank, layer in enumerate(known[:count]):
        place = (layer.index, min(layer.local_sqnr, top))
        right = layer.index > 0.6 * last
        text = f"{shortened(layer.path, 24)} {sqnr_text(layer.local_sqnr)}"
        # Above and below in turn: the noisiest layers are often neighbours.
        axes.annotate(text, place, (-5 if right else 5, 3 if rank % 2 else -3), **_label(right, above=bool(rank % 2)))


def _label(right, above=False):
    """The look of a text beside a point, to its left where it is far to the right."""
    box = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 0.5}
    place = {"va": "bottom" if above else "top", "ha": "right" if right else "left"}
    return {"textcoords": "offset points", "fontsize": 8, "bbox": box, **place}


def clipped_by_layer(report):
    """Share of clipped values over the order of execution; `None` without data."""
    layers = [layer for layer in in_order(report) if layer.clipped is not None]
    if not layers:
        return None
    figure, axes = _figure(6.4, 2.6)
    share = [100 * layer.clipped for layer in layers]
    axes.bar([layer.index for layer in layers], share, 0.8, color=SECOND)
    worst = max(layers, key=lambda layer: layer.clipped)
    if worst.clipped:
        right = worst.index > 0.6 * layers[-1].index
        text = f"{shortened(worst.path, 24)} {share_text(worst.clipped)}"
        axes.annotate(text, (worst.index, 100 * worst.clipped), (-6 if right else 6, 0), **_label(right))
    _number_layers(axes.xaxis)
    axes.set(ylabel="clipped values (%)")
    axes.set_ylim(0, max(*share, 1e-3) * 1.1)
    axes.margins(x=0.02)
    return svg(figure, "Clipped values by layer")


def use_of_grids(report):
    """Which share of each grid the activations use, an image of a row a layer; `None` without data."""
    layers = [layer for layer in in_order(report) if layer.activations is not None]
    if not layers:
        return None
    columns = 256
    image = np.zeros((max(layer.index for layer in report.layers) + 1, columns))
    for layer in layers:
        counts = layer.activations.counts
        share = np.repeat(counts / counts.max(), -(-columns // len(counts)))[:columns]
        image[layer.index] = np.log10(np.maximum(share, 1e-6)) / 6 + 1
    figure, axes = _figure(6.4, float(np.clip(0.9 + 0.07 * len(image), 2.6, 8)))
    axes.imshow(
        image, _DENSITY, aspect="auto", vmin=0, vmax=1, interpolation="nearest", extent=(0, 100, len(image) - 0.5, -0.5)
    )
    axes.grid(visible=False)
    _number_layers(axes.yaxis)
    axes.set(xlabel="place on the grid (% of its levels)")
    return svg(figure, "Activations over their grids")


def ranges_over_training(report):
    """How much the ranges that moved most moved, as lines; `None` without a history."""
    histories = {path: history for path, history in report.history.items() if len(history.epochs) > 1}
    if not histories:
        return None
    widths = {path: np.subtract(history.high, history.low) for path, history in histories.items()}
    known = {path: (histories[path].epochs, width / width[0]) for path, width in widths.items()}
    moved = sorted(known, key=lambda path: -np.abs(np.log(known[path][1])).max())
    figure, axes = _figure(6.4, 3.4)
    for path in moved[MOST_LINES:]:
        axes.plot(*known[path], color=MUTED, linewidth=0.6, alpha=0.4)
    for rank, path in enumerate(moved[:MOST_LINES]):
        shade = 1 - 0.5 * (rank // 2) / max(MOST_LINES // 2 - 1, 1)
        color = FIRST if rank % 2 else SECOND
        dashes = ("-", "--", "-.", ":")[rank // 2 % 4]
        axes.plot(*known[path], dashes, marker=".", color=color, alpha=shade, label=shortened(path, 30))
    axes.set(xlabel="epochs done", ylabel="width of the range,\nshare of its first")
    axes.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(loc="outside upper left", ncols=2)
    return svg(figure, "Ranges over training")


def in_order(report):
    """The layers in the order of execution, whatever they are sorted by."""
    return sorted(report.layers, key=lambda layer: layer.index)


def weights_of(layer):
    """The histogram of a layer's integer weights; `None` without."""
    if layer.weights is None:
        return None
    title = f"weights: {int(layer.weights.counts.sum()):,}, on {layer.weights.used} of {len(layer.weights.counts)} levels"
    return _histogram(layer.weights, title, "integer weight", FIRST, f"Weights of {layer.path}")


def activations_of(layer):
    """The histogram of a layer's integer activations; `None` without data."""
    if layer.activations is None:
        return None
    held = layer.activations
    title = f"activations: {held.used} of {len(held.counts)} levels" + (
        f" of {held.width} integers" if held.width > 1 else ""
    )
    title += f", {share_text(layer.clipped)} clipped"
    sign = "+" if layer.zero_point < 0 else "-"
    shift = f"(q {sign} {abs(layer.zero_point)})" if layer.zero_point else "q"
    label = f"integer q; value = {layer.scale:.4g} × {shift}"
    return _histogram(held, title, label, SECOND, f"Activations of {layer.path}")


def _small_figure():
    """With margins given: to find them takes as long as to draw, and there is one for each layer."""
    figure = Figure(figsize=(4.4, 2.3))
    return figure, figure.add_axes((0.14, 0.21, 0.83, 0.66))


def _histogram(histogram, title, label, color, name):
    figure, axes = _small_figure()
    # A count of none is drawn as half a value: a logarithm has no zero.
    axes.stairs(np.maximum(histogram.counts, 0.5), histogram.edges, baseline=0.5, fill=True, color=color)
    axes.set_yscale("log", subs=[])
    axes.yaxis.set_major_formatter(lambda value, place: compact(round(value)))
    axes.set_ylim(0.5, max(histogram.counts.max(), 1) * 2)
    axes.set_xlim(histogram.edges[0], histogram.edges[-1])
    axes.set_title(title, fontsize=9, y=1.03)
    axes.set(xlabel=label, ylabel="values (log)")
    return svg(figure, name)


def range_of(layer, history):
    """A layer's range over training; `None` without a history of it."""
    if history is None or len(history.epochs) < 2:
        return None
    figure, axes = _small_figure()
    axes.fill_between(history.epochs, history.low, history.high, color=FIRST, alpha=0.2, linewidth=0)
    for bound in (history.low, history.high):
        axes.plot(history.epochs, bound, marker=".", color=FIRST, linewidth=1)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_title("range over training", fontsize=9, y=1.03)
    axes.set(xlabel="epochs done", ylabel="real value")
    return svg(figure, f"Range of {layer.path} over training")
