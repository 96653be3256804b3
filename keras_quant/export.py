"""The verbs `export` and `verify`: a quantized model as a file, and the file against the model."""

import pathlib

from keras_quant.errors import ExportError
from keras_quant.tflite import export_tflite, verify_tflite


def export(qmodel, path, batch_size=1, fallback=None, input_type=None, output_type=None):
    """Write a quantized model as a file for the device: of integers throughout, but for layers whose policy is float.

    The same model gives the same bytes each time. The signature `serving_default` has the Keras input and output names.

    Ranges of products and means may move by millionths, so that 64-bit Arm rounds as x86-64 does (see docs/runtimes.md);
    `verify` does the same to a model that was saved before.

    Args:
        qmodel: quantized `keras.Model`, from `quantize` or built of `keras_quant.layers`, calibrated or trained.
        path: ends in `.tflite`. Written to a temporary file beside it and renamed.
        batch_size: of the file; `None` leaves it resizable at run time.
        fallback: what becomes of a model with a layer that no rule lowers. `None` for an error that names it;
            "converter" to hand the whole model, with its ranges, to `TFLiteConverter`. That file need not equal `predict`:
            `verify` says how far it does.
        input_type: "int8", "uint8", "int16" or "float32"; by default what the first layers compute in. The file turns
            float32 into integers, as `predict` does, and uint8 into int8 on the same scale (so bytes of a camera go in as
            they are where that scale is 1).
        output_type: likewise; by default what the last layers compute in.

    Returns:
        `ExportReport`: bytes, operators and which of them XNNPACK takes, partitions, every tensor's quantization.

    Raises:
        ExportError: for a layer that no rule lowers, an input or output that cannot have the type, a path that cannot be
            written, or another suffix.
        CalibrationError: if a layer's range was never set.
    """
    _check_suffix(path)
    return export_tflite(qmodel, path, batch_size, fallback, input_type, output_type)


def verify(qmodel, path, data, steps=None, intermediates=False, verbose="auto", target="host"):
    """Run a file on its real runtime and compare with what `qmodel.predict` gives, integer by integer.

    Args:
        qmodel: the model that the file was exported from.
        path: of a `.tflite` file.
        data: model inputs, whatever `fit` takes; labels are ignored.
        steps: number of batches to use; all by default.
        intermediates: compare every tensor inside, too.
        verbose: "auto" or 1 for a progress bar, 0 for none.
        target: "host" for LiteRT on this machine, "aarch64" for LiteRT on an emulated 64-bit Arm, which
            `export/aarch64/setup.sh` sets up once, or a running `keras_quant.tflite.Emulator`.

    Returns:
        `ParityReport`: elements, mismatches, largest difference in LSB, per output.

    Raises:
        ModelFileError: if the file cannot be loaded or belongs to another model.
        CalibrationError: if the data does not fit the model.
        EmulatorError: if the emulated Arm was not set up.
    """
    _check_suffix(path)
    return verify_tflite(qmodel, path, data, steps, intermediates, verbose, target)


def _check_suffix(path):
    if pathlib.Path(path).suffix != ".tflite":
        raise ExportError(f"The format is chosen by the suffix, which is `.tflite`. Received: path='{path}'")
