"""A report as a Rich table."""

from rich.console import Group
from rich.table import Table
from rich.text import Text

from keras_quant.report.layer import compact, sqnr_text

# Shown on the page and in the data frame only: there is no room for them here, the last two beside what is measured.
LEFT_OUT, LEFT_OUT_IF_MEASURED = ("parameters",), ("parameters", "scale", "zero_point")

# Layers named in one line.
MOST_NAMES = 5


def table(report):
    """A Rich renderable: title, table, what runs off XNNPACK, notes."""
    shown = Table(title=Text("\n".join(headline(report))), title_justify="left", title_style="bold")
    left_out = LEFT_OUT_IF_MEASURED if report.samples else LEFT_OUT
    columns = [column for column in report.columns if column.key not in left_out]
    for column in columns:
        shown.add_column(column.heading, justify="right" if column.numeric else "left", overflow="fold")
    for layer in report.layers:
        shown.add_row(*(Text(column.text(layer)) for column in columns))
    refined = [] if report.refined is None else [report.refined]
    return Group(shown, *refined, *(Text(line) for line in (*off_xnnpack(report), *report.notes)))


def headline(report):
    """What the report says of the whole model, in a few lines."""
    lines = [f"{report.name}: {len(report.layers)} layers, {compact(report.macs)} MACs a sample"]
    if report.exported is not None:
        lines[0] += f", {report.bytes:,} bytes ({report.bytes / max(report.float_bytes, 1):.2f} of the float32 weights)"
        taken = len(report.exported.operators) - len(report.exported.off_xnnpack)
        pieces = report.exported.partitions
        lines.append(
            f"{taken} of {len(report.exported.operators)} operators on XNNPACK in {pieces} partition{'s' * (pieces != 1)}"
        )
    if report.samples:
        known = {name: sqnr for name, sqnr in report.output_sqnr.items() if sqnr is not None}
        outputs = ", ".join(f"{name} {sqnr_text(sqnr)}" for name, sqnr in known.items())
        lines.append(f"on {report.samples:,} samples, SQNR against {report.reference}: {outputs}")
    return lines


def off_xnnpack(report):
    """A line for each reason why operators are off XNNPACK, with the layers that they are of."""
    found = {}
    for layer in report.layers:
        if layer.reason:
            found.setdefault((layer.operators, layer.reason), []).append(layer.path)
    return [f"{_some(paths)} ({', '.join(operators)}): {reason}" for (operators, reason), paths in found.items()]


def _some(names):
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
