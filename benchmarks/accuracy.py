"""How accurate are quantized networks on the device's runtime: without and with training, of 8 bits and of fewer?

    python benchmarks/accuracy.py [--network NAME ...] [--rows ROW ...] [--seeds 0 1 2] [--tfmot | --peer-python PYTHON]

ResNet-8 and the MobileNetV2-style network on CIFAR-10. All begin with the same float weights and train by `recipe.fine_tune`,
each row at the best of the same number of learning rates: they are tried with the first seed, and the accuracy on the last
5,000 training images, which no row trains on, decides. Accuracies are those of the exported file on LiteRT. A seed draws the
calibration images, the batches and their augmentation.

Each finished run is a line of a file, and a line there is not run again: a benchmark that was stopped goes on where it was.
"""

import argparse
import dataclasses
import json
import pathlib
import tempfile
import time
from collections.abc import Callable

import keras
import latency
import networks
import numpy as np
import peer
import recipe
import report

import keras_quant as kq
from keras_quant.tflite import Runtime
from keras_quant.tflite.runtime import quantize_array

NETWORKS = {"resnet8": "ResNet-8", "mobilenet_v2": "MobileNetV2-style"}
HELD_OUT, CALIBRATION = 5000, 500
# Weights of few bits have further to go.
RATES, RATES_OF_FEW_BITS = (1e-4, 4e-4), (4e-4, 1e-3)


@dataclasses.dataclass
class Task:
    """What one run is given.

    Attributes:
        model: float `keras.Model`.
        calibration: float32 images.
        train: images and labels.
        seed: integer.
        rate: where the learning rate begins.
        folder: for files.
        peer_python: interpreter that has tfmot.
    """

    model: keras.Model
    calibration: np.ndarray
    train: tuple
    seed: int
    rate: float | None
    folder: pathlib.Path
    peer_python: str | None

    @property
    def training(self):
        """Arguments of `recipe.fine_tune`, for every Keras."""
        ends_in_softmax = self.model.layers[-1].activation is keras.activations.softmax
        return {"seed": self.seed, "rate": self.rate, "from_logits": not ends_in_softmax}

    @property
    def rescaling(self):
        """The Rescaling layer that the network begins with, if it does."""
        return next((layer for layer in self.model.layers[1:2] if isinstance(layer, keras.layers.Rescaling)), None)


@dataclasses.dataclass
class Row:
    """Attributes:
    title: in the table.
    run: function of a `Task` → bytes of a `.tflite` and what else the line is to hold.
    rates: learning rates to choose from; none without training.
    varies: whether seeds differ.
    """

    title: str
    run: Callable
    rates: tuple = (None,)
    varies: bool = True


def of_converter(calibrated):
    return lambda task: (latency.converted(task.model, task.calibration if calibrated else None), {})


def of_tfmot(task):
    peer.hand_over(task.model, task.folder, train_x=task.train[0], train_y=task.train[1])
    peer.run(task.peer_python, "train", task.folder, **task.training)
    return (task.folder / "tfmot.tflite").read_bytes(), {"without_rescaling": task.rescaling is not None}


def of_keras_quant(policy, trains=True):
    def run(task):
        qmodel = kq.quantize(task.model, policy, task.calibration)
        if trains:
            recipe.fine_tune(keras, qmodel, *task.train, **task.training)
        path = task.folder / "ours.tflite"
        kq.export(qmodel, path)
        parity = kq.verify(qmodel, path, task.calibration, verbose=0)
        return path.read_bytes(), {"policy": str(kq.policy.get(policy)), "differ": parity.mismatches}

    return run


def learned(weights, activations):
    """The policy whose ranges are trained where they have four bits or fewer."""
    bits = lambda name: int(name.removeprefix("int"))
    kernel, output = ("lsq" if bits(name) <= 4 else None for name in (weights, activations))
    return kq.Policy(weights, activations, kernel_quantizer=kernel, output_quantizer=output)


ROWS = {
    "float": Row("float", of_converter(False), varies=False),
    "converter": Row("TFLiteConverter, post-training int8", of_converter(True)),
    "ptq": Row("keras_quant, post-training W8A8", of_keras_quant("int8", trains=False)),
    "tfmot": Row("tfmot, QAT W8A8", of_tfmot, RATES),
    "w8a8": Row("keras_quant, QAT W8A8", of_keras_quant("int8"), RATES),
    "w4a8": Row("keras_quant, QAT W4A8", of_keras_quant(learned("int4", "int8")), RATES_OF_FEW_BITS),
    "w4a4": Row("keras_quant, QAT W4A4", of_keras_quant(learned("int4", "int4")), RATES_OF_FEW_BITS),
    "w2a8": Row("keras_quant, QAT W2A8", of_keras_quant(learned("int2", "int8")), RATES_OF_FEW_BITS),
}


