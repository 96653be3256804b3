"""How much sooner are convolutions of few channels, transposed ones and paddings in the forms that `export` gives them?

    python benchmarks/columns.py [--threads 1] [--repeats 40]

Single layers in int8 at batch 1 on LiteRT, beside TFLiteConverter's int8 file, which has the plain operators. Both files of
a row run in turn; times are medians of processor time, ratios medians over the pairs of neighbouring runs.
"""

import argparse

import keras
import latency
import numpy as np
import report

L = keras.layers


def convolution(shape, filters, kernel, strides=1, layer=L.Conv2D):
    return lambda: keras.Sequential(
        [keras.Input(shape), layer(filters, kernel, strides=strides, padding="same", activation="relu")]
    )


CASES = {
    "MobileNet's first, 224×224×3 to 32": convolution((224, 224, 3), 32, 3, 2),
    "ResNet's first, 224×224×3 to 64, 7×7": convolution((224, 224, 3), 64, 7, 2),
    "VGG's first, 224×224×3 to 64": convolution((224, 224, 3), 64, 3),
    "32×32×3 to 16": convolution((32, 32, 3), 16, 3),
    "28×28×1 to 32": convolution((28, 28, 1), 32, 3),
    "96×96×1 to 8, stride 2": convolution((96, 96, 1), 8, 3, 2),
    "128×128×1 to 16, 5×5": convolution((128, 128, 1), 16, 5),
    "spectrogram 49×40×1 to 64, 10×4, stride 2": convolution((49, 40, 1), 64, (10, 4), 2),
    "1,024 samples to 16, 9 taps": convolution((1024, 1), 16, 9, layer=L.Conv1D),
    "transposed, 8×8×256 to 128, 3×3, stride 2": convolution((8, 8, 256), 128, 3, 2, L.Conv2DTranspose),
    "transposed, 32×32×128 to 64, 4×4, stride 2": convolution((32, 32, 128), 64, 4, 2, L.Conv2DTranspose),
    "transposed, 64×64×32 to 16, 3×3, stride 2": convolution((64, 64, 32), 16, 3, 2, L.Conv2DTranspose),
    "transposed, 128×128×8 to 1, 2×2, stride 2": convolution((128, 128, 8), 1, 2, 2, L.Conv2DTranspose),
    "transposed, 56×56×21 to 21, 16×16, stride 8": convolution((56, 56, 21), 21, 16, 8, L.Conv2DTranspose),
    "ZeroPadding2D, 224×224×3": lambda: keras.Sequential([keras.Input((224, 224, 3)), L.ZeroPadding2D(1), L.ReLU()]),
}


def rows(threads, repeats):
    for name, make in CASES.items():
        keras.utils.set_random_seed(0)
        model = make()
        x = np.random.default_rng(0).standard_normal((4, *model.input_shape[1:])).astype("float32")
        files = {"export": latency.exported(model, x), "converter": latency.converted(model, x)}
        seconds = latency.measure(files, threads, repeats)
        row = {"": name} | {f"{file} ms": float(np.median(seconds[file][:, 1]) * 1e3) for file in files}
        row["export / converter"] = latency.ratio(seconds["export"], seconds["converter"], 1)
        yield row


def main():
    parser = report.arguments(argparse.ArgumentParser(description=__doc__.split("\n")[0]), "columns")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=40)
    args = parser.parse_args()
    report.show(f"Single layers, batch 1, {args.threads} thread(s)", list(rows(args.threads, args.repeats)), args.json)


if __name__ == "__main__":
    main()
