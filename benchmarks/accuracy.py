"""How accurate are quantized networks on the device's runtime: without and with training, of 8 bits and of fewer?

    python benchmarks/accuracy.py [--network NAME ...] [--rows ROW ...] [--seeds 0 1 2] [--tfmot | --peer-python PYTHON]

ResNet-8 and the MobileNetV2-style network on CIFAR-10. All begin with the same float weights and train by `recipe`, for each
seed, which draws the calibration images, the batches and their augmentation. Before that, each width chooses one of two
rates: by training with the first seed on all but the last 5,000 training images, and the accuracy on those (`chosen_rate`).
No rate is read off the test images. Accuracies are those of the exported file on LiteRT.

Each finished run is a line of a file, and a line there is not run again: a benchmark that was stopped goes on where it was.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import tempfile
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
        network: its name.
        model: float `keras.Model`.
        calibration: float32 images.
        train: images and labels.
        seed: integer.
        rate: where the learning rate begins.
        folder: for files.
        peer_python: interpreter that has tfmot.
    """

    network: str
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
    like: row whose choice it takes over.
    varies: whether seeds differ.
    """

    title: str
    run: Callable
    rates: tuple = ()
    like: str | None = None
    varies: bool = True


def of_converter(calibrated):
    return lambda task: (latency.converted(task.model, task.calibration if calibrated else None), {})


def of_tfmot(task):
    peer.hand_over(task.model, task.folder, train_x=task.train[0], train_y=task.train[1])
    peer.run(task.peer_python, "train", task.folder, **task.training)
    return (task.folder / "tfmot.tflite").read_bytes(), {"without_rescaling": task.rescaling is not None}


def of_keras_quant(policy, trains=True, distills=False):
    """`policy` is one, a `PolicyMap`, or a dict of them by network; `distills` makes the float model the teacher."""

    def run(task):
        chosen = policy[task.network] if isinstance(policy, dict) else policy
        qmodel = kq.quantize(task.model, chosen, task.calibration)
        if trains:
            recipe.fine_tune(keras, qmodel, *task.train, **task.training, teacher=task.model if distills else None)
        path = task.folder / "ours.tflite"
        kq.export(qmodel, path)
        parity = kq.verify(qmodel, path, task.calibration, verbose=0)
        return path.read_bytes(), {"differ": parity.mismatches}

    return run


INT8 = kq.Policy("int8", "int8")
W4A8 = kq.Policy("int4", "int8", kernel_quantizer="lsq")
W2A8 = kq.Policy("int2", "int8", kernel_quantizer="lsq")
W4A4 = kq.Policy("int4", "int4", kernel_quantizer="lsq", output_quantizer="lsq")
# What a convolution multiplies has 4 bits; what is only added, the classifier's input and the logits have 8. LSQ's paper has
# these in float, but for the classifier's input, which has 8 bits there, too.
SUMMANDS = {
    "resnet8": "conv2d_[24578]|average_pooling2d|flatten|dense",
    "mobilenet_v2": "b(2|4|5|7|8|10)_project|gap|logits",
}
W4A4_BY_NETWORK = {network: kq.PolicyMap({paths: W4A8}, default=W4A4) for network, paths in SUMMANDS.items()}

ROWS = {
    "float": Row("float", of_converter(False), varies=False),
    "converter": Row("TFLiteConverter, post-training int8", of_converter(True)),
    "ptq": Row("keras_quant, post-training W8A8", of_keras_quant(INT8, trains=False)),
    "tfmot": Row("tfmot, QAT W8A8", of_tfmot, RATES, like="w8a8"),
    "w8a8": Row("keras_quant, QAT W8A8", of_keras_quant(INT8), RATES),
    "w4a8": Row("keras_quant, QAT W4A8", of_keras_quant(W4A8), RATES_OF_FEW_BITS),
    "w4a4": Row("keras_quant, QAT W4A4", of_keras_quant(W4A4_BY_NETWORK), RATES_OF_FEW_BITS, like="w4a8"),
    "w2a8": Row("keras_quant, QAT W2A8", of_keras_quant(W2A8), RATES_OF_FEW_BITS, like="w4a8"),
}
for name, policy in {"w8a8": INT8, "w4a8": W4A8, "w4a4": W4A4_BY_NETWORK, "w2a8": W2A8}.items():
    plain = ROWS[name]
    run = of_keras_quant(policy, distills=True)
    ROWS[f"{name}_distilled"] = Row(f"{plain.title}, distilled", run, plain.rates, like=plain.like or name)


class Ledger:
    """The finished runs, one JSON object a line."""

    def __init__(self, path):
        self.path, self.lines = path, []
        for number, line in enumerate(path.read_text().splitlines() if path.exists() else [], 1):
            try:
                self.lines.append(json.loads(line))
            except json.JSONDecodeError:
                raise SystemExit(f"{path}, line {number}, is not JSON. Delete it; that run is done again.") from None

    def find(self, **wanted):
        return [line for line in self.lines if all(line[key] == value for key, value in wanted.items())]

    def add(self, line):
        self.lines.append(line)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def outputs(content, x, batch=500):
    """What the file makes of images on LiteRT, as real numbers."""
    runtime = Runtime(content)
    detail, (scale, zero_point) = runtime.inputs[0], runtime.outputs[0]["quantization"]
    found = [runtime.run([quantize_array(x[i : i + batch], detail)])[0] for i in range(0, len(x), batch)]
    found = np.concatenate(found)
    return (found.astype("float32") - zero_point) * scale if scale else found


def percent(equal):
    return round(float(np.mean(equal)) * 100, 3)


def processor_seconds():
    """Processor time of this process and of those that it ran."""
    return sum(os.times()[:4])


def load(args):
    """The training images, uint8, and the test images, float32, with their labels."""
    x, y = networks.cifar10("test", args.data)
    return networks.cifar10("train", args.data), (x.astype("float32"), y)


def measure(args, ledger, key, train, judge):
    """Train on images and labels, take the accuracy on others, and note it under its key; unless the ledger holds it."""
    if ledger.find(**key):
        return
    begin = processor_seconds()
    keras.backend.clear_session()
    model = keras.models.load_model(networks.need(args.data / f"{key['network']}_cifar10.keras"))
    chosen = np.random.default_rng(key["seed"]).choice(len(train[0]), CALIBRATION, replace=False)
    calibration, (x, y) = train[0][chosen].astype("float32"), judge
    with tempfile.TemporaryDirectory() as folder:
        task = Task(
            key["network"], model, calibration, train, key["seed"], key["rate"], pathlib.Path(folder), report.peer(args)
        )
        content, extra = ROWS[key["row"]].run(task)
    given = np.asarray(task.rescaling(x)) if extra.pop("without_rescaling", False) else x
    seen = outputs(content, given).argmax(-1)
    found = {"accuracy": percent(seen == y), "bytes": len(content)}
    if not ROWS[key["row"]].rates:
        found["as float"] = percent(seen == outputs(latency.converted(model), x).argmax(-1))
    ledger.add({**key, **found, "seconds": round(processor_seconds() - begin), **extra})
    print(ledger.lines[-1], flush=True)


def choose(args, ledger, network, row, train):
    """`chosen_rate`, after the runs that it needs; `None` for rows that do not train."""
    row = ROWS[row].like or row
    cut = len(train[0]) - HELD_OUT
    fitted, held_out = tuple(part[:cut] for part in train), tuple(part[cut:] for part in train)
    held_out = held_out[0].astype("float32"), held_out[1]
    for rate in ROWS[row].rates:
        key = {"network": network, "row": row, "seed": args.seeds[0], "rate": rate, "on": "held out"}
        measure(args, ledger, key, fitted, held_out)
    return chosen_rate(ledger, network, row)


def chosen_rate(ledger, network, row):
    """The highest rate whose accuracy on the images held out is within a standard error of the best.

    The float networks were trained on these images, too, and a low rate keeps what was learned by heart.
    """
    lines = ledger.find(network=network, row=ROWS[row].like or row, on="held out")
    if not lines:
        return None
    best = max(line["accuracy"] for line in lines)
    error = (best * (100 - best) / HELD_OUT) ** 0.5
    return max(line["rate"] for line in lines if line["accuracy"] >= best - error)


def run_missing(args, ledger, train, test):
    for seed in args.seeds:
        for network in args.network:
            for row in args.rows:
                if ROWS[row].varies or seed == args.seeds[0]:
                    rate = args.rate if args.rate and ROWS[row].rates else choose(args, ledger, network, row, train)
                    key = {"network": network, "row": row, "seed": seed, "rate": rate, "on": "test"}
                    measure(args, ledger, key, train, test)


def table(args, ledger, network):
    """Mean and deviation over the seeds, at each rate that was run to the end."""
    exact = ledger.find(network=network, row="float", on="test")
    for row in args.rows:
        lines = [line for line in ledger.find(network=network, row=row, on="test") if line["seed"] in args.seeds]
        chosen = chosen_rate(ledger, network, row)
        for rate in sorted({line["rate"] for line in lines}, key=lambda rate: rate != chosen):
            yield summary(ROWS[row].title, [line for line in lines if line["rate"] == rate], rate, chosen, exact, network)


def summary(title, lines, rate, chosen, exact, network):
    """One row, of runs that differ in nothing but the seed."""
    found = [line["accuracy"] for line in lines]
    deviation = f" ± {np.std(found, ddof=1):.2f}" if len(found) > 1 else ""
    return {
        NETWORKS[network]: title,
        "test accuracy %": f"{np.mean(found):.2f}{deviation}",
        "against float": f"{np.mean(found) - exact[0]['accuracy']:+.2f}" if exact else "-",
        "same class as float": f"{np.mean([line['as float'] for line in lines]):.2f} %" if rate is None else "-",
        "seeds": len(lines),
        "rate": "-" if rate is None else f"{rate:g}" + ", not chosen" * (rate != chosen),
        "bytes": lines[0]["bytes"],
        "outputs that differ": max(line["differ"] for line in lines) if "differ" in lines[0] else "-",
    }


def main():
    parser = report.arguments(argparse.ArgumentParser(description=__doc__.split("\n")[0]), "accuracy", peer=True)
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rate", type=float, help="train at this learning rate, whichever is chosen")
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
