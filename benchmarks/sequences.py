"""How accurate are quantized recurrent networks on the device's runtime, after some more epochs in each precision?

    python benchmarks/sequences.py [--tasks digits polarity] [--models gru lstm ds_cnn bidirectional] [--seeds 0 1 2]
        [--policies "int8, without training" int8 w4a8] [--epochs N] [--more N] [--rate R]

Spoken digits (Free Spoken Digit Dataset, 8 kHz; its own split): logarithms of Mel spectra, a second of 61 frames; a GRU, an
LSTM, and a network of depthwise separable convolutions. Recordings lie anywhere in their second in training, in its middle
to judge. Polarity of film reviews (Pang and Lee, sentence polarity 1.0): Embedding with a mask, bidirectional LSTM.

For each seed a float model trains; then each policy trains some epochs on, from the same weights, and so does float. Each
training keeps the epoch with the least loss on training data held out: takes 5 to 9 of the digits; the last tenth of the
sentences.
Accuracies are those of the file on LiteRT, "differ" counts its outputs that are not `predict`'s.
"""

import argparse
import dataclasses
import pathlib
from collections.abc import Callable

import classifiers
import keras
import networks
import numpy as np
import report

L = keras.layers
WORDS, TOKENS = 8000, 48
UNTRAINED = "int8" + classifiers.UNTRAINED
POLICIES = UNTRAINED, "int8", "w4a8"


def recurrent(layer):
    def build():
        x = inputs = keras.Input((61, 40))
        x = L.Dropout(0.3)(layer(64, dropout=0.2)(x))
        return keras.Model(inputs, L.Dense(10)(x))

    return build


def ds_cnn():
    def normalized(x):
        return L.ReLU()(L.BatchNormalization(momentum=0.9)(x))

    x = inputs = keras.Input((61, 40))
    x = L.Reshape((61, 40, 1))(x)
    x = normalized(L.Conv2D(64, (10, 8), strides=(3, 4), padding="same", use_bias=False)(x))
    for _ in range(4):
        x = normalized(L.DepthwiseConv2D(3, padding="same", use_bias=False)(x))
        x = normalized(L.Conv2D(64, 1, use_bias=False)(x))
    x = L.Dropout(0.3)(L.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, L.Dense(10)(x))


def bidirectional():
    x = inputs = keras.Input((TOKENS,), dtype="int32")
    x = L.Dropout(0.6)(L.Embedding(WORDS, 64, mask_zero=True)(x))
    x = L.Dropout(0.6)(L.Bidirectional(L.LSTM(64, dropout=0.2))(x))
    return keras.Model(inputs, L.Dense(2)(x))


class Placed(keras.utils.PyDataset):
    """Shuffled batches of recordings, each somewhere in its second.

    Args:
        x, room, labels: as of `networks.spoken_digits`.
        seed: of order and places.
    """

    def __init__(self, x, room, labels, seed):
        super().__init__()
        self.x, self.room, self.labels, self.rng = x, room, labels, np.random.default_rng(seed)
        self.on_epoch_end()

    def __len__(self):
        return len(self.x) // classifiers.BATCH

    def __getitem__(self, index):
        chosen = self.order[index * classifiers.BATCH : (index + 1) * classifiers.BATCH]
        places = self.rng.integers(self.room[chosen] + 1)
        return moved(self.x[chosen], places), self.labels[chosen]

    def on_epoch_end(self):
        self.order = self.rng.permutation(len(self.x))


def moved(x, places):
    """Recordings as many frames later."""
    return np.stack([np.roll(one, place, 0) for one, place in zip(x, places)])


