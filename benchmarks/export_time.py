"""How long does the export take, and does it grow with the number of layers only?

    python benchmarks/export_time.py [--repeats 5]

MobileNetV2 at 224×224 from the quantized model to the file, against the converter's full-integer conversion of the same
float model; then chains of convolutions of growing length. All take turns; medians.
"""

import argparse
import pathlib
import tempfile

import clocks
import latency
import networks
import numpy as np
import report

import keras_quant as kq

CHAINS = (25, 50, 100, 200)


def contestants(path):
    """What is timed, and how many layers it exports: dict from its name to `(layers, function)`."""
    model = networks.mobilenet_v2()
    images = networks.images(model, 4)
    qmodel = kq.quantize(model, "int8", images)
    layers = len(qmodel.layers)
    timed = {
        "MobileNetV2, keras_quant.export": (layers, lambda: kq.export(qmodel, path)),
        "MobileNetV2, TFLiteConverter": (layers, lambda: latency.converted(model, images)),
    }
    for length in CHAINS:
        chain = networks.chain(length)
        small = kq.quantize(chain, "int8", networks.images(chain, 8))
        timed[f"chain of {length} convolutions"] = (length, lambda small=small: kq.export(small, path))
    return timed


def main():
    parser = report.arguments(argparse.ArgumentParser(description=__doc__.split("\n")[0]), "export_time")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        timed = contestants(pathlib.Path(folder) / "m.tflite")
        seconds = {name: [] for name in timed}
        for _ in range(args.repeats):
            for name, (_, function) in timed.items():
                seconds[name].append(clocks.timed(function, 1))
    table = []
    for name, (layers, _) in timed.items():
        processor, wall = map(float, np.median(seconds[name], axis=0))
        row = {"": name, "layers": layers, "wall s": wall, "processor s": processor}
        table.append({**row, "processor ms a layer": processor / layers * 1e3})
    report.show("Export", table, args.json)


if __name__ == "__main__":
    main()
