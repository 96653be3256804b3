"""What the commands do: each a thin face of a function of `keras_quant`."""

import os
import pkgutil
import sys

from rich.table import Table

import keras_quant as kq
from keras_quant.calibrate import has_ranges
from keras_quant.graph.sizes import at_size
from keras_quant_cli import DIFFERENT, report_failure
from keras_quant_cli.console import console
from keras_quant_cli.files import FileError, load_inputs, load_model, save_model, shapes

COMMANDS = {
    "demo": "keras_quant_cli.demo:demo",
    "search": "keras_quant_cli.commands:search",
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


def search(args):
    model, budget = load_model(args.model), kq.search.Budget(size=args.size, latency=args.latency, loss=args.loss)
    options = {"steps": args.steps, "cache": args.cache, "latencies": budget.wants_latency, "verbose": _verbose()}
    options["input_shape"] = shapes(args)
    found = kq.search.Search(model, load_inputs(args.data, model), args.candidates, **options)
    point = found.assign(budget)
    point.policies.save(args.output)
    time = "" if point.milliseconds is None else f", {point.milliseconds:.4g} ms"
    print(f"{args.output}: {point.counts()}; {point.bytes:,} bytes{time}, distance from float {point.loss:.4g}")
    if args.front is not None:
        front = found.front()
        console().print(front.table())
        front.plot(args.front)


def quantize(args):
    policy = kq.PolicyMap.load(args.policy) if args.policy.endswith(".json") else kq.policy.get(args.policy)
    model = load_model(args.model)
    data = None if args.calibration is None else load_inputs(args.calibration, model)
    model, _ = at_size(model, shapes(args), data)
    qmodel = kq.quantize(model, policy, fallback=args.fallback, ends=args.ends, integer_only=args.integer_only)
    if data is not None and has_ranges(qmodel):
        kq.calibrate(qmodel, data, args.steps, verbose=_verbose())
    if args.refine:
        console().print(kq.refine(qmodel, data, args.refine, args.steps, verbose=_verbose()))
    save_model(qmodel, args.output)
    ranges = "ranges not set: `fit` it, or pass --calibration" if data is None else f"ranges from {args.calibration}"
    print(f"{args.output}: {len(qmodel.layers)} layers, {os.path.getsize(args.output):,} bytes; {ranges}")


def export(args):
    names = "batch_size", "fallback", "input_type", "output_type", "opset", "storage"
    options = {name: getattr(args, name) for name in names}
    options |= {"input_shape": shapes(args), "signatures": dict(args.signature or ()) or None}
    print(kq.export(load_model(args.model), args.output, float_model=_float_model(args), **options))


def verify(args):
    qmodel, float_model = load_model(args.model), _float_model(args)
    data = {name: load_inputs(path, qmodel) for name, path in args.data}
    data = data.get("", data)
    report = kq.verify(qmodel, args.file, data, args.steps, args.intermediates, _verbose(), args.target, float_model)
    print(report)
    if report.equal:
        return 0
    table = Table("tensor", title="What differs", title_justify="left")
    for heading in ("elements", "differ", "largest (LSB, or share)"):
        table.add_column(heading, justify="right")
    for tensor in (*report.intermediates, *report.outputs):
        if tensor.mismatches:
            table.add_row(tensor.name, f"{tensor.elements:,}", f"{tensor.mismatches:,}", _largest(tensor))
    console().print(table)
    return DIFFERENT


def _float_model(args):
    return None if args.float_model is None else load_model(args.float_model)


def _largest(tensor):
    """The largest difference: in steps of integers, of real numbers as a share of the largest."""
    return str(tensor.largest) if tensor.tolerance is None else f"{tensor.error:.2g}"


def _verbose():
    """Progress bars are for people."""
    return int(sys.stdout.isatty())