def digits(folder):
    data = networks.spoken_digits(folder)
    x, room, labels, take = (data[name] for name in ("x", "room", "label", "take"))
    middle, test, held_out = moved(x, room // 2), take < 5, (take >= 5) & (take < 10)
    rest = take >= 10
    return Parts(
        lambda seed: Placed(x[rest], room[rest], labels[rest], seed),
        middle[rest],
        (middle[held_out], labels[held_out]),
        (middle[test], labels[test]),
    )


def polarity(folder):
    (ids, labels), test = networks.sentences(WORDS, TOKENS, folder)
    cut = len(ids) * 9 // 10
    first = ids[:cut], labels[:cut]
    return Parts(lambda seed: first, ids[:cut], (ids[cut:], labels[cut:]), test)


@dataclasses.dataclass(frozen=True)
class Parts:
    """The parts of a data set.

    Args:
        first: function of a seed: what to train on.
        inputs: to calibrate on.
        held_out, test: inputs and labels.
    """

    first: Callable
    inputs: np.ndarray
    held_out: tuple
    test: tuple


@dataclasses.dataclass(frozen=True)
class Task:
    """A data set, networks for it, and how they train.

    Args:
        title: for the table.
        file: of the data.
        parts: function of a folder.
        models: functions, by name.
        epochs, rate: of the float model.
        more, more_rate: of what is trained on.
    """

    title: str
    file: str
    parts: Callable
    models: dict
    epochs: int
    rate: float
    more: int
    more_rate: float


TASKS = {
    "digits": Task(
        "Spoken digits",
        "spoken_digits_8khz.npz",
        digits,
        {"gru": recurrent(L.GRU), "lstm": recurrent(L.LSTM), "ds_cnn": ds_cnn},
        epochs=30,
        rate=3e-3,
        more=8,
        more_rate=5e-4,
    ),
    "polarity": Task(
        "Polarity of sentences", "sentence_polarity.tsv", polarity, {"bidirectional": bidirectional}, 6, 5e-4, 3, 1e-4
    ),
}
MODELS = [name for task in TASKS.values() for name in task.models]


def falling(model, data, epochs, rate, held_out):
    """`model`, trained while the rate falls to zero; of the epochs the one with the least loss on `held_out`."""
    best = keras.callbacks.EarlyStopping("val_loss", patience=epochs, restore_best_weights=True)
    steps = len(data) if isinstance(data, Placed) else -(-len(data[0]) // classifiers.BATCH)
    schedule = keras.optimizers.schedules.CosineDecay(rate, epochs * steps)
    return classifiers.trained(model, data, epochs, schedule, clipnorm=1.0, held_out=held_out, callbacks=[best])


def rows(task, name, parts, args):
    """The rows of one network."""
    epochs, more = args.epochs or task.epochs, args.more or task.more
    policies = "float32", classifiers.CONTROL, *args.policies
    for seed in args.seeds:
        keras.utils.set_random_seed(seed)
        model = task.models[name]()
        falling(model, parts.first(seed), epochs, task.rate, parts.held_out)
        rate = args.rate or task.more_rate
        train_on = lambda qmodel, seed=seed, rate=rate: falling(qmodel, parts.first(seed), more, rate, parts.held_out)
        calibration = np.random.default_rng(seed).permutation(parts.inputs)[:512]
        yield from classifiers.trials(model, seed, policies, train_on, calibration, parts.held_out, parts.test)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--policies", nargs="+", default=list(POLICIES), help=f'"{UNTRAINED}" is calibrated only')
    parser.add_argument("--epochs", type=int, help="of the float model; by default as the task has it")
    parser.add_argument("--more", type=int, help="epochs that each policy trains on")
    parser.add_argument("--rate", type=float, help="that these begin with")
    parser.add_argument("--data", type=pathlib.Path, default=networks.DATA, help="folder with the data")
    parser.add_argument("--json", type=pathlib.Path, default=report.RESULTS / "sequences.json")
    args = parser.parse_args()
    for key in args.tasks:
        task = TASKS[key]
        if not (args.data / task.file).exists():
            print(f"{task.title} left out: {args.data / task.file} is not there; pass the folder that holds it with --data.")
            continue
        chosen = [name for name in task.models if name in args.models]
        parts = task.parts(args.data) if chosen else None
        for name in chosen:
            lines = list(classifiers.printed(rows(task, name, parts, args)))
            table = [classifiers.shown(line) for line in (*lines, *classifiers.means(lines))]
            path = args.json.with_name(f"{args.json.stem}_{key}_{name}.json")
            report.show(f"{task.title}, {name}, accuracy in per cent on LiteRT", table, path)


if __name__ == "__main__":
    main()
