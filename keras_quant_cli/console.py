"""Where tables are printed."""

import sys

from rich.console import Console

# Wide enough for every table where no terminal sets the width: in a file or a pipe.
WIDTH = 180


def console():
    """A Rich console on standard output."""
    return Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False, markup=False)
