"""The report of a model or a file: its layers, sorted, as a table, a data frame, a page."""

import dataclasses
import difflib
import pathlib
from typing import ClassVar

from keras_quant.errors import QuantizationError
from keras_quant.report.layer import BY_KEY, COLUMNS, MEASURED
from keras_quant.tables import Printed, data_frame
from keras_quant.tflite import ExportReport
from keras_quant.tflite.file import write_atomically


@dataclasses.dataclass(frozen=True, repr=False)
class ModelReport(Printed):
    """What `keras_quant.report` finds.

    Printed, it is a table (in color with `rich.print`).

    Attributes:
        name: of the model or file.
        layers: `LayerReport`s, in order of execution until `sort` changes it.
        exported: `ExportReport` of the file that the model becomes; `None` if it becomes none.
        float_bytes: of the weights in float32.
        samples: number of samples measured on; 0 without data.
        reference: what the accumulated error is measured against, in words.
        output_sqnr: dict from the model's output names to dB against the float model; empty without data.
        history: dict from layer paths to `RangeHistory`; empty without.
        notes: sentences about what could not be found out, and how to.
        refined: `RefineReport` of the post-training methods that were applied, or `None`.
    """

    # Room for every column.
    width: ClassVar[int] = 180

    name: str
    layers: tuple
    exported: ExportReport | None
    float_bytes: int
    samples: int = 0
    reference: str = ""
    output_sqnr: dict = dataclasses.field(default_factory=dict)
    history: dict = dataclasses.field(default_factory=dict)
    notes: tuple = ()
    refined: object = None

    @property
    def macs(self):
        """Multiply-accumulates for one sample, of the layers of which they are known."""
        return sum(layer.macs or 0 for layer in self.layers)

    @property
    def bytes(self):
        """Of the file; `None` without one."""
        return None if self.exported is None else self.exported.bytes

    @property
    def columns(self):
        """The `Column`s that have something to show: those that take data are left out without."""
        filled = lambda column: any(column.text(layer) for layer in self.layers)
        return tuple(c for c in COLUMNS if (self.samples or c.key not in MEASURED) and (filled(c) or not self.layers))

    def sort(self, by, descending=None):
        """The same report, its layers in another order.

        Args:
            by: key of a column: "index", "path", "kind", "policy", "output_shape", "parameters", "macs", "bytes", "range",
                "scale", "zero_point", "clipped", "local_sqnr", "sqnr", "runs_on".
            descending: whether the largest comes first; by default what costs or loses most does. Layers without a value
                come last.

        Returns:
            A new `ModelReport`.

        Raises:
            QuantizationError: for an unknown key, or one whose figures take data that was not given.
        """
        if by not in BY_KEY:
            near = difflib.get_close_matches(str(by), BY_KEY, 1, 0.0)[0]
            raise QuantizationError(
                f"A report is sorted by one of {list(BY_KEY)}. Did you mean '{near}'? Received: by={by!r}"
            )
        if by in MEASURED and not self.samples:
            raise QuantizationError(f"'{by}' is measured on data, and none was given. Pass `data`.")
        column = BY_KEY[by]
        known = [layer for layer in self.layers if column.value(layer) is not None]
        unknown = [layer for layer in self.layers if column.value(layer) is None]
        known.sort(key=column.value, reverse=column.descending if descending is None else descending)
        return dataclasses.replace(self, layers=(*known, *unknown))

    def to_pandas(self):
        """The layers as a `pandas.DataFrame`, a row each: all attributes of `LayerReport` but the histograms.

        Raises:
            ImportError: without pandas, with the command that installs it.
        """
        histograms = ("weights", "activations")
        names = [f.name for f in dataclasses.fields(self.layers[0]) if f.name not in histograms] if self.layers else []
        return data_frame([{name: getattr(layer, name) for name in names} for layer in self.layers], names)

    def save(self, path):
        """Write the report as one HTML page, which needs no network.

        Args:
            path: ends in `.html`. Written to a temporary file beside it and renamed.

        Raises:
            QuantizationError: for another suffix.
            ExportError: if the folder does not exist or cannot be written.
            ImportError: without Matplotlib, with the command that installs it.
        """
        if pathlib.Path(path).suffix.lower() not in (".html", ".htm"):
            raise QuantizationError(f"A report is written as `.html`. Received: path='{path}'")
        if not pathlib.Path(path).parent.is_dir():
            write_atomically(path, b"")  # says what is wrong, before the plots take their time
        try:
            from keras_quant.report.page import page
        except ImportError as error:
            raise ImportError("The report's plots need Matplotlib: pip install 'keras-quant[report]'") from error
        write_atomically(path, page(self).encode())

    def __rich__(self):
        from keras_quant.report.table import table

        return table(self)


@dataclasses.dataclass(frozen=True)
class RangeHistory:
    """A layer's range over training.

    Attributes:
        epochs: number of epochs done at each point; 0 is before the first.
        low, high: real range of its grid then.
    """

    epochs: tuple
    low: tuple
    high: tuple
