"""Does every family of `keras.applications` go through ONNX, fused, and how far from `predict` is ONNX Runtime?

    python benchmarks/onnx_zoo.py [NAMES | --all] [--inputs 4]

The smallest model of each family, at the smallest input that it takes, with weights as `weights.py` makes them, without the
final softmax. The int8 file and the float one pass `onnx.checker` in full and run on ONNX Runtime with all optimizations:
what it leaves in float beside a QuantizeLinear or DequantizeLinear, outputs that differ from `predict`, and the operators
that differ when they get the very integers that Keras computes, with the share of their elements that do. Networks with
random weights magnify such a step from layer to layer. Each model is a process of its own; a failure gives a row, too.
"""

import argparse
import collections
import json
import pathlib
import subprocess
import sys
import tempfile

import applications
import keras
import report

import keras_quant as kq


def measure(name, inputs):
    """The row of one model."""
    import onnx
    import weights
    from onnx_alone import alone

    keras.utils.set_random_seed(0)
    size = applications.smallest_size(name)
    x = applications.pictures(name, size, min(64, applications.enough(size)), seed=0)
    test = applications.pictures(name, size, inputs, seed=1)
    model = weights.settle(applications.build(name, size), x)
    qmodel = kq.quantize(model, "int8", x[:16])
    with tempfile.TemporaryDirectory() as folder:
        paths = [pathlib.Path(folder) / f"{kind}.onnx" for kind in ("int8", "float")]
        exported, in_float = (kq.export(source, path) for source, path in zip((qmodel, model), paths))
        for path in paths:
            onnx.checker.check_model(str(path), full_check=True)
        parity = kq.verify(qmodel, paths[0], test, verbose=0)
        (error,) = (t.error for t in kq.verify(model, paths[1], test, verbose=0).outputs)
        found = alone(qmodel, paths[0], test).values()
    return {
        "model": name,
        "input": f"{size}×{size}",
        "operators": len(exported.operators),
        "left in float": len(exported.unfused),
        "transposes": sum(op.name == "Transpose" for op in exported.operators),
        "outputs that differ": f"{parity.mismatches:,} of {parity.elements:,}",
        "by up to": f"{parity.largest} LSB" if parity.mismatches else "–",
        "operators that differ alone, by one step": by_kind(found),
        "float file": f"{len(in_float.operators)} operators, {error:.0e}",
    }


def by_kind(found):
    """The kinds of layers that differ: how many of each, the share of their elements that do."""
    kinds = collections.defaultdict(list)
    for one in found:
        kinds[one.kind.removeprefix("Quant")].append(one)
    texts = []
    for kind, ones in kinds.items():
        odd = sum(one.differ > 0 for one in ones)
        share = sum(one.differ for one in ones) / sum(one.elements for one in ones)
        steps = max(one.steps for one in ones)
        texts += [f"{odd} of {len(ones)} {kind}, {share:.0e}" + (f", {steps} steps" if steps > 1 else "")] * bool(odd)
    return "; ".join(texts) or "–"


def in_a_process(name, inputs):
    command = [sys.executable, __file__, name, "--inputs", str(inputs), "--one"]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        return {"model": name, "error": done.stderr.strip().splitlines()[-1][:300]}


def main():
    parser = report.arguments(argparse.ArgumentParser(description=__doc__.split("\n")[0]), "onnx_zoo")
    parser.add_argument("names", nargs="*", metavar="NAME", help="constructors of keras.applications")
    parser.add_argument("--all", action="store_true", help="every constructor")
    parser.add_argument("--inputs", type=int, default=4, help="how many inputs to compare")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        sys.stdout.write("\n" + json.dumps(measure(args.names[0], args.inputs)) + "\n")
        return
    names = args.names or (applications.constructors() if args.all else list(applications.smallest().values()))
    rows = []
    for name in names:
        rows.append(in_a_process(name, args.inputs))
        print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
    good, failed = [r for r in rows if "error" not in r], [r for r in rows if "error" in r]
    if good:
        report.show("Families on ONNX Runtime", good, args.json)
    if failed:
        report.show("Failures", failed, args.json.with_name("onnx_zoo_failures.json"))


if __name__ == "__main__":
    main()
