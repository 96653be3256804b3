"""How long does a report take, and does it grow with the number of layers only?

    python benchmarks/report_time.py [--samples 32]

MobileNetV2 at 224×224 and chains of convolutions of growing length: the report without data, with data, and its HTML page.
"""

import argparse
import pathlib
import tempfile

import clocks
import networks
import report as show

import keras_quant as kq

CHAINS = (25, 50, 100, 200)


def measure(name, model, samples, path):
    """One row of the table."""
    images, made = networks.images(model, samples), []
    qmodel = kq.quantize(model, "int8", images[:8])
    steps = (
        lambda: kq.report(qmodel),
        lambda: made.append(kq.report(qmodel, images)),
        lambda: made[0].save(path),
    )
    bare, data, page = (clocks.timed(step, 1)[0] for step in steps)
    layers = len(made[0].layers)
    row = {"": name, "layers": layers, "without data s": bare, "with data s": data, "page s": page}
    return {**row, "both, ms a layer": (data + page) / layers * 1e3, "page MB": path.stat().st_size / 1e6}


def main():
    parser = show.arguments(argparse.ArgumentParser(description=__doc__.split("\n")[0]), "report_time")
    parser.add_argument("--samples", type=int, default=32)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "report.html"
        table = [measure("MobileNetV2", networks.mobilenet_v2(), args.samples, path)]
        for length in CHAINS:
            table.append(measure(f"chain of {length} convolutions", networks.chain(length), args.samples, path))
    show.show(f"Report on {args.samples} samples, processor time", table, args.json)


if __name__ == "__main__":
    main()
