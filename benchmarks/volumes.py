"""How long do volumes take in int8, beside the float CONV_3D of TFLiteConverter, and what does its int8 make of them?

    python benchmarks/volumes.py [--threads 1] [--repeats 40]

Single layers and small networks of volumes at batch 1 on LiteRT. The files of a row run in turn; times are medians of
processor time, ratios medians over the pairs of neighbouring runs. "ours float" is the policy "float32".
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


def convolution(shape, filters, kernel=3, **options):
    return keras.Sequential([keras.Input(shape), L.Conv3D(filters, kernel, padding="same", **options)])


def scans():
    """keras.io's classifier of CT scans, at half its size."""
    x = inputs = keras.Input((64, 64, 32, 1))
    for filters in (64, 64, 128):
        x = L.BatchNormalization()(L.MaxPooling3D()(L.Conv3D(filters, 3, activation="relu")(x)))
    x = L.Dense(512, activation="relu")(L.GlobalAveragePooling3D()(x))
    return keras.Model(inputs, L.Dense(1, activation="sigmoid")(x))


CASES = {
    "Conv3D (8, 16, 16, 8) to 16": lambda: convolution((8, 16, 16, 8), 16),
    "Conv3D (16, 32, 32, 16) to 32": lambda: convolution((16, 32, 32, 16), 32),
    "Conv3D (16, 14, 14, 64) to 64": lambda: convolution((16, 14, 14, 64), 64),
    "Conv3D (16, 32, 32, 16) to 32, stride 2": lambda: convolution((16, 32, 32, 16), 32, strides=2),
    "Conv3D (16, 64, 64, 1) to 32": lambda: convolution((16, 64, 64, 1), 32),
    "Conv3D (16, 28, 28, 32) to 32, 3×1×1": lambda: convolution((16, 28, 28, 32), 32, (3, 1, 1)),
    "CT scans, 64×64×32": scans,
}


def rows(threads, repeats):
    for name, make in CASES.items():
        keras.utils.set_random_seed(0)
        model = make()
        x = np.random.default_rng(0).standard_normal((4, *model.input_shape[1:])).astype("float32")
        files = {"int8": latency.exported(model, x), "ours float": latency.exported(model, x, "float32")}
        try:
            files["float"] = latency.converted(model)
        except Exception as error:  # the format has no pooling of volumes; that is a result
            print(f"{name}: the converter failed: {str(error).splitlines()[0][:100]}")
        seconds = latency.measure(files, threads, repeats)
        row = {"": name}
        for file in ("int8", "ours float", "float"):
            row[f"{file} ms"] = float(np.median(seconds[file][:, 1]) * 1e3) if file in seconds else "-"
        for file in ("int8", "ours float"):
            row[f"{file} / float"] = latency.ratio(seconds[file], seconds["float"], 1) if "float" in seconds else "-"
        row["differ"] = differing(model, x)
        yield row


def differing(model, x):
    """How many of the outputs and of the tensors inside differ between `predict` and LiteRT, and of how many."""
    qmodel = kq.quantize(model, "int8", x)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "m.tflite"
        kq.export(qmodel, path)
        found = kq.verify(qmodel, path, x, intermediates=True, verbose=0)
    tensors = *found.outputs, *found.intermediates
    return f"{sum(t.mismatches for t in tensors)} of {sum(t.elements for t in tensors):,}"


def main():
    parser = report.arguments(argparse.ArgumentParser(description=__doc__.split("\n")[0]), "volumes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=40)
    args = parser.parse_args()
    report.show(f"Volumes, batch 1, {args.threads} thread(s)", list(rows(args.threads, args.repeats)), args.json)


if __name__ == "__main__":
    main()
