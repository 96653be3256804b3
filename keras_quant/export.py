"""The verbs `export` and `verify`: a quantized model as a file, and the file against the model."""

import functools
import pathlib

from keras_quant.errors import ExportError
from keras_quant.graph.kept import is_stateful
from keras_quant.graph.resized import Sizes, cloned
from keras_quant.requantize import requantized
from keras_quant.settings import float32
from keras_quant.tflite import export_tflite, verify_tflite
from keras_quant.tflite.flatbuffer import SIGNATURE
from keras_quant.tflite.streaming import export_stateful, export_streaming


@float32()
def export(
    qmodel,
    path,
    batch_size="auto",
    fallback=None,
    input_type=None,
    output_type=None,
    opset=None,
    storage="uint8",
    input_shape=None,
    signatures=None,
    float_model=None,
    streaming=False,
):
    """Write a model as a file: `.tflite` for the device, `.onnx` for servers and other runtimes.

    A `.tflite` holds integers throughout, but for layers whose policy is float. The same model gives the same bytes each
    time. The signature `serving_default` has the Keras input and output names, and so has each of `signatures`.

    An `.onnx` (which needs the extra `onnx`) holds the same integer weights, scales and zero points in the standard form:
    float operators between QuantizeLinear and DequantizeLinear, which runtimes fuse into integer kernels. A float model is
    exported as it is, through tf2onnx.

    The states of layers with `stateful=True` are variables of a `.tflite`, whose signature `reset` sets them to zero.

    Ranges may move by millionths, so that no processor and no C library rounds otherwise than others (see docs/runtimes.md);
    `verify` does the same to a model that was saved before.

    Args:
        qmodel: quantized `keras.Model`, from `quantize` or built of `keras_quant.layers`, calibrated or trained; for `.onnx`
            any float `keras.Model`, too.
        path: ends in `.tflite` or `.onnx`. Written to a temporary file beside it and renamed.
        batch_size: of the file; `None` leaves it open at run time. By default 1 in a `.tflite`, open in an `.onnx`, and what
            it is in a model with `stateful` layers.
        fallback: of a `.tflite`, what becomes of a model with a layer that no rule lowers. `None` for an error that names
            it; "converter" to hand the whole model, with its ranges, to `TFLiteConverter`. That file need not equal
            `predict`: `verify` says how far it does. (An `.onnx` needs none: tf2onnx converts such layers one by one.)
        input_type: "int8", "uint8", "int16" or "float32". By default a `.tflite` takes what the first layers compute in, an
            `.onnx` what the Keras model takes. The file turns float32 into integers, as `predict` does, and uint8 into int8
            on the same scale (so bytes of a camera go in as they are where that scale is 1).
        output_type: likewise; by default what the last layers compute in, and float32 in an `.onnx`.
        opset: of an `.onnx`: from 13 on; by default the newest that the installed ONNX Runtime runs.
        storage: of an `.onnx`: what holds activations of 8 bits. "uint8" has 128 added to values and zero points, which is
            what ONNX Runtime's kernels for x86-64 want; "int8" has them as the `.tflite` does.
        input_shape: size of the file's inputs where it is to be another than the model's: a shape without batch, a list of
            them, or a dict by input name. Weights and ranges are the same. A dimension that is `None` in it is open: the
            runtime may resize the inputs of a `.tflite`, and the file is exact at each size. That is an error where an
            operator would not follow.
        signatures: of a `.tflite`, several sizes in one file: a dict from names of signatures to what `input_shape` takes.
            They share their weights, and replace `serving_default`; the first is what runs where none is named.
        float_model: the model that was quantized. Sizes other than the model's are taken from it, where layers hold some:
            a Reshape, a slice, positions. The weights and ranges are those of `qmodel`.
        streaming: of a `.tflite` that takes a sequence step by step, as a microphone gives it. What later steps need is
            kept: states of recurrent layers, the last steps before a convolution or pooling, a window before what joins all
            of it. True or "variables" keeps it in the file, whose signature `reset` sets it to zero; with "inputs" who runs
            the file hands it on. A call takes one step, or as many as strides along the sequence make of one.

    Returns:
        `ExportReport`: bytes, operators and which of them XNNPACK takes, partitions, every tensor's quantization; of an
        `.onnx` `keras_quant.onnx.OnnxReport`: bytes, operators and what ONNX Runtime runs them as, likewise.

    Raises:
        ExportError: for a layer that no rule lowers, one that needs steps to come where the file is `streaming`, an input or
            output that cannot have the type, an opset too low, a path that cannot be written, another suffix, or the extra
            missing.
        CalibrationError: if a layer's range was never set.
    """
    suffix = _suffix(path)
    if input_shape is not None and signatures is not None:
        raise ExportError("A file has one size, `input_shape`, or several, `signatures`. Leave one of them out.")
    if streaming:
        others = {"fallback": fallback, "opset": opset, "input_shape": input_shape, "signatures": signatures}
        _check_streaming(suffix, others | {"batch_size": None if batch_size in ("auto", 1) else batch_size})
        return export_streaming(qmodel, path, "variables" if streaming is True else streaming, input_type, output_type)
    model = _sizes(qmodel, float_model)
    if is_stateful(qmodel):
        _check_stateful(suffix, {"fallback": fallback, "opset": opset, "signatures": signatures})
        return export_stateful(model.at(input_shape), path, batch_size, input_type, output_type)
    if suffix == ".onnx":
        qmodel, batch_size = _at_one_size(model, input_shape, signatures), None if batch_size == "auto" else batch_size
        return _onnx().export_onnx(qmodel, path, batch_size, input_type, output_type, opset, storage)
    if opset is not None:
        raise ExportError(f"Only an `.onnx` has an opset. Leave it out, or change the suffix. Received: opset={opset}")
    sizes = {SIGNATURE: input_shape} if signatures is None else _checked(signatures)
    batch_size = 1 if batch_size == "auto" else batch_size
    return export_tflite(model, path, batch_size, fallback, input_type, output_type, sizes)


