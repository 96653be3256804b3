"""What does a table of embeddings cost: in bytes, and in a training step?

    python benchmarks/embedding.py [--rows 100000] [--width 64] [--ids 32] [--rounds 40]

A table, the mean of the rows and a Dense layer, in float and quantized. The file's bytes by policy, with the
outputs that differ between `predict` and LiteRT; a training step with SGD and with Adam, processor time, by turns with the
float model's: the median of the ratios of neighbouring rounds. Keras's Adam passes over the whole table each step; SGD does
not.
"""

import argparse
import pathlib
import tempfile

import keras
import numpy as np
import report
from clocks import timed

import keras_quant as kq

STEPS, WARM_UP = 5, 3


def network(rows, width, length):
    x = keras.Input((length,), dtype="int32")
    pooled = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(rows, width)(x))
    return keras.Model(x, keras.layers.Dense(8, "softmax")(pooled))


def stepper(model, optimizer, x, y):
    """A function that takes one training step."""
    model.compile(optimizer, "sparse_categorical_crossentropy")
    return lambda: model.train_on_batch(x, y)


def step_ratio(model, qmodel, optimizer, x, y, rounds):
    """Milliseconds of a float step and of a quantized one, medians, and the median of their ratio."""
    steps = [stepper(m, optimizer, x, y) for m in (model, qmodel)]
    for step in steps:
        timed(step, WARM_UP)
    times = np.array([[timed(step, STEPS)[0] for step in steps] for _ in range(rounds)]) * 1000
    return (*np.median(times, axis=0), np.median(times[:, 1] / times[:, 0]))


def main():
    parser = report.arguments(argparse.ArgumentParser(description=__doc__.splitlines()[0]), "embedding")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--ids", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    x = rng.integers(0, args.rows, (8, args.ids)).astype("int32")
    y = rng.integers(0, 8, 8)
    model, rows = network(args.rows, args.width, args.ids), []
    with tempfile.TemporaryDirectory() as folder:
        for policy in ("int8", "int4", "dynamic_int8"):
            qmodel, path = kq.quantize(model, policy, x), pathlib.Path(folder) / "m.tflite"
            written = kq.export(qmodel, path)
            row = {"policy": policy, "bytes": written.bytes, "differ": kq.verify(qmodel, path, x, verbose=0).mismatches}
            for name, optimizer in (("SGD", "sgd"), ("Adam", "adam")):
                float_ms, ours_ms, ratio = step_ratio(model, qmodel, optimizer, x, y, args.rounds)
                row |= {f"{name}, float ms": float_ms, f"{name}, ours ms": ours_ms, f"{name}, ratio": ratio}
            rows.append(row)
    report.show(f"A table of {args.rows:,} × {args.width}, {args.ids} ids a sample, batch 8", rows, args.json)


if __name__ == "__main__":
    main()
