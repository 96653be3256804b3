"""How long does the export take, and does it grow with the number of layers only?

    python benchmarks/export_time.py [--repeats 5]

MobileNetV2 at 224×224 from the quantized model to the file, against the converter's full-integer conversion of the same
float model; then chains of convolutions of growing length.
"""

import argparse
import pathlib
import tempfile
import time

import latency
import networks
import numpy as np
import report

import keras_quant as kq


def seconds(function, repeats):
    """Median wall and processor seconds."""
    taken = []
    for _ in range(repeats):
        wall, processor = time.perf_counter(), time.process_time()
        function()
        taken.append((time.perf_counter() - wall, time.process_time() - processor))
    return np.median(taken, axis=0)


def main():
    parser = report.arguments(argparse.ArgumentParser(description=__doc__.split("\n")[0]), "export_time")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    table = []

    def row(what, layers, taken):
        wall, processor = map(float, taken)
        table.append({"": what, "layers": layers, "s": wall, "cpu s": processor, "cpu ms a layer": processor / layers * 1e3})

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "m.tflite"
        model = networks.mobilenet_v2()
        images = networks.images(model, 4)
        qmodel = kq.quantize(model, "int8", images)
        layers = len(qmodel.layers)
        row("MobileNetV2, keras_quant.export", layers, seconds(lambda: kq.export(qmodel, path), args.repeats))
        row("MobileNetV2, TFLiteConverter", layers, seconds(lambda: latency.converted(model, images), 2))
        for length in (25, 50, 100, 200):
            chain = networks.chain(length)
            small = kq.quantize(chain, "int8", networks.images(chain, 8))
            row(f"chain of {length} convolutions", length, seconds(lambda small=small: kq.export(small, path), args.repeats))
    report.show("Export", table, args.json)


if __name__ == "__main__":
    main()
