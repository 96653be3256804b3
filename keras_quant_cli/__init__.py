"""The command line `keras-quant`: arguments here, what they do in `commands`.

A package of its own, because importing `keras_quant` loads TensorFlow and registers the quantized layers: help, the version
and wrong arguments are answered at once, without either.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import os
import pathlib
import sys

DIFFERENT, FAILED, INTERRUPTED = 1, 2, 130
# `keras_quant.posttraining.refine.METHODS`, and all there are.
REFINE = ("equalization", "gptq", "adaround", "bias_correction")
METHODS = (*REFINE, "batch_norm")


def main(argv=None):
    """Run the command line.

    Args:
        argv: arguments; those of the process by default.

    Returns:
        Exit status: 0, 1 where `verify` found a difference, 2 for an error.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    args.check(args)
    # Keras reads the backend, TensorFlow the log level while they are imported.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with _native_chatter_held_back():
            from keras_quant_cli.commands import run

            return run(args)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # `keras-quant inspect ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def report_failure(command, message):
    """Print an error as one line.

    Returns:
        The exit status.
    """
    print(f"keras-quant {command}: {' '.join(str(message).split())}", file=sys.stderr)
    return FAILED


def build_parser():
    """The parser of all commands."""
    parser = _Parser(
        prog="keras-quant",
        description="Quantization-aware training for Keras 3, exported straight to int8 .tflite: what Keras predicts is "
        "what LiteRT computes, bit for bit.",
        epilog="'keras-quant demo' shows the whole road on real data in about a minute. Exit status: 0; 1 where verify "
        "finds a difference; 2 for an error.",
    )
    parser.add_argument("--version", action="version", version=f"keras-quant {importlib.metadata.version('keras-quant')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_demo(commands)
    _add_search(commands)
    _add_quantize(commands)
    _add_export(commands)
    _add_verify(commands)
    _add_inspect(commands)
    return parser


class _Parser(argparse.ArgumentParser):
    """Errors in one line."""

    def error(self, message):
        self.exit(FAILED, f"{self.prog}: {' '.join(message.split())}. See '{self.prog} --help'.\n")


def _add_demo(commands):
    parser = _add(
        commands,
        "demo",
        "train, quantize, export and compare on the handwritten digits of scikit-learn",
        "Train a small CNN on scikit-learn's handwritten digits, quantize it, fit it with quantization-aware training, "
        "export it, run it on LiteRT, and print both models side by side. Leaves the models and a report in DIR.",
    )
    parser.add_argument("--output", metavar="DIR", type=_folder, default="keras-quant-demo", help="default: %(default)s")
    parser.add_argument(
        "--epochs", metavar="N", type=_positive, default=10, help="of the float training; default: %(default)s"
    )
    parser.add_argument(
        "--qat-epochs", metavar="N", type=_positive, default=3, help="of the quantization-aware one; default: %(default)s"
    )
    parser.set_defaults(check=lambda args: _check_demo(parser))


def _add_quantize(commands):
    parser = _add(
        commands,
        "quantize",
        "swap a model's layers for quantization-aware ones",
        "Swap the layers of a Keras model for quantization-aware ones, and with --calibration set their activation ranges. "
        "The result is a Keras model to `fit` or to export.",
    )
    parser.add_argument("model", metavar="MODEL.keras", type=_file(".keras"))
    parser.add_argument("-o", "--output", metavar="OUT.keras", type=_target(".keras"), required=True)
    parser.add_argument("--calibration", metavar="DATA", type=_file(".npy", ".npz"), help=f"model inputs: {_DATA}")
    parser.add_argument("--steps", metavar="N", type=_positive, help="batches of 32 samples to use; all by default")
    parser.add_argument(
        "--policy",
        metavar="NAME or MAP.json",
        default="int8",
        help="precision of the layers: a name such as int8, int4, int16, float16, dynamic_int8 or w3a8, or the file of a "
        "PolicyMap; default: %(default)s",
    )
    _add_input_shape(parser, "where the model leaves it open; by default that of --calibration")
    parser.add_argument("--ends", metavar="NAME", help="policy of the first and last layers with weights, such as int16")
    parser.add_argument(
        "--integer-only", action="store_true", help="no float operator, for processors of integers: slower on a phone"
    )
    parser.add_argument(
        "--fallback", choices=["float"], help="keep layers without quantized form in float; otherwise they are an error"
    )
    parser.add_argument(
        "--refine",
        metavar="METHODS",
        nargs="?",
        type=_methods,
        const=REFINE,
        help="improve the integers with the data of --calibration, without training: methods of "
        f"`keras_quant.posttraining`, by default {','.join(REFINE)}",
    )
    parser.set_defaults(check=lambda args: _check_quantize(parser, args))


def _add_search(commands):
    parser = _add(
        commands,
        "search",
        "choose a policy for each layer, for a budget",
        "Find out what each layer of a float Keras model costs and loses in each precision, and choose the precisions whose "
        "outputs stay nearest to the float model's within a budget. The result is a PolicyMap for 'quantize --policy'.",
    )
    parser.add_argument("model", metavar="MODEL.keras", type=_file(".keras"))
    parser.add_argument("-o", "--output", metavar="MAP.json", type=_target(".json"), required=True)
    parser.add_argument("--data", metavar="DATA", type=_file(".npy", ".npz"), required=True, help=f"model inputs: {_DATA}")
    parser.add_argument("--steps", metavar="N", type=_positive, help="batches of 32 samples to use; all by default")
    _add_input_shape(parser, "where the model leaves it open; by default that of --data")
    parser.add_argument("--size", metavar="SHARE", type=_share, help="of the file, by int8's; 0.7 for instance")
    parser.add_argument("--latency", metavar="SHARE", type=_share, help="of the time, by int8's, measured on this machine")
    parser.add_argument("--loss", metavar="RISE", type=_share, help="distance from the float model's outputs, at most")
    parser.add_argument(
        "--candidates",
        metavar="NAMES",
        type=_names,
        help="policies; default: int4,int8,float16, and with --latency dynamic_int8 as well",
    )
    parser.add_argument("--cache", metavar="FILE.json", type=_target(".json"), help="keeps what is measured, to go on with")
    parser.add_argument("--front", metavar="OUT.png", type=_target(".png"), help="draw loss by size, too; takes a while")
    parser.set_defaults(check=lambda args: _check_search(parser, args))


def _add_export(commands):
    parser = _add(
        commands,
        "export",
        "write a model as .tflite or .onnx",
        "Write a quantized model as a .tflite, and say which of its operators XNNPACK takes; or a quantized or float model "
        "as an .onnx, and say what of it ONNX Runtime computes in float.",
    )
    parser.add_argument("model", metavar="MODEL.keras", type=_file(".keras"))
    parser.add_argument("output", metavar="OUT", type=_target(".tflite", ".onnx"), help="ends in .tflite or .onnx")
    parser.add_argument(
        "--batch-size",
        metavar="N",
        type=_batch_size,
        default="auto",
        help="of the file; 'none' leaves it open; default: 1 in a .tflite, open in an .onnx",
    )
    parser.add_argument(
        "--fallback",
        choices=["converter"],
        help="let TFLiteConverter write a model that holds layers without a lowering rule; otherwise they are an error",
    )
    for end in ("input", "output"):
        types = ["int8", "uint8", "int16", "float32"]
        parser.add_argument(
            f"--{end}-type", choices=types, help=f"of the file's {end}s; by default the layers' own, and float32 in an .onnx"
        )
    parser.add_argument(
        "--opset", metavar="N", type=_positive, help="of an .onnx; default: the newest that ONNX Runtime runs"
    )
    _add_input_shape(parser, "if the file is to have another size than the model; 'none' leaves a size to the runtime")
    parser.add_argument(
        "--signature",
        metavar="NAME=SHAPE",
        action="append",
        type=_signature,
        help="of a .tflite with several sizes: once for each, such as small=224,224,3; for models with one input",
    )
    _add_float_model(parser)
    parser.add_argument(
        "--storage",
        choices=["uint8", "int8"],
        default="uint8",
        help="what holds activations of 8 bits in an .onnx; default: %(default)s, which ONNX Runtime wants on x86-64",
    )


def _add_verify(commands):
    parser = _add(
        commands,
        "verify",
        "compare a file on its runtime with its Keras model, integer by integer",
        "Run a .tflite on LiteRT, or an .onnx on ONNX Runtime, and compare its outputs with what its Keras model predicts, "
        "integer by integer. Exit status 1 if anything differs.",
    )
    parser.add_argument("model", metavar="MODEL.keras", type=_file(".keras"))
    parser.add_argument("file", metavar="FILE", type=_file(".tflite", ".onnx"), help="ends in .tflite or .onnx")
    parser.add_argument(
        "--data",
        metavar="DATA",
        action="append",
        type=_named_data,
        required=True,
        help=f"model inputs: {_DATA}; NAME=DATA once for each signature of a file that has several",
    )
    _add_float_model(parser)
    parser.add_argument("--steps", metavar="N", type=_positive, help="batches of 32 samples to use; all by default")
    parser.add_argument("--intermediates", action="store_true", help="compare every tensor inside, too")
    parser.add_argument(
        "--target",
        choices=["host", "aarch64"],
        default="host",
        help="where LiteRT runs: here, or on an emulated 64-bit Arm; default: %(default)s",
    )


def _add_inspect(commands):
    parser = _add(
        commands,
        "inspect",
        "report on the layers of a .keras or the operators of a .tflite or .onnx",
        "For a quantized .keras: each layer's precision, MACs, bytes, range, and where it runs; with --data also its error "
        "against float and the share of clipped values. For a float one: which layers have a quantized form. For a .tflite "
        "or .onnx: its operators, where they run, and their grids; for a .tflite their cost, too.",
    )
    parser.add_argument("file", metavar="FILE", type=_file(".keras", ".tflite", ".onnx"))
    parser.add_argument("--data", metavar="DATA", type=_file(".npy", ".npz"), help=f"model inputs to measure on: {_DATA}")
    parser.add_argument("--steps", metavar="N", type=_positive, help="batches of 32 samples to use; all by default")
    _add_input_shape(parser, "of a float model that leaves it open")
    parser.add_argument(
        "--sort",
        metavar="COLUMN",
        help="bytes, macs, local_sqnr, sqnr, clipped, range, path or another column; by default the order of execution",
    )
    parser.add_argument(
        "--html", metavar="OUT.html", type=_target(".html"), help="write the report as a page with plots, too"
    )
    parser.set_defaults(check=lambda args: _check_inspect(parser, args))


_DATA = ".npy, or .npz with one array for each Keras input, by its name"


def _add(commands, name, summary, description):
    parser = commands.add_parser(name, help=summary, description=description)
    parser.set_defaults(check=lambda args: None)
    return parser


def _check_demo(parser):
    missing = [name for name in ("sklearn", "matplotlib") if importlib.util.find_spec(name) is None]
    if missing:
        parser.error(f"the demo needs {' and '.join(missing)}: pip install 'keras-quant[demo]'")


def _check_quantize(parser, args):
    if args.steps is not None and args.calibration is None:
        parser.error("--steps counts batches of --calibration, which is missing")
    if args.refine and args.calibration is None:
        parser.error("--refine works on the data of --calibration, which is missing")


def _check_search(parser, args):
    if args.size is None and args.latency is None and args.loss is None:
        parser.error("at least one of --size, --latency and --loss is needed")
    if args.front is not None and importlib.util.find_spec("matplotlib") is None:
        parser.error("--front needs matplotlib: pip install 'keras-quant[report]'")


def _check_inspect(parser, args):
    if args.steps is not None and args.data is None:
        parser.error("--steps counts batches of --data, which is missing")
    if args.data is not None and args.file.suffix == ".tflite":
        parser.error("--data is measured on the quantized .keras that the file was made of; pass that one")
    if args.html is not None and importlib.util.find_spec("matplotlib") is None:
        parser.error("--html needs matplotlib: pip install 'keras-quant[report]'")


def _file(*suffixes):
    """Argument type: path of an existing file with one of these suffixes."""

    def check(text):
        path = _with_suffix(text, suffixes)
        if not path.exists():
            raise argparse.ArgumentTypeError(f"'{text}' does not exist")
        if not path.is_file():
            raise argparse.ArgumentTypeError(f"'{text}' is not a file")
        if not os.access(path, os.R_OK):
            raise argparse.ArgumentTypeError(f"'{text}' cannot be read: permission denied")
        return path

    return check


def _target(*suffixes):
    """Argument type: path of a file that can be written, with one of these suffixes."""

    def check(text):
        path = _with_suffix(text, suffixes)
        if path.is_dir():
            raise argparse.ArgumentTypeError(f"'{text}' is a folder")
        if not path.parent.is_dir():
            raise argparse.ArgumentTypeError(f"'{text}' cannot be written: there is no folder '{path.parent}'")
        if not os.access(path.parent, os.W_OK):
            raise argparse.ArgumentTypeError(f"'{text}' cannot be written: permission denied")
        return path

    return check


def _folder(text):
    """Argument type: path of a folder, made if need be."""
    path = pathlib.Path(text)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot make the folder '{text}': {error.strerror}") from error
    if not os.access(path, os.W_OK):
        raise argparse.ArgumentTypeError(f"'{text}' cannot be written: permission denied")
    return path


def _with_suffix(text, suffixes):
    path = pathlib.Path(text)
    if path.suffix not in suffixes:
        raise argparse.ArgumentTypeError(f"'{text}' does not end in {' or '.join(suffixes)}")
    return path


def _add_input_shape(parser, when):
    parser.add_argument(
        "--input-shape",
        metavar="SHAPE",
        action="append",
        type=_input_shape,
        help=f"of the input without the batch, such as 224,224,3; name=224,224,3 once for each of several; {when}",
    )


def _add_float_model(parser):
    parser.add_argument(
        "--float-model",
        metavar="MODEL.keras",
        type=_file(".keras"),
        help="that was quantized: says other sizes where layers of the quantized one hold some, such as a Reshape",
    )


def _input_shape(text):
    name, _, sizes = text.rpartition("=")
    return name, tuple(None if size.lower() == "none" else _positive(size) for size in sizes.split(","))


def _signature(text):
    name, shape = _input_shape(text)
    if not name:
        raise argparse.ArgumentTypeError(f"'{text}' does not begin with a name, as small=224,224,3 does")
    return name, shape


def _named_data(text):
    name, _, path = ("", "", text) if os.path.exists(text) else text.rpartition("=")
    return name, _file(".npy", ".npz")(path)


def _positive(text):
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a positive integer")
    return number


def _methods(text):
    names = tuple(text.split(","))
    for name in names:
        if name not in METHODS:
            raise argparse.ArgumentTypeError(f"'{name}' is none of {', '.join(METHODS)}")
    return names


def _share(text):
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a positive number")
    return number


def _names(text):
    return text.split(",")


def _batch_size(text):
    return {"none": None, "auto": "auto"}[text.lower()] if text.lower() in ("none", "auto") else _positive(text)


@contextlib.contextmanager
def _native_chatter_held_back():
    """Let Python write to standard error, and nobody else.

    TensorFlow's C++ greets on file descriptor 2, at whatever log level. `TF_CPP_MIN_LOG_LEVEL=0` lets it.
    """
    if os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0":
        yield
        return
    stderr = sys.stderr
    try:
        stderr.flush()
        saved = os.dup(2)
    except (AttributeError, OSError):  # no standard error
        yield
        return
    with open(os.devnull, "w") as null:
        os.dup2(null.fileno(), 2)
    # Loggers keep the stream that they find at import, so it stays open.
    sys.stderr = os.fdopen(saved, "w", buffering=1)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        sys.stderr = stderr
