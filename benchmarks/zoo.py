"""Does every model of `keras.applications` become an exact integer file, and how good and fast is it?

    python benchmarks/zoo.py [NAMES | --small | --all] [--converter] [--intermediates] [--resume] [--write-docs]

Each model at the smallest input that it takes, with weights as `weights.py` makes them: quantized, calibrated, exported,
verified on LiteRT; with `--converter`, against TFLiteConverter's full-integer file from the same calibration data. SQNR is
that of the logits against the float model; latency is processor time on one thread, the two files in turn. Every model has
processes and a JSON file of its own, so that a run can be stopped and resumed; a failure
gives a row with the error.
"""

import argparse
import collections
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

import applications
import report

RESULTS = report.RESULTS / "zoo"
DOCS = pathlib.Path(__file__).resolve().parents[1] / "docs" / "zoo.md"
WORKER = pathlib.Path(__file__).with_name("zoo_worker.py")
LARGER = 96
COMMAND = "python benchmarks/zoo.py --all --converter --resume --write-docs"
DASH = "–"


def run(name, args):
    """Measure one model: dict of what its stages found."""
    begin = time.perf_counter()
    result = {"name": name, "date": datetime.date.today().isoformat()}
    stages = ["make", "ours", *(["converter"] if args.converter else []), "latency"]
    with tempfile.TemporaryDirectory() as folder:
        for stage in stages:
            found = run_stage(stage, name, folder, args)
            # The converter's failure is the converter's result.
            prefix = "converter_" if stage == "converter" else ""
            result.update({f"{prefix}error" if key == "error" else key: value for key, value in found.items()})
            if "error" in result:
                break
    return {**result, "seconds": time.perf_counter() - begin}


def run_stage(stage, name, folder, args):
    command = [sys.executable, str(WORKER), stage, name, folder, "--inputs", str(args.inputs)]
    command += ["--size", str(args.size)] if args.size else []
    command += ["--intermediates"] if args.intermediates else []
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=args.timeout)
    except subprocess.TimeoutExpired:
        return {"error": f"TimeoutExpired: after {args.timeout} s"}
    lines = done.stdout.strip().splitlines()
    try:
        return json.loads(lines[-1])
    except (IndexError, ValueError):
        return {"error": f"exit status {done.returncode}: {done.stderr.strip()[-200:]}"}


def write(path, result):
    """Replace a file as one step, so that a stopped run leaves no half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result, indent=2) + "\n")
    os.replace(part, path)


def complete(path, args):
    """Whether an earlier run found all that this one is asked for."""
    if not path.exists():
        return False
    result = json.loads(path.read_text())
    peer = "converter_sqnr" in result or "converter_error" in result
    return "error" not in result and (peer or not args.converter) and (result["inside"] > 0 or not args.intermediates)


def row(result):
    """One line of the table."""
    if "error" in result:
        return {"model": result["name"], "input": _size(result), "error": result["error"]}
    return {
        "model": result["name"],
        "input": _size(result),
        "operators": result["operators"],
        "float": result["float_operators"],
        "partitions": result["partitions"],
        "off XNNPACK": off_xnnpack(result),
        "MB": f"{result['bytes'] / 1e6:.1f}",
        "of float": f"{result['bytes'] / result['float_bytes']:.2f}",
        "differ": f"{result['differ']:,} of {result['outputs']:,}",
        "inside": f"{result['inside_differ']} of {result['inside']}" if result["inside"] else DASH,
        "SQNR dB": f"{result['sqnr']:.1f}, {result['varying']:.1f}",
        "converter dB": _converter(result),
        "noisiest layer, alone": f"{result['noisiest']}, {result['noisiest_sqnr']:.0f}",
        "ms": f"{result['ours_ms']:.2f}",
        "/ converter": f"{result['latency_ratio']:.2f}" if "latency_ratio" in result else DASH,
        "s": round(result["quantize_export_s"]),
        "peak MB": round(result["peak_mb"]),
    }


def off_xnnpack(result):
    """The operators that XNNPACK leaves, with their number, by the reason that the report gives."""
    counts = collections.Counter((op["reason"], op["name"]) for op in result["off_xnnpack"])
    reasons = {}
    for (reason, name), count in counts.items():
        reasons.setdefault(reason, []).append(f"{count} {name}")
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items()) or DASH


def _converter(result):
    if "converter_sqnr" in result:
        return f"{result['converter_sqnr']:.1f}, {result['converter_varying']:.1f}"
    return result["converter_error"].split(":")[0] if "converter_error" in result else DASH


def _size(result):
    return f"{result['size']}×{result['size']}" if "size" in result else DASH


def document(results, larger):
    """The page `docs/zoo.md`: the results at the smallest inputs, and those at `LARGER`."""
    rows = [row(result) for result in results]
    whole, failed = [r for r in rows if "error" not in r], [r for r in rows if "error" in r]
    exact = sum(r.get("differ") == 0 for r in results)
    counts = {"total": len(applications.constructors()), "count": len(rows), "whole": len(whole), "exact": exact}
    pieces = [HEAD.format(command=COMMAND, machine=machine(), sums=_sums(results), **counts)]
    pieces += [_markdown(whole)] if whole else []
    if larger:
        pieces += [LARGER_HEAD.format(size=LARGER, sums=_sums(larger)), _markdown([row(result) for result in larger])]
    pieces += ["## What fails\n", _markdown(failed)] if failed else []
    return "\n".join(pieces)


def _sums(results):
    """The time of all files that have a peer, in a sentence."""
    pairs = [(r["ours_ms"], r["converter_ms"]) for r in results if "converter_ms" in r]
    ours, theirs = map(sum, zip(*pairs)) if pairs else (0.0, 0.0)
    return f"{len(pairs)} files that the converter makes, too, take {ours:.1f} ms together, the converter's {theirs:.1f} ms."


HEAD = """# The zoo

