"""What the commands do: each a thin face of a function of `keras_quant`."""

import os
import pkgutil
import sys

from rich.table import Table

import keras_quant as kq
from keras_quant_cli import DIFFERENT, report_failure
from keras_quant_cli.console import console
from keras_quant_cli.files import FileError, load_inputs, load_model, save_model

COMMANDS = {
    "demo": "keras_quant_cli.demo:demo",
    "quantize": "keras_quant_cli.commands:quantize",
    "export": "keras_quant_cli.commands:export",
    "verify": "keras_quant_cli.commands:verify",
    "inspect": "keras_quant_cli.inspect:inspect",
}


def run(args):
    """Carry out parsed arguments.

    Returns:
        Exit status.
    """
    try:
        return pkgutil.resolve_name(COMMANDS[args.command])(args) or 0
    except BrokenPipeError:
        raise
    except (kq.QuantizationError, FileError) as error:
        return report_failure(args.command, error)
    except OSError as error:
        return report_failure(args.command, f"{error.strerror or error}: {error.filename}" if error.filename else error)


def quantize(args):
    model = load_model(args.model)
    data = None if args.calibration is None else load_inputs(args.calibration, model)
    qmodel = kq.quantize(model, args.policy, fallback=args.fallback)
    if data is not None:
        kq.calibrate(qmodel, data, args.steps, verbose=_verbose())
    save_model(qmodel, args.output)
    ranges = "ranges not set: `fit` it, or pass --calibration" if data is None else f"ranges from {args.calibration}"
    print(f"{args.output}: {len(qmodel.layers)} layers, {os.path.getsize(args.output):,} bytes; {ranges}")


def export(args):
    print(kq.export(load_model(args.model), args.output, args.batch_size, args.fallback))


def verify(args):
    qmodel = load_model(args.model)
    data = load_inputs(args.data, qmodel)
    report = kq.verify(qmodel, args.file, data, args.steps, args.intermediates, _verbose(), args.target)
    print(report)
    if report.equal:
        return 0
    table = Table("tensor", title="What differs", title_justify="left")
    for heading in ("elements", "differ", "largest (LSB)"):
        table.add_column(heading, justify="right")
    for tensor in (*report.intermediates, *report.outputs):
        if tensor.mismatches:
            table.add_row(tensor.name, f"{tensor.elements:,}", f"{tensor.mismatches:,}", str(tensor.largest))
    console().print(table)
    return DIFFERENT


def _verbose():
    """Progress bars are for people."""
    return int(sys.stdout.isatty())
