"""What does a step of quantization-aware training cost, against float and against tfmot?

    python benchmarks/train_step.py [--tfmot] [--peer-python PYTHON] [--predict] [--rounds 30]

MobileNetV2 (alpha 0.35) at 96×96, batch 32, SGD. The contestants step in turn; processor time a step, medians, and medians
of the ratios of neighbouring rounds. Peak memory is that of building and training in a process of its own, above what the
imports take. With `--predict`, `predict` of the quantized MobileNetV2 (the kernels' exact arithmetic) against the float one.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import clocks
import keras
import networks
import numpy as np
import report
import tensorflow as tf

import keras_quant as kq

FLOAT, OURS, PEER = "float Keras 3", "keras_quant", "tfmot"
STEPS, WARM_UP = 3, 3


def batch():
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (32, 96, 96, 3)).astype("float32"), rng.integers(0, 1000, 32)


def training(name):
    """One training step as `fit` runs it: of the float model, or of the quantized one."""
    x, y = batch()
    model = networks.mobilenet_v2(96, alpha=0.35)
    if name == OURS:
        model = kq.quantize(model, "int8", x)
    model.compile(keras.optimizers.SGD(1e-3), "sparse_categorical_crossentropy", jit_compile=False)
    model.train_on_batch(x, y)
    x, y = tf.constant(x), tf.constant(y)
    return tf.function(lambda: model.train_step((x, y)), autograph=False)


def prediction(model, x):
    return tf.function(lambda: model(x, training=False), autograph=False)


class Worker:
    """A contestant in a process of its own, stepping on command."""

    def __init__(self, *command):
        self.process = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.run(WARM_UP)

    def run(self, count):
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def interleaved(runs, rounds):
    """Seconds a step, `(rounds, 2)` of each: processor and wall."""
    seconds = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            seconds[name].append(run(STEPS))
    return {name: np.array(values) for name, values in seconds.items()}


def local(step):
    clocks.timed(step, WARM_UP)
    return lambda count: clocks.timed(step, count)


def peak(*command):
    """MB that a process adds while it builds a model and trains it."""
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])


def print_peak(name):
    imports = clocks.memory("VmRSS")
    clocks.timed(training(name), 5)
    print(clocks.memory("VmHWM") - imports)


def rows(seconds, base, peaks=None):
    for name, values in seconds.items():
        processor, wall = np.median(values, axis=0) * 1e3
        row = {"": name, "processor ms": float(processor), "wall ms": float(wall)}
        row["processor ratio"], row["wall ratio"] = map(float, np.median(values / seconds[base], axis=0))
        if peaks:
            row["peak MB"] = peaks[name]
            row["memory ratio"] = peaks[name] / peaks[base]
        yield row


def main():
    parser = report.arguments(argparse.ArgumentParser(description=__doc__.split("\n")[0]), "train_step", peer=True)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--predict", action="store_true", help="time `predict`, too")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        return print_peak(args.peak)
    commands = {name: (sys.executable, __file__, "--peak", name) for name in (FLOAT, OURS)}
    peer = (report.peer(args), pathlib.Path(__file__).with_name("peer_tfmot.py"))
    if peer[0]:
        commands[PEER] = (*peer, "peak")
    peaks = {name: peak(*command) for name, command in commands.items()}
    runs = {name: local(training(name)) for name in (FLOAT, OURS)}
    if peer[0]:
        worker = Worker(*peer, "steps")
        runs[PEER] = worker.run
    seconds = interleaved(runs, args.rounds)
    if peer[0]:
        worker.close()
    report.show("A training step, MobileNetV2 0.35 at 96×96, batch 32", list(rows(seconds, FLOAT, peaks)), args.json)
    if args.predict:
        model = networks.mobilenet_v2()
        x = networks.images(model, 8)
        runs = {FLOAT: local(prediction(model, x)), OURS: local(prediction(kq.quantize(model, "int8", x), x))}
        seconds = interleaved(runs, args.rounds)
        title = "`predict`, MobileNetV2 at 224×224, batch 8"
        report.show(title, list(rows(seconds, FLOAT)), args.json.with_name("predict.json"))


if __name__ == "__main__":
    main()