Made by `{command}`; {machine}.

Every constructor of `keras.applications` with random weights that keep signals alive (`benchmarks/weights.py`), at the
smallest input it takes, without the final softmax. Of {total}, {count} are measured so far; {whole} of these become integer
files, {exact} of them with no output that differs between `predict` and LiteRT.

- **float**: operators that read or write floats. **partitions**: pieces that XNNPACK runs. **off XNNPACK**: what it leaves.
- **MB**, **of float**: the file, and its share of four bytes a weight.
- **differ**: outputs of 8 inputs that differ between `predict` and LiteRT; **inside**: tensors that do.
- **SQNR dB**, **converter dB**: of the logits against the float model, for this file and for TFLiteConverter's full-integer
  one from the same calibration data; then the same where only what differs between the inputs counts as signal, which is
  strict: random networks magnify every noise. **noisiest layer, alone**: the layer with the least SQNR of its own output
  when its exact inputs are put on their grids and it alone computes on int8.
- **ms**, **/ converter**: processor time on one thread, and against the converter's file, the two in turn.
- **s**, **peak MB**: quantize, calibrate and export; memory of that process with TensorFlow and the verification.

{sums}
"""
LARGER_HEAD = """## At {size}×{size}

Made by `python benchmarks/zoo.py NAMES --converter --size {size}`. {sums}
"""


def _markdown(rows):
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(r.values()) for r in rows)]
    return "\n".join(f"| {' | '.join(str(x).replace('|', '/') for x in line)} |" for line in lines) + "\n"


def machine():
    import keras
    import tensorflow as tf
    from ai_edge_litert import __version__ as litert

    versions = f"TensorFlow {tf.__version__}, Keras {keras.__version__}, LiteRT {litert}"
    return f"{versions}, {platform.machine()}, {os.cpu_count()} cores"


def chosen(args):
    if args.all:
        return applications.constructors()
    return list(applications.smallest().values()) if args.small else args.names


def place(folder, name, size=None):
    """The JSON file of a model at a size, by default its smallest."""
    return folder / (f"{size}" if size else "smallest") / f"{name}.json"


def found(folder, names, size=None):
    """What earlier runs found of these models."""
    paths = [place(folder, name, size) for name in names]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="constructors of keras.applications")
    parser.add_argument("--all", action="store_true", help="every constructor")
    parser.add_argument("--small", action="store_true", help="the smallest of each family")
    parser.add_argument("--converter", action="store_true", help="TFLiteConverter's columns, too")
    parser.add_argument("--intermediates", action="store_true", help="compare the tensors inside, too")
    parser.add_argument("--resume", action="store_true", help="keep what earlier runs found; failures run again")
    parser.add_argument("--write-docs", action="store_true", help="write docs/zoo.md from all results")
    parser.add_argument("--inputs", type=int, default=8, help="how many inputs to compare")
    parser.add_argument("--size", type=int, help="height and width of the input; by default the smallest")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for each stage of a model")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS, help="folder of the JSON files, one folder a size")
    args = parser.parse_args()
    names = chosen(args)
    unknown = sorted(set(names) - set(applications.constructors()))
    if unknown or not (names or args.write_docs):
        parser.error(f"Give names of constructors, --small or --all. Received: {unknown}")
    for name in names:
        path = place(args.results, name, args.size)
        if not (args.resume and complete(path, args)):
            write(path, run(name, args))
        print(json.dumps(row(json.loads(path.read_text())), ensure_ascii=False), flush=True)
    results = found(args.results, applications.constructors() if args.write_docs else names, args.size)
    rows = [row(result) for result in results]
    for title, kind in (("The zoo", [r for r in rows if "error" not in r]), ("Failures", [r for r in rows if "error" in r])):
        if kind:
            report.show(title, kind, args.results / f"{title.split()[-1].lower()}_table.json")
    if args.write_docs:
        known = applications.constructors()
        DOCS.parent.mkdir(exist_ok=True)
        DOCS.write_text(document(found(args.results, known), found(args.results, known, LARGER)))


if __name__ == "__main__":
    main()
