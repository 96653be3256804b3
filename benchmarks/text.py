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

import classifiers
import keras
import networks
import report

L = keras.layers
WORDS, TOKENS, WIDTH, HEADS = 8000, 48, 64, 4
EPOCHS, MORE_EPOCHS, RATE, LOWER_RATE = 8, 2, 5e-4, 2e-5
POLICIES = ("int8", "dynamic_int8", "float16", "dynamic_int4")


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


def float_model(first, held_out, seed):
    keras.utils.set_random_seed(seed)
    best = keras.callbacks.EarlyStopping("val_accuracy", patience=EPOCHS, restore_best_weights=True, mode="max")
    return classifiers.trained(classifier(), first, EPOCHS, RATE, held_out, [best])


def rows(seeds, policies, rate, folder):
    train, test = networks.sentences(WORDS, TOKENS, folder)
    cut = len(train[0]) * 9 // 10
    first, held_out = ([part[:cut] for part in train], [part[cut:] for part in train])
    train_on = lambda qmodel: classifiers.trained(qmodel, first, MORE_EPOCHS, rate)
    for seed in seeds:
        model = float_model(first, held_out, seed)
        names = ("float32", classifiers.CONTROL, *policies)
        yield from classifiers.trials(model, seed, names, train_on, first[0][:512], held_out, test)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--policies", nargs="+", default=list(POLICIES))
    parser.add_argument("--rate", type=float, default=LOWER_RATE, help="of the two epochs more")
    parser.add_argument("--data", type=pathlib.Path, default=networks.DATA)
    parser.add_argument("--json", type=pathlib.Path, default=report.RESULTS / "text.json")
    args = parser.parse_args()
    lines = list(classifiers.printed(rows(args.seeds, args.policies, args.rate, args.data)))
    table = [classifiers.shown(line) for line in (*lines, *classifiers.means(lines))]
    report.show("Polarity of sentences, accuracy in per cent on LiteRT", table, args.json)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    main()
