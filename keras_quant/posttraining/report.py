"""What post-training methods have brought."""

import dataclasses
from typing import ClassVar

from rich.table import Table
from rich.text import Text

from keras_quant.tables import Printed, data_frame, decibels


@dataclasses.dataclass(frozen=True)
class MethodReport:
    """Attributes:
    name: of the method.
    before, after: dicts from the model's output names to the signal to quantization noise ratio in dB, on the data.
    layers: dict from paths of layers to `Change`.
    """

    name: str
    before: dict
    after: dict
    layers: dict

    @property
    def changed(self):
        """Number of layers that it changed."""
        return sum(not change.note for change in self.layers.values())


@dataclasses.dataclass(frozen=True, repr=False)
class RefineReport(Printed):
    """What `keras_quant.refine` finds. Printed, it is a table.

    Attributes:
        headings: dict from the headings of the table to whether numbers are below.
        model: name of the model.
        samples: number of samples of the data that were used.
        methods: `MethodReport`s in the order in which they were applied.
    """

    headings: ClassVar[dict] = {
        "method": False,
        "output": False,
        "before": True,
        "after": True,
        "layers changed": True,
        "layer gained most": False,
    }

    model: str
    samples: int
    methods: tuple

    def layers(self):
        """One dict for each layer and method: "method", "path", "before" and "after" (dB, at the layer's output), "note"."""
        return [
            {
                "method": method.name,
                "path": path,
                "before": decibels(1.0, c.before),
                "after": decibels(1.0, c.after),
                "note": c.note,
            }
            for method in self.methods
            for path, c in method.layers.items()
        ]

    def to_pandas(self):
        """`layers` as a `pandas.DataFrame`.

        Raises:
            ImportError: without pandas, with the command that installs it.
        """
        return data_frame(self.layers(), ["method", "path", "before", "after", "note"])

    def rows(self):
        """What is printed: a tuple of texts under `headings` for each method and output of the model."""
        for method in self.methods:
            for i, name in enumerate(method.before):
                own = (method.name, f"{method.changed} of {len(method.layers)}", _best(method)) if i == 0 else ("", "", "")
                yield own[0], name, f"{method.before[name]:.1f}", f"{method.after[name]:.1f}", *own[1:]

    def __rich__(self):
        title = f"{self.model}: signal to quantization noise in dB on {self.samples:,} samples"
        table = Table(title=Text(title), title_justify="left", title_style="bold")
        for heading, numeric in self.headings.items():
            table.add_column(heading, justify="right" if numeric else "left")
        for row in self.rows():
            table.add_row(*map(Text, row))
        return table


def _best(method):
    changed = {path: c for path, c in method.layers.items() if not c.note and c.before and c.after}
    gains = {path: decibels(1.0, c.after) - decibels(1.0, c.before) for path, c in changed.items()}
    if not gains:
        return ""
    path = max(gains, key=gains.get)
    return f"{path} ({gains[path]:+.1f})"
