"""What does a scale a row bring a table, and what does it cost?

    python benchmarks/table_scales.py [--data FOLDER] [--rounds 200]

Two trained tables: the words of a classifier of sentences (Pang and Lee's movie reviews), and the films of a factorization
of ratings (MovieLens), whose rows grow with how often each was rated. Each is quantized by itself, without training, on one
scale and with a scale a row; "dynamic" gives real numbers, the other policies int8. The file's bytes for each row, SQNR of
all rows and of the rows that the test set picks, as often as it picks them, outputs that differ between `predict` and
LiteRT, and microseconds for 64 rows.
"""

import argparse
import collections
import pathlib
import tempfile
import time

import keras
import networks
import numpy as np
import report

import keras_quant as kq
from keras_quant.tables import decibels
from keras_quant.tflite import Runtime

L = keras.layers
WIDTH, LENGTH, PICKED = 64, 40, 64


def words(folder):
    """The table of a trained classifier of sentences, and the ids of the test set."""
    lines = [line.split("\t") for line in (folder / "sentence_polarity.tsv").read_text().splitlines()]
    texts, labels = [text.split() for _, text in lines], np.array([int(label) for label, _ in lines])
    counts = collections.Counter(word for text in texts[:-1066] for word in text)
    index = {word: place + 2 for place, (word, count) in enumerate(counts.most_common()) if count > 1}
    ids = np.zeros((len(texts), LENGTH), "int32")
    for row, text in zip(ids, texts):
        known = [index.get(word, 1) for word in text[:LENGTH]]
        row[: len(known)] = known
    x = keras.Input((LENGTH,), dtype="int32")
    table = L.Embedding(len(index) + 2, WIDTH, mask_zero=True)
    model = keras.Model(x, L.Dense(1, "sigmoid")(L.Dropout(0.5)(L.GlobalAveragePooling1D()(table(x)))))
    model.compile(keras.optimizers.Adam(2e-3), "binary_crossentropy", metrics=["accuracy"])
    model.fit(ids[:-1066], labels[:-1066], epochs=4, verbose=0)
    return np.array(table.embeddings), ids[-1066:].ravel()


def films(folder):
    """The films' table of a factorization of ratings, and the films of the test set."""
    data = np.load(folder / "movielens_small.npz")
    count = len(data["rating"]) * 9 // 10
    user, item = keras.Input((), dtype="int32"), keras.Input((), dtype="int32")
    small = keras.regularizers.L2(1e-6)
    table = L.Embedding(int(data["item"].max()) + 1, WIDTH, embeddings_regularizer=small)
    users = L.Embedding(int(data["user"].max()) + 1, WIDTH, embeddings_regularizer=small)
    model = keras.Model([user, item], L.Dot(-1)([users(user), table(item)]))
    model.compile(keras.optimizers.Adam(2e-3), "mse")
    pairs = [data["user"][:count].astype("int32"), data["item"][:count].astype("int32")]
    model.fit(pairs, data["rating"][:count] - data["rating"][:count].mean(), epochs=10, batch_size=256, verbose=0)
    return np.array(table.embeddings), data["item"][count:]


def policies():
    """For each policy, on one scale and with a scale a row."""
    one, rows = kq.quantizers.AbsMax(granularity="tensor"), kq.quantizers.TableQuantizer(granularity="row")
    for bits in ("int8", "int4"):
        yield bits, "one", kq.Policy(bits, "int8")
        yield bits, "a row", kq.Policy(bits, "int8", output_quantizer=rows)
    for bits in ("int8", "int4"):
        yield f"dynamic_{bits}", "one", kq.Policy(bits, "dynamic", kernel_quantizer=one)
        yield f"dynamic_{bits}", "a row", kq.Policy(bits, "dynamic")


def microseconds(path, rounds):
    """Processor time of one call, the median."""
    runtime = Runtime(path.read_bytes())
    runtime.run([np.zeros((1, PICKED), "int32")])
    times = []
    for _ in range(rounds):
        start = time.process_time()
        for _ in range(50):
            runtime.interpreter.invoke()
        times.append((time.process_time() - start) / 50)
    return 1e6 * np.median(times)


def measured(name, table, picked, rounds):
    x = keras.Input((PICKED,), dtype="int32")
    model = keras.Model(x, L.Embedding(*table.shape, name="table")(x))
    model.layers[-1].embeddings.assign(table)
    ids = np.resize(picked, (64, PICKED)).astype("int32")
    often = np.bincount(picked, minlength=len(table))[:, None]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "m.tflite"
        for policy, scales, made in policies():
            qmodel = kq.quantize(model, kq.PolicyMap({"table": made}), ids)
            written = kq.export(qmodel, path)
            differ = kq.verify(qmodel, path, ids, verbose=0).mismatches
            noise = np.square(table - np.asarray(qmodel.get_layer("table")(np.arange(len(table)))))
            yield {
                "table": f"{name}, {len(table):,} × {WIDTH}",
                "policy": policy,
                "scales": scales,
                "bytes a row": written.bytes / len(table),
                "dB, all rows": decibels(np.sum(table**2), noise.sum()),
                "dB, picked": decibels(np.sum(often * table**2), np.sum(often * noise)),
                "differ": differ,
                "µs": microseconds(path, rounds),
            }


def main():
    parser = report.arguments(argparse.ArgumentParser(description=__doc__.splitlines()[0]), "table_scales")
    parser.add_argument("--data", type=pathlib.Path, default=networks.DATA, help="folder with the texts and ratings")
    parser.add_argument("--rounds", type=int, default=200)
    args = parser.parse_args()
    keras.utils.set_random_seed(0)
    rows = [row for make in (words, films) for row in measured(make.__name__, *make(args.data), args.rounds)]
    report.show("Tables without training: one scale, and a scale a row", rows, args.json)


if __name__ == "__main__":
    main()
