"""How accurate is a quantized text classifier on the device's runtime, after two more epochs in each precision?

    python benchmarks/text.py [--seeds 0 1 2] [--policies int8 dynamic_int8 float16] [--rate 2e-5]

Polarity of film reviews (Pang and Lee, sentence polarity 1.0): tokens, Embedding with positions, two transformer blocks with
masks. For each seed a float model trains, with the epoch that is best on the last tenth of the training sentences; then each
policy trains two epochs on, from the same weights, and so does float itself. Accuracies on the sentences held out and on the
test sentences are those of the file on LiteRT.
"""

import argparse
import os
import pathlib
import tempfile

import keras
import networks
import numpy as np
import report

import keras_quant as kq
from keras_quant.tflite import Runtime
from keras_quant.tflite.runtime import quantize_array

L = keras.layers
WORDS, TOKENS, WIDTH, HEADS, TEST = 8000, 48, 64, 4, 1066
EPOCHS, MORE_EPOCHS, RATE, LOWER_RATE = 8, 2, 5e-4, 2e-5
POLICIES = ("int8", "dynamic_int8", "float16", "dynamic_int4")
# What two epochs more do by themselves.
CONTROL = "float32, trained on"


def sentences(folder):
    """Ids and labels to train on, and to test on."""
    lines = networks.need(folder / "sentence_polarity.tsv").read_text(encoding="utf-8").splitlines()
    labels, texts = zip(*(line.split("\t", 1) for line in lines))
    vectorize = L.TextVectorization(WORDS, output_sequence_length=TOKENS)
    vectorize.adapt(list(texts[:-TEST]))
    ids, labels = np.asarray(vectorize(list(texts)), "int32"), np.int32(labels)
    return (ids[:-TEST], labels[:-TEST]), (ids[-TEST:], labels[-TEST:])


class Positions(L.Layer):
    """Adds a trained vector for each place."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, shape):
        self.table = self.add_weight(name="table", shape=shape[1:], initializer="uniform")

    def call(self, x):
        return x + self.table


def classifier():
    ids = keras.Input((TOKENS,), dtype="int32")
    x = Positions()(L.Embedding(WORDS, WIDTH, mask_zero=True)(ids))
    for _ in range(2):
        y = L.LayerNormalization()(x)
        x = L.Add()([x, L.Dropout(0.3)(L.MultiHeadAttention(HEADS, WIDTH // HEADS)(y, y))])
        y = L.Dense(WIDTH)(L.Dense(2 * WIDTH, "gelu")(L.LayerNormalization()(x)))
        x = L.Add()([x, L.Dropout(0.3)(y)])
    x = L.Dropout(0.5)(L.GlobalAveragePooling1D()(L.LayerNormalization()(x)))
    return keras.Model(ids, L.Dense(2)(x))


def trained(model, data, epochs, rate, callbacks=(), held_out=None):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    model.fit(*data, batch_size=64, epochs=epochs, verbose=0, callbacks=list(callbacks), validation_data=held_out)
    return model


def float_model(first, held_out, seed):
    keras.utils.set_random_seed(seed)
    best = keras.callbacks.EarlyStopping("val_accuracy", patience=EPOCHS, restore_best_weights=True, mode="max")
    return trained(classifier(), first, EPOCHS, RATE, [best], held_out)


def accuracy(content, data):
    """Per cent of right answers of a file on LiteRT."""
    runtime, right = Runtime(content, "m.tflite"), 0
    (given,) = runtime.inputs
    for ids, label in zip(*data):
        (logits,) = runtime.run([quantize_array(ids[None], given)])
        right += int(np.argmax(logits[0].astype("float32")) == label)
    return 100 * right / len(data[0])


def written(qmodel, data):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "m.tflite"
        kq.export(qmodel, path)
        parity = kq.verify(qmodel, path, data, verbose=0)
        return path.read_bytes(), parity.mismatches


def rows(seeds, policies, rate, folder):
    train, test = sentences(folder)
    cut = len(train[0]) * 9 // 10
    first, held_out = ([part[:cut] for part in train], [part[cut:] for part in train])
    for seed in seeds:
        model, base = float_model(first, held_out, seed), None
        for policy in ("float32", CONTROL, *policies):
            keras.utils.set_random_seed(seed)
            qmodel = kq.quantize(model, policy.split(",")[0], first[0][:512])
            if policy != "float32":
                trained(qmodel, first, MORE_EPOCHS, rate)
            content, differ = written(qmodel, test[0])
            own = accuracy(content, test)
            base = own if base is None else base
            yield {
                "seed": seed,
                "policy": policy,
                "held out": accuracy(content, held_out),
                "accuracy": own,
                "to float": own - base,
                "bytes": len(content),
                "differ": differ,
            }


def means(lines):
    """A row a policy, over the seeds."""
    for policy in dict.fromkeys(line["policy"] for line in lines):
        own = [line for line in lines if line["policy"] == policy]
        mean = {key: float(np.mean([line[key] for line in own])) for key in ("held out", "accuracy", "to float")}
        yield {"seed": "mean", "policy": policy, **mean, "bytes": own[0]["bytes"], "differ": sum(x["differ"] for x in own)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--policies", nargs="+", default=list(POLICIES))
    parser.add_argument("--rate", type=float, default=LOWER_RATE, help="of the two epochs more")
    parser.add_argument("--data", type=pathlib.Path, default=networks.DATA)
    parser.add_argument("--json", type=pathlib.Path, default=report.RESULTS / "text.json")
    args = parser.parse_args()
    lines = []
    for line in rows(args.seeds, args.policies, args.rate, args.data):
        print(" | ".join(f"{value:.2f}" if isinstance(value, float) else str(value) for value in line.values()), flush=True)
        lines.append(line)
    report.show("Polarity of sentences, accuracy in per cent on LiteRT", [*lines, *means(lines)], args.json)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    main()