class Ledger:
    """The finished runs, one JSON object a line."""

    def __init__(self, path):
        self.path = path
        self.lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def find(self, **wanted):
        return [line for line in self.lines if all(line[key] == value for key, value in wanted.items())]

    def add(self, line):
        self.lines.append(line)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def device_accuracy(content, x, y, batch=500):
    """Percent of images that the file names right on LiteRT."""
    runtime = Runtime(content)
    detail = runtime.inputs[0]
    found = [runtime.run([quantize_array(x[i : i + batch], detail)])[0] for i in range(0, len(x), batch)]
    return float((np.concatenate(found).argmax(-1) == y).mean() * 100)


def measure(row, task, sets):
    """One line of the ledger, without its key."""
    begin = time.process_time()
    content, extra = ROWS[row].run(task)
    if extra.pop("without_rescaling", False):
        sets = {name: (np.asarray(task.rescaling(x)), y) for name, (x, y) in sets.items()}
    accuracies = {name: device_accuracy(content, *images) for name, images in sets.items()}
    return {**accuracies, "bytes": len(content), "seconds": round(time.process_time() - begin), **extra}


def load(args):
    """Training images, and by name the sets that accuracy is measured on."""
    x, y = networks.cifar10("train", args.data)
    test_x, test_y = networks.cifar10("test", args.data)
    held_out = x[-HELD_OUT:].astype("float32"), y[-HELD_OUT:]
    return (x[:-HELD_OUT], y[:-HELD_OUT]), {"held_out": held_out, "test": (test_x.astype("float32"), test_y)}


def best_rate(ledger, network, row, seed):
    """The rate with which the network was most accurate on the images held out, with this seed; the first until then."""
    lines = ledger.find(network=network, row=row, seed=seed)
    return max(lines, key=lambda line: line["held_out"])["rate"] if lines else ROWS[row].rates[0]


def run_missing(args, ledger, data, sets):
    for seed in args.seeds:
        for network in args.network:
            for row in args.rows:
                if not ROWS[row].varies and seed != args.seeds[0]:
                    continue
                first = args.seeds[0]
                rates = ROWS[row].rates if seed == first else [best_rate(ledger, network, row, first)]
                for rate in rates:
                    run_once(args, ledger, data, sets, {"network": network, "row": row, "seed": seed, "rate": rate})


def run_once(args, ledger, data, sets, key):
    """Run what the ledger does not hold."""
    if ledger.find(**key):
        return
    keras.backend.clear_session()
    model = keras.models.load_model(networks.need(args.data / f"{key['network']}_cifar10.keras"))
    chosen = np.random.default_rng(key["seed"]).choice(len(data[0]), CALIBRATION, replace=False)
    calibration = data[0][chosen].astype("float32")
    with tempfile.TemporaryDirectory() as folder:
        task = Task(model, calibration, data, key["seed"], key["rate"], pathlib.Path(folder), report.peer(args))
        line = {**key, **measure(key["row"], task, sets)}
    ledger.add(line)
    print(line, flush=True)


def table(args, ledger, network):
    """Mean and deviation over the seeds, at the rate that the first one chose."""
    exact = ledger.find(network=network, row="float")
    for row in args.rows:
        rate = best_rate(ledger, network, row, args.seeds[0])
        lines = [line for line in ledger.find(network=network, row=row, rate=rate) if line["seed"] in args.seeds]
        if not lines:
            continue
        test, held_out = ([line[name] for line in lines] for name in ("test", "held_out"))
        yield {
            NETWORKS[network]: ROWS[row].title,
            "test accuracy %": f"{np.mean(test):.2f}" + (f" ± {np.std(test, ddof=1):.2f}" if len(test) > 1 else ""),
            "against float": f"{np.mean(test) - exact[0]['test']:+.2f}" if exact else "-",
            "held out %": f"{np.mean(held_out):.2f}",
            "seeds": len(lines),
            "rate": "-" if rate is None else f"{rate:g} of {', '.join(f'{each:g}' for each in ROWS[row].rates)}",
            "bytes": lines[0]["bytes"],
            "outputs that differ": max(line["differ"] for line in lines) if "differ" in lines[0] else "-",
        }


def main():
    parser = report.arguments(argparse.ArgumentParser(description=__doc__.split("\n")[0]), "accuracy", peer=True)
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--data", type=pathlib.Path, default=networks.DATA, help="folder with networks and images")
    parser.add_argument("--table", action="store_true", help="run nothing; the table of the runs that there are")
    args = parser.parse_args()
    if not report.peer(args) and not args.table and "tfmot" in args.rows:
        print("Without --tfmot or --peer-python, tfmot is left out.")
        args.rows.remove("tfmot")
    ledger = Ledger(args.json.with_suffix(".jsonl"))
    if not args.table:
        run_missing(args, ledger, *load(args))
    for network in args.network:
        rows = list(table(args, ledger, network))
        if rows:
            report.show(f"{NETWORKS[network]}, CIFAR-10", rows, args.json.with_name(f"{args.json.stem}_{network}.json"))


if __name__ == "__main__":
    main()
