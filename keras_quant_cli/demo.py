"""The command `demo`: handwritten digits, from a float model to a verified int8 file."""

import contextlib
import dataclasses
import io
import pathlib
import time

import keras
import numpy as np
import tensorflow as tf
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_quant as kq
from keras_quant.tflite import Runtime, describe, read_model
from keras_quant.tflite.runtime import quantize_array
from keras_quant_cli.console import console
from keras_quant_cli.files import save_model

BATCH_SIZE = 64
# Timed runs of each file, one after the other in turn.
ROUNDS = 2000


def demo(args):
    data = digits()
    out = console()
    columns = (
        TextColumn("{task.description:<34}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=out) as progress:
        results = measure(args.output, args.epochs, args.qat_epochs, data, Steps(progress))
    out.print(table(results, data))
    out.print(f"In {args.output}: digits.keras, digits.tflite, digits-float.tflite; a report of the layers in digits.html")
    out.print(f"Next: keras-quant inspect {args.output / 'digits.tflite'}")


@dataclasses.dataclass(frozen=True)
class Data:
    """Images of shape (8, 8, 1) with values from 0 to 1, and their labels, split once."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


@dataclasses.dataclass(frozen=True)
class Results:
    """Attributes:
    float_accuracy, float_file_accuracy: on the held-out digits, of the float model and of its file.
    accuracy, file_accuracy: of the quantized model and of its file.
    float_report, report: `ExportReport`s of the files.
    float_latency, latency: seconds for one image.
    parity: `ParityReport` of the quantized model and its file.
    """

    float_accuracy: float
    float_file_accuracy: float
    accuracy: float
    file_accuracy: float
    float_report: kq.ExportReport
    report: kq.ExportReport
    float_latency: float
    latency: float
    parity: kq.ParityReport


def digits():
    """scikit-learn's handwritten digits; a quarter is held out, and only measured on."""
    bunch = load_digits()
    images = (bunch.images / 16.0).astype("float32")[..., None]
    x_train, x_test, y_train, y_test = train_test_split(
        images, bunch.target, test_size=0.25, stratify=bunch.target, random_state=0
    )
    return Data(x_train, y_train, x_test, y_test)


def build_model():
    """A small CNN with what int8 deployments are made of: batch normalization, depthwise convolutions, residual sums."""
    image = keras.Input((8, 8, 1), name="image")
    x = _convolution(image, 32, "stem")
    x = _residual(x, 32, "block1")
    x = _convolution(x, 64, "down", strides=2)
    x = _residual(x, 64, "block2")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, keras.layers.Dense(10, name="logits")(x), name="digits")


def _convolution(x, filters, name, strides=1):
    x = keras.layers.Conv2D(filters, 3, strides, padding="same", use_bias=False, name=name)(x)
    return keras.layers.ReLU(name=f"{name}_relu")(_normalize(x, name))


def _residual(x, filters, name):
    y = keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False, name=f"{name}_depthwise")(x)
    y = keras.layers.ReLU(name=f"{name}_depthwise_relu")(_normalize(y, f"{name}_depthwise"))
    y = keras.layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_pointwise")(y)
    y = _normalize(y, f"{name}_pointwise")
    return keras.layers.ReLU(name=f"{name}_relu")(keras.layers.Add(name=f"{name}_add")([x, y]))


def _normalize(x, name):
    # A short run sees few batches: the moving statistics have to follow them faster than by default.
    return keras.layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x)


def measure(folder, epochs, qat_epochs, data, steps):
    """The whole road, leaving its files in `folder`.

    Args:
        folder: `pathlib.Path`.
        epochs, qat_epochs: of the float training, of the quantization-aware one.
        data: `Data`.
        steps: `Steps`, which show the progress.

    Returns:
        `Results`.
    """
    keras.utils.set_random_seed(0)
    path, float_path = folder / "digits.tflite", folder / "digits-float.tflite"
    model = build_model()
    summary = kq.callbacks.QuantizationSummary()
    fit(model, data, epochs, 3e-3, steps.training("Train in float", epochs))
    with steps.one("Quantize and calibrate"):
        qmodel = kq.quantize(model)
        kq.calibrate(qmodel, data.x_train, verbose=0)
    fit(qmodel, data, qat_epochs, 3e-4, steps.training("Quantization-aware training", qat_epochs), summary)
    with steps.one("Export"):
        save_model(qmodel, folder / "digits.keras")
        report = kq.export(qmodel, path)
    with steps.one("Verify on LiteRT"):
        parity = kq.verify(qmodel, path, data.x_test, intermediates=True, verbose=0)
    with steps.one("Convert the float model, to compare"):
        convert(model, float_path)
        float_report = describe(float_path, *read_model(float_path))
    with steps.one("Measure accuracy and latency"):
        accuracies = [accuracy(m.predict(data.x_test, verbose=0), data.y_test) for m in (model, qmodel)]
        of_files = [accuracy(run_file(p, data.x_test), data.y_test) for p in (float_path, path)]
        float_latency, latency = latencies([float_path, path])
    with steps.one("Report ranges and errors"):
        kq.report(qmodel, data.x_test, history=summary).save(folder / "digits.html")
    return Results(
        float_accuracy=accuracies[0],
        float_file_accuracy=of_files[0],
        accuracy=accuracies[1],
        file_accuracy=of_files[1],
        float_report=float_report,
        report=report,
        float_latency=float_latency,
        latency=latency,
        parity=parity,
    )


