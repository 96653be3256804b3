"""A report as one HTML page that needs no network: table, plots, style and script inside."""

import importlib.metadata
import math
import pathlib
import string
from html import escape

from keras_quant.report import plots
from keras_quant.report.layer import compact, shape_text, share_text, sqnr_text
from keras_quant.report.table import off_xnnpack

FOLDER = pathlib.Path(__file__).parent
WORST, OPEN = 5, 3


def page(report):
    """The page.

    Args:
        report: `ModelReport`.

    Returns:
        Text of the HTML file.
    """
    part = lambda suffix: FOLDER.joinpath(f"page.{suffix}").read_text(encoding="utf-8").rstrip()
    with plots.style():
        return string.Template(part("html")).substitute(
            version=escape(importlib.metadata.version("keras-quant")),
            title=escape(report.name),
            measured=f", measured on {report.samples:,} samples" if report.samples else "",
            tiles="\n".join(f"<div><dt>{escape(name)}</dt><dd>{value}</dd></div>" for name, value in _tiles(report)),
            notes=_notes(report),
            worst=_worst(report),
            refined=_refined(report.refined),
            figures="\n".join(_figures(report)),
            head="\n".join(map(_head, report.columns)),
            rows="\n".join(_row(layer, report.columns) for layer in report.layers),
            details="\n".join(_details(report)),
            style=part("css"),
            script=part("js"),
        )


def _tiles(report):
    small = lambda text: f"<small>{escape(text)}</small>"
    yield "layers", f"{len(report.layers)}"
    yield "MACs", f"{compact(report.macs)}{small('for one sample')}"
    yield "weights in float32", f"{report.float_bytes:,}{small('bytes')}"
    if report.exported is not None:
        ratio = report.bytes / max(report.float_bytes, 1)
        yield "file", f"{report.bytes:,}{small(f'bytes, {ratio:.2f} of the float32 weights')}"
        taken = len(report.exported.operators) - len(report.exported.off_xnnpack)
        pieces = f"operators, in {report.exported.partitions} partition{'s' * (report.exported.partitions != 1)}"
        yield "on XNNPACK", f"{taken} of {len(report.exported.operators)}{small(pieces)}"
    for name, sqnr in report.output_sqnr.items():
        if sqnr is not None:
            yield f"SQNR of {name}", f"{sqnr_text(sqnr)}{small(f'against {report.reference}')}"


def _notes(report):
    lines = [*off_xnnpack(report), *report.notes]
    return f'<ul class="notes">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>' if lines else ""


def _worst(report):
    """The layers to look at first, by each measure that is there."""
    lists = (
        ("Lowest SQNR, alone", "local_sqnr", False, sqnr_text, math.inf),
        ("Most clipped values", "clipped", True, share_text, 0),
        ("Most bytes", "bytes", True, lambda v: f"{v:,}", 0),
        ("Most multiply-accumulates", "macs", True, compact, 0),
    )
    parts = []
    for heading, key, descending, text, good in lists:
        known = [layer for layer in report.layers if getattr(layer, key) not in (None, good)]
        known.sort(key=lambda layer: getattr(layer, key), reverse=descending)
        items = "".join(f"<li>{_link(layer)} <b>{escape(text(getattr(layer, key)))}</b></li>" for layer in known[:WORST])
        parts.append(f"<div><h3>{heading}</h3><ol>{items}</ol></div>" if items else "")
    return f'<div class="worst">{"".join(parts)}</div>'


def _refined(refined):
    """A section with the table of `RefineReport`, or nothing."""
    if refined is None:
        return ""
    align = {heading: ' class="number"' * numeric for heading, numeric in refined.headings.items()}
    heads = "".join(f'<th scope="col"{align[heading]}>{heading}</th>' for heading in align)
    cells = lambda row: "".join(f"<td{align[heading]}>{escape(text)}</td>" for heading, text in zip(align, row))
    rows = "\n".join(f"<tr>{cells(row)}</tr>" for row in refined.rows())
    return (
        '<section aria-label="Post-training methods">\n<h2>Post-training methods</h2>\n'
        f"<p>Signal to quantization noise of the outputs in dB before and after each, on {refined.samples:,} samples.</p>\n"
        f'<div class="wide">\n<table id="methods">\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n'
        "</table>\n</div>\n</section>"
    )


