"""The callback: what becomes of ranges, weights and errors while a quantized model trains."""

import pathlib
import warnings

import keras
from keras import ops, tree

from keras_quant import backend
from keras_quant.calibrate import check_ranges
from keras_quant.data import input_batches
from keras_quant.errors import CalibrationError, QuantizationError
from keras_quant.graph import trace
from keras_quant.graph.loops import everywhere
from keras_quant.layers import is_quantized
from keras_quant.report.histogram import weight_histogram
from keras_quant.report.measure import measure
from keras_quant.report.model import RangeHistory

# Infinity is no number that TensorBoard draws; int16 layers reach some 100 dB.
EXACT = 200.0


class QuantizationSummary(keras.callbacks.Callback):
    """Follow the quantization through `fit`: TensorBoard summaries after each epoch, and the ranges for `report`.

        summary = kq.callbacks.QuantizationSummary("logs", data=x_val[:32])
        qmodel.fit(x, y, epochs=2, callbacks=[summary])
        kq.report(qmodel, x_val[:32], history=summary).save("report.html")

    In TensorBoard the layers are side by side under `range_low/`, `range_high/`, `scale/`, `weights/` and, with `data`,
    `clipped/` (a share), `sqnr_alone/` and `sqnr/` (dB, exact ones as 200) and `activations/`; histograms have one bin an
    integer. The step is the epoch, as in `keras.callbacks.TensorBoard`.

    Args:
        log_dir: folder of the TensorBoard log; the event file goes to its subfolder `quantization`. `None` writes none, and
            only keeps the `history`.
        data: model inputs to measure errors and clipped values on, whatever `fit` takes but a generator, which could be
            read only once; labels are ignored. Some 32 samples are enough: they take as long as a few batches of training.
        steps: number of batches of `data` to use; all by default.
        histogram_freq: epochs from one histogram to the next; 0 for none.

    Attributes:
        history: dict from layer paths to `RangeHistory`, of the latest `fit`.
    """

    def __init__(self, log_dir=None, data=None, steps=None, histogram_freq=1):
        super().__init__()
        if type(histogram_freq) is not int or histogram_freq < 0:
            raise QuantizationError(
                f"`histogram_freq` is a number of epochs, or 0. Received: histogram_freq={histogram_freq!r}"
            )
        if data is not None and hasattr(data, "__next__"):
            raise QuantizationError(
                "`data` is read anew after each epoch, and a generator can be read only once. Pass arrays or a dataset. "
                f"Received: {type(data).__name__}"
            )
        self.log_dir, self.data, self.steps, self.histogram_freq = log_dir, data, steps, histogram_freq
        self.history, self._points = {}, {}
        self._graph = self._summaries = None

    def on_train_begin(self, logs=None):
        if not is_quantized(self.model):
            raise QuantizationError(
                f"Model '{self.model.name}' has no quantized layer to follow. Pass it to `keras_quant.quantize` first."
            )
        self._graph = trace(self.model, keep_float=True)
        if self.data is not None:  # what does not fit is said before the first epoch, not after it
            next(iter(input_batches(self.data, self._graph.inputs, 1)))
        self._points = {}
        if self.log_dir is not None:
            self._summaries = backend.Summaries(pathlib.Path(self.log_dir, "quantization"))

    def on_epoch_begin(self, epoch, logs=None):
        if not self._points:
            self._record(epoch)

    def on_epoch_end(self, epoch, logs=None):
        self._record(epoch + 1)
        if self._summaries is not None:
            self._write(epoch)
            self._summaries.flush()

    def on_train_end(self, logs=None):
        if self._summaries is not None:
            self._summaries.close()
            self._summaries = None

    def _grids(self):
        """The path of the first layer of each grid that has a range, its lowest and highest real value, and its scale."""
        seen = set()
        for place in everywhere(self._graph):
            note = tree.flatten(place.node.outputs)[0].note
            if note is None or note.quantizer in seen or not note.quantizer.is_set:
                continue
            seen.add(note.quantizer)
            params = note.quantizer.params()
            low, high, scale = (float(ops.convert_to_numpy(v)) for v in (params.low, params.high, params.scale))
            yield place.path, low * scale, high * scale, scale

    def _record(self, epochs):
        for path, low, high, _ in self._grids():
            self._points.setdefault(path, []).append((epochs, low, high))
        self.history = {path: RangeHistory(*zip(*points)) for path, points in self._points.items()}

    def _write(self, epoch):
        for path, low, high, scale in self._grids():
            for name, value in (("range_low", low), ("range_high", high), ("scale", scale)):
                self._summaries.scalar(f"{name}/{path}", value, epoch)
        histograms = self.histogram_freq and epoch % self.histogram_freq == 0
        for place in everywhere(self._graph) if histograms else ():
            self._write_histogram(f"weights/{place.path}", weight_histogram(place.node), epoch)
        for path, measured in self._measured().items():
            self._write_errors(path, measured, epoch)
            if histograms:
                self._write_histogram(f"activations/{path}", measured.integers, epoch)

    def _measured(self):
        if self.data is None:
            return {}
        try:
            check_ranges(self._graph)
        except CalibrationError as error:
            warnings.warn(f"No errors are written: {error}", stacklevel=2)
            return {}
        return measure(self.model, self.data, self.steps, graph=self._graph)[1]

    def _write_errors(self, path, measured, epoch):
        figures = {"clipped": measured.clipped_share, "sqnr_alone": measured.local_sqnr, "sqnr": measured.sqnr}
        for name, value in figures.items():
            if value is not None:
                self._summaries.scalar(f"{name}/{path}", max(min(value, EXACT), -EXACT), epoch)

    def _write_histogram(self, name, histogram, epoch):
        if histogram is not None:
            self._summaries.histogram(name, histogram.edges, histogram.counts, epoch)