def _check_streaming(suffix, others):
    if suffix != ".tflite":
        raise ExportError("Only a `.tflite` keeps states. Leave `streaming` out, or change the suffix.")
    given = {name: value for name, value in others.items() if value is not None}
    if given:
        raise ExportError(f"A streaming file takes one sequence, a step at a time. Leave out {' and '.join(given)}.")


def _check_stateful(suffix, others):
    if suffix != ".tflite":
        raise ExportError(
            "The model has `stateful` layers, and only a `.tflite` keeps states. Change the suffix; or build the model with "
            "`return_state=True` and its first states as inputs (`initial_state`), and hand them on yourself."
        )
    given = [name for name, value in others.items() if value is not None]
    if given:
        raise ExportError(f"The model has `stateful` layers, whose states are in one file. Leave out {' and '.join(given)}.")


def _checked(signatures):
    named = isinstance(signatures, dict) and signatures and all(isinstance(name, str) and name for name in signatures)
    if not named or any(shape is None for shape in signatures.values()):
        raise ExportError(
            "`signatures` is a dict from names to shapes without batch, such as "
            f"{{'small': (224, 224, 3), 'large': (320, 320, 3)}}. Received: signatures={signatures!r}"
        )
    return signatures


def _sizes(qmodel, float_model):
    return Sizes(qmodel, cloned if float_model is None else functools.partial(requantized, float_model))


def _at_one_size(model, input_shape, signatures):
    """The model of an `.onnx`."""
    if signatures is not None or model.is_open(input_shape):
        raise ExportError(
            "An `.onnx` has one size, besides its batch. Export a file for each, with an `input_shape` without `None`. "
            f"Received: input_shape={input_shape}, signatures={signatures}"
        )
    return model.at(input_shape)


@float32()
def verify(qmodel, path, data, steps=None, intermediates=False, verbose="auto", target="host", float_model=None):
    """Run a file on its real runtime and compare with what `qmodel.predict` gives, integer by integer.

    Args:
        qmodel: the model that the file was exported from, be it for another size.
        path: of a `.tflite` file, which runs on LiteRT, or of an `.onnx` file, which runs on ONNX Runtime.
        data: model inputs, whatever `fit` takes; labels are ignored. Of any size that the file leaves open. For a file of
            several signatures a dict with the data of each by its name.
        steps: number of batches to use; all by default.
        intermediates: compare every tensor inside, too.
        verbose: "auto" or 1 for a progress bar, 0 for none.
        target: "host" for the runtime on this machine, "aarch64" for LiteRT on an emulated 64-bit Arm, which
            `export/aarch64/setup.sh` sets up once, or a running `keras_quant.tflite.Emulator`.
        float_model: as of `export`, for a file that was written with it.

    Returns:
        `ParityReport`: elements, mismatches, largest difference in LSB, per output.

    Raises:
        ModelFileError: if the file cannot be loaded or belongs to another model.
        CalibrationError: if the data does not fit the model.
        EmulatorError: if the emulated Arm was not set up.
    """
    run = _onnx().verify_onnx if _suffix(path) == ".onnx" else verify_tflite
    return run(_sizes(qmodel, float_model), path, data, steps, intermediates, verbose, target)


def _suffix(path):
    suffix = pathlib.Path(path).suffix
    if suffix not in (".tflite", ".onnx"):
        raise ExportError(f"The format is chosen by the suffix, which is `.tflite` or `.onnx`. Received: path='{path}'")
    return suffix


def _onnx():
    """The room of ONNX, whose libraries are an extra."""
    from keras_quant.extra import require

    require("onnx")
    from keras_quant import onnx

    return onnx
