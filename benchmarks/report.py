"""One table on the screen, the same figures as JSON."""

import json
import pathlib
import sys

from rich.console import Console
from rich.table import Table

RESULTS = pathlib.Path(__file__).parent / "results"


def arguments(parser, name, peer=False):
    """The options that benchmarks share; `peer` adds those of the ones that measure tfmot, too."""
    parser.add_argument("--json", type=pathlib.Path, default=RESULTS / f"{name}.json", help="where the figures go")
    if peer:
        parser.add_argument("--tfmot", action="store_true", help="measure tfmot in the same run")
        parser.add_argument("--peer-python", help="interpreter that has tfmot and tf_keras; implies --tfmot")
    return parser


def peer(args):
    """The interpreter that runs tfmot, or `None`."""
    return args.peer_python or (sys.executable if args.tfmot else None)


def show(title, rows, path):
    """Print rows (dicts with the same keys) as a table and write them."""
    table = Table(title=title)
    for key in rows[0]:
        table.add_column(key, justify="left" if isinstance(rows[0][key], str) else "right")
    for row in rows:
        table.add_row(*(_text(value) for value in row.values()))
    Console(width=160).print(table)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"title": title, "rows": rows}, indent=2) + "\n")


def _text(value):
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