def fit(model, data, epochs, rate, *callbacks):
    """Plain Keras, for the float model and the quantized one alike."""
    steps = epochs * -(-len(data.x_train) // BATCH_SIZE)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(data.x_train, data.y_train, BATCH_SIZE, epochs, verbose=0, callbacks=list(callbacks))


def convert(model, path):
    """The float `.tflite` of a Keras model, by TensorFlow's own converter."""
    with contextlib.redirect_stdout(io.StringIO()):
        path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())


def run_file(path, images):
    """Outputs of a file for images of real numbers."""
    runtime = Runtime(pathlib.Path(path).read_bytes(), path)
    detail = runtime.inputs[0]
    return runtime.run([quantize_array(images, detail) if detail["dtype"] == np.int8 else images])[0]


def accuracy(outputs, labels):
    return float(np.mean(np.argmax(outputs, axis=-1) == labels))


def latencies(paths):
    """Median seconds of one run of each file on one thread, timed in turn so that other work on the machine hits all."""
    runtimes = [Runtime(pathlib.Path(path).read_bytes(), path, threads=1) for path in paths]
    times = [[] for _ in paths]
    for _ in range(ROUNDS):
        for runtime, taken in zip(runtimes, times):
            start = time.perf_counter()
            runtime.interpreter.invoke()
            taken.append(time.perf_counter() - start)
    return [float(np.median(taken)) for taken in times]


def table(results, data):
    """`Results` as one `rich.table.Table`."""
    r = results
    shown = Table(
        title=f"Handwritten digits: {len(data.x_train):,} to train on, {len(data.x_test):,} held out",
        caption=f"Latency: one image, one thread, median of {ROUNDS:,} runs in turn, on this machine.",
        title_justify="left",
        caption_justify="left",
    )
    for heading in ("", "float Keras", "float .tflite", "int8 Keras", "int8 .tflite"):
        shown.add_column(heading, justify="right" if heading else "left")
    shares = (r.float_accuracy, r.float_file_accuracy, r.accuracy, r.file_accuracy)
    shown.add_row("accuracy on the held-out digits", *(f"{share:.2%}" for share in shares))
    shown.add_row("bytes", "", f"{r.float_report.bytes:,}", "", f"{r.report.bytes:,}")
    shown.add_row("latency", "", f"{r.float_latency * 1e6:.1f} µs", "", f"{r.latency * 1e6:.1f} µs")
    shown.add_row("operators on XNNPACK", "", _on_xnnpack(r.float_report), "", _on_xnnpack(r.report))
    shown.add_row("partitions", "", str(r.float_report.partitions), "", str(r.report.partitions))
    shown.add_row("outputs that differ from Keras", "", "", "", f"{r.parity.mismatches:,} of {r.parity.elements:,}")
    differ = sum(tensor.mismatches > 0 for tensor in r.parity.intermediates)
    shown.add_row("tensors inside that differ", "", "", "", f"{differ} of {len(r.parity.intermediates)}")
    return shown


def _on_xnnpack(report):
    return f"{len(report.operators) - len(report.off_xnnpack)} of {len(report.operators)}"


class Steps:
    """Shows what is going on, a line for each step.

    Args:
        progress: `rich.progress.Progress`.
    """

    def __init__(self, progress):
        self.progress = progress

    @contextlib.contextmanager
    def one(self, description):
        """A step that is not counted."""
        task = self.progress.add_task(description, total=1, note="")
        yield
        self.progress.advance(task)

    def training(self, description, epochs):
        """A Keras callback that counts epochs."""
        task = self.progress.add_task(description, total=epochs, note="")
        note = lambda logs: f"training accuracy {logs['accuracy']:.2%}"
        return keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: self.progress.update(task, completed=epoch + 1, note=note(logs))
        )
