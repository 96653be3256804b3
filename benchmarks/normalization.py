"""How fast and how fine are normalizations by exact float32 operators, beside those of integers only?

    python benchmarks/normalization.py [--threads 1] [--repeats 40]

Single layers in int8 at batch 1 on LiteRT, and the float `.tflite`. The files of a row run in turn; times are medians of
processor time. Decibels are of the signal over the noise that the layer adds to what it reads.
"""

import argparse
import pathlib
import tempfile

import keras
import latency
import numpy as np
import report

import keras_quant as kq

L = keras.layers
LAYER, RMS = (lambda: L.LayerNormalization(epsilon=1e-6)), (lambda: L.RMSNormalization())
CASES = {
    "layer, 64×128": (LAYER, (64, 128)),
    "layer, 197×192": (LAYER, (197, 192)),
    "layer, 49×768": (LAYER, (49, 768)),
    "layer, 128×512": (LAYER, (128, 512)),
    "layer, 56×56×96": (LAYER, (56, 56, 96)),
    "root mean square, 128×512": (RMS, (128, 512)),
    "unit, 1×512": (lambda: L.UnitNormalization(), (1, 512)),
    "group of 8, 32×32×64": (lambda: L.GroupNormalization(8), (32, 32, 64)),
    "instance, 32×32×64": (lambda: L.GroupNormalization(-1), (32, 32, 64)),
}


def rows(threads, repeats):
    for name, (make, shape) in CASES.items():
        keras.utils.set_random_seed(0)
        model, rng = keras.Sequential([keras.Input(shape), make()]), np.random.default_rng(0)
        for weight in model.trainable_weights:
            weight.assign(rng.uniform(0.5, 1.5, weight.shape) if weight.name != "beta" else rng.normal(0, 0.3, weight.shape))
        x = (rng.normal(size=(4, *shape)) * 3 + rng.normal(size=(4, *shape[:-1], 1))).astype("float32")
        files, decibels = {"float": latency.converted(model)}, {}
        for form, integer_only in (("exact", False), ("integers", True)):
            files[form], decibels[form] = quantized(model, x, integer_only)
        seconds = latency.measure(files, threads, repeats)
        row = {"": name} | {f"{form} µs": float(np.median(seconds[form][:, 1]) * 1e6) for form in files}
        row["exact / integers"] = latency.ratio(seconds["exact"], seconds["integers"], 1)
        yield row | {f"{form} dB": value for form, value in decibels.items()}


def quantized(model, x, integer_only):
    """The file, and the signal over the noise in decibels."""
    qmodel = kq.quantize(model, "int8", x, integer_only=integer_only)
    wanted = np.float64(model(np.array(qmodel.layers[1](x)), training=False))
    noise = np.sum((qmodel.predict(x, verbose=0) - wanted) ** 2)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "m.tflite"
        kq.export(qmodel, path)
        return path.read_bytes(), float(10 * np.log10(np.sum(wanted**2) / noise))


def main():
    parser = report.arguments(argparse.ArgumentParser(description=__doc__.split("\n")[0]), "normalization")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=40)
    args = parser.parse_args()
    table = list(rows(args.threads, args.repeats))
    report.show(f"Normalizations, batch 1, {args.threads} thread(s)", table, args.json)


if __name__ == "__main__":
    main()
