"""What reports have in common: printed they are Rich tables, they become data frames, and count noise in decibels."""

import io
import math


class Printed:
    """Base of what `print` shows as Rich does; a subclass gives `__rich__` and, in characters, its `width`."""

    width = 120

    def __str__(self):
        from rich.console import Console

        console = Console(file=io.StringIO(), width=self.width, highlight=False, markup=False)
        console.print(self)
        return console.file.getvalue().rstrip()

    __repr__ = __str__


def data_frame(rows, columns):
    """Rows as a `pandas.DataFrame`.

    Args:
        rows: list of dicts.
        columns: list of their keys.

    Raises:
        ImportError: without pandas, with the command that installs it.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError("A data frame takes pandas: pip install 'keras-quant[report]'") from error
    return pandas.DataFrame(rows, columns=columns)


def decibels(signal, noise):
    """`10·log10(signal / noise)` of two sums of squares; infinite where there is no noise."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