def _link(layer):
    return f'<a href="#layer-{layer.index}">{escape(layer.path)}</a>'


def _figures(report):
    drawn = (
        ("Error by layer", "Signal to quantization noise ratio: higher is better.", plots.errors_by_layer),
        ("Bytes by layer", "Constants that the file holds: weights, biases, tables.", plots.bytes_by_layer),
        ("Clipped values by layer", "Share of the float values that lie beyond the grid.", plots.clipped_by_layer),
        (
            "Activations over their grids",
            "Where the exact integers lie, a row a layer: the stronger the blue, the more values (logarithmic).",
            plots.use_of_grids,
        ),
        ("Ranges over training", "The ranges that moved most.", plots.ranges_over_training),
    )
    for title, meaning, draw in drawn:
        plot = draw(report)
        if plot is not None:
            caption = f"<figcaption><strong>{title}</strong><p>{meaning}</p></figcaption>"
            yield f'<figure>{caption}<div class="plot">{plot}</div></figure>'


def _head(column):
    first = "descending" if column.descending else "ascending"
    kind = "text" if column.key in ("path", "kind", "policy", "runs_on") else "number"
    align = ' class="number"' if column.numeric else ""
    button = f'<button type="button" title="{escape(column.meaning)}">{escape(column.heading)}</button>'
    return f'<th scope="col" data-key="{column.key}" data-type="{kind}" data-first="{first}"{align}>{button}</th>'


def _row(layer, columns):
    cells = []
    for column in columns:
        value, text = column.value(layer), escape(column.text(layer))
        held = "" if value is None else f' data-value="{escape(_value(value))}"'
        classes = ["number"] * column.numeric + ["off"] * (column.key == "runs_on" and bool(layer.reason))
        kind = f' class="{" ".join(classes)}"' if classes else ""
        cells.append(f"<td{kind}{held}>{_link(layer) if column.key == 'path' else text}</td>")
    return f'<tr data-text="{_searched(layer)}">{"".join(cells)}</tr>'


def _value(value):
    """A number as JavaScript reads it."""
    return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, repr(value)) if isinstance(value, float) else str(value)


def _searched(layer):
    return escape(f"{layer.path} {layer.kind} {layer.policy}".lower())


def _details(report):
    """Each layer's histograms, folded up; those of the worst layers open."""
    noisy = [layer for layer in report.layers if layer.local_sqnr not in (None, math.inf)]
    worst = {layer.index for layer in sorted(noisy, key=lambda layer: layer.local_sqnr)[:OPEN]}
    for layer in plots.in_order(report):
        history = report.history.get(layer.path)
        drawn = [plots.weights_of(layer), plots.activations_of(layer), plots.range_of(layer, history)]
        shown = "".join(f'<div class="plot">{plot}</div>' for plot in drawn if plot is not None)
        is_open = " open" if layer.index in worst else ""
        yield (
            f'<details class="layer" id="layer-{layer.index}" data-text="{_searched(layer)}"{is_open}>'
            f"<summary>{escape(layer.path)} <span>{escape(_facts(layer))}</span></summary>"
            f'<p class="sub">{escape(_more(layer))}</p><div class="plots">{shown}</div></details>'
        )


def _facts(layer):
    facts = [layer.kind, layer.policy, shape_text(layer.output_shape)]
    facts += [f"{compact(layer.macs)} MACs"] if layer.macs else []
    facts += [f"{layer.bytes:,} bytes"] if layer.bytes else []
    facts += [f"{sqnr_text(layer.local_sqnr)} alone"] if layer.local_sqnr is not None else []
    return ", ".join(fact for fact in facts if fact)


def _more(layer):
    reads = " and ".join(map(shape_text, layer.input_shapes))
    operators = f"; {', '.join(layer.operators)} on {layer.runs_on}" if layer.operators else "; no operator of its own"
    reason = f": {layer.reason}" if layer.reason else ""
    more = f"; {compact(layer.file_macs)} MACs there" if layer.file_macs not in (None, layer.macs) else ""
    return f"reads {reads}{operators}{more}{reason}"
