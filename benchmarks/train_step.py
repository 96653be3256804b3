"""What does a step of quantization-aware training cost, against float and against tfmot?

    python benchmarks/train_step.py [--network NAME] [--xla] [--peer-python PYTHON] [--predict] [--rounds 30]

MobileNetV2 (alpha 0.35) at 96×96, batch 32; ResNet-8 at batch 128; four Dense layers of 2,048 units at batch 256; LSTM and
GRU at batch 64; SGD.
Beside the float model stand the same with each batch normalization in one fused operation, which Keras 3 does not do, and
keras_quant with observed and with learned ranges (`lsq`). Each contestant has a process, and they step in turn; processor
time a step, medians, and medians of the ratios of neighbouring rounds. Peak memory is that of building and training in a
process of its own, above what the imports take, the median of three; the float model that was quantized is let go before the
training. tfmot runs on MobileNetV2 only. With `--predict`, `predict` of the quantized MobileNetV2 (the kernels' exact
arithmetic) against the float one.
"""

import argparse
import dataclasses
import gc
import json
import pathlib
import subprocess
import sys
from collections.abc import Callable

import clocks
import keras
import networks
import numpy as np
import report
import tensorflow as tf

import keras_quant as kq
from keras_quant.layers.weighted import normalize_in_training

FLOAT, FUSED, OURS, LEARNED, PEER = "float Keras 3", "float, fused BN", "keras_quant", "keras_quant, learned ranges", "tfmot"
POLICIES = {OURS: kq.Policy(), LEARNED: kq.Policy(kernel_quantizer="lsq", output_quantizer="lsq")}
STEPS, WARM_UP = 3, 3


def dense_model():
    """Products and little else."""
    hidden = [keras.layers.Dense(2048, "relu") for _ in range(4)]
    return keras.Sequential([keras.Input((2048,)), *hidden, keras.layers.Dense(10, "softmax")])


def recurrent_model(layer, steps, units):
    """One recurrent layer over steps of 40 numbers."""
    return keras.Sequential([keras.Input((steps, 40)), layer(units), keras.layers.Dense(10, "softmax")])


@dataclasses.dataclass
class Network:
    """Attributes:
    make: function that makes the float model.
    shape: of a batch.
    classes: how many.
    title: of the table.
    """

    make: Callable
    shape: tuple
    classes: int
    title: str


NETWORKS = {
    "mobilenet_v2": Network(
        lambda: networks.mobilenet_v2(96, alpha=0.35), (32, 96, 96, 3), 1000, "MobileNetV2 0.35 at 96×96, batch 32"
    ),
    "resnet8": Network(networks.resnet8, (128, 32, 32, 3), 10, "ResNet-8, batch 128"),
    "dense": Network(dense_model, (256, 2048), 10, "four Dense layers of 2,048 units, batch 256"),
    "lstm": Network(
        lambda: recurrent_model(keras.layers.LSTM, 100, 128), (64, 100, 40), 10, "LSTM of 128 units, 100 steps, batch 64"
    ),
    "small_lstm": Network(
        lambda: recurrent_model(keras.layers.LSTM, 49, 64), (64, 49, 40), 10, "LSTM of 64 units, 49 steps, batch 64"
    ),
    "gru": Network(
        lambda: recurrent_model(keras.layers.GRU, 100, 128), (64, 100, 40), 10, "GRU of 128 units, 100 steps, batch 64"
    ),
}
# Those with batch normalization.
NORMALIZED = "mobilenet_v2", "resnet8"


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras's layer in the one operation that TensorFlow has for it."""

    def call(self, inputs, training=None, mask=None):
        return normalize_in_training(self, inputs)


def with_fused_norms(model):
    def copy(layer):
        cls = FusedBatchNormalization if isinstance(layer, keras.layers.BatchNormalization) else type(layer)
        return cls.from_config(layer.get_config())

    return keras.models.clone_model(model, clone_function=copy)


def training(name, network, xla=False):
    """One training step as `fit` runs it, of one of the contestants."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, network.shape).astype("float32")
    y = rng.integers(0, network.classes, len(x))
    model = network.make()
    if name == FUSED:
        model = with_fused_norms(model)
    elif name in POLICIES:
        model = kq.calibrate(kq.quantize(model, POLICIES[name]), x, verbose=0)
    gc.collect()
    model.compile(keras.optimizers.SGD(1e-3), "sparse_categorical_crossentropy", jit_compile=xla)
    data = tf.data.Dataset.from_tensors((x, y)).repeat()
    model.fit(data, steps_per_epoch=1, verbose=0)
    batches = iter(data)
    return lambda: model.train_function(batches)


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
    """MB that a process adds while it builds a model and trains it, the median of three."""
    runs = [subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(3)]
    return float(np.median([float(done.stdout.splitlines()[-1]) for done in runs]))


def print_peak(step):
    imports = clocks.memory("VmRSS")
    clocks.timed(step(), 5)
    print(clocks.memory("VmHWM") - imports)


def rows(seconds, base, peaks=None):
    for name, values in seconds.items():
        processor, wall = np.median(values, axis=0) * 1e3
        row = {"": name, "processor ms": float(processor), "wall ms": float(wall)}
        row["processor ratio"], row["wall ratio"] = map(float, np.median(values / seconds[base], axis=0))
        if FUSED in seconds:
            row["to fused BN"] = float(np.median(values / seconds[FUSED], axis=0)[0])
        if peaks:
            row["peak MB"] = peaks[name]
            row["memory ratio"] = peaks[name] / peaks[base]
        yield row


def compare(key, args):
    """One table."""
    network, options = NETWORKS[key], ["--xla"] * args.xla
    names = [FLOAT, FUSED, OURS, LEARNED] if key in NORMALIZED else [FLOAT, OURS, LEARNED]
    commands = {name: (sys.executable, __file__, "--network", key, *options, "--worker", name) for name in names}
    peer = (report.peer(args), pathlib.Path(__file__).with_name("peer_tfmot.py"))
    if peer[0] and key == "mobilenet_v2" and not args.xla:
        commands[PEER] = peer
    mode = lambda name, what: (what,) if name == PEER else ("--mode", what)
    peaks = {name: peak(*command, *mode(name, "peak")) for name, command in commands.items()}
    workers = {name: Worker(*command, *mode(name, "steps")) for name, command in commands.items()}
    seconds = interleaved({name: worker.run for name, worker in workers.items()}, args.rounds)
    for worker in workers.values():
        worker.close()
    suffix = f"{args.json.stem}_{key}{'_xla' * args.xla}.json"
    title = f"A training step, {network.title}" + ", XLA" * args.xla
    report.show(title, list(rows(seconds, FLOAT, peaks)), args.json.with_name(suffix))


def main():
    parser = report.arguments(argparse.ArgumentParser(description=__doc__.split("\n")[0]), "train_step", peer=True)
    parser.add_argument("--network", choices=NETWORKS, help="only this one")
    parser.add_argument("--xla", action="store_true", help="compile the steps")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--predict", action="store_true", help="time `predict`, too")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--mode", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        step = lambda: training(args.worker, NETWORKS[args.network], args.xla)
        return print_peak(step) if args.mode == "peak" else clocks.serve(step())
    for key in [args.network] if args.network else NETWORKS:
        compare(key, args)
    if args.predict:
        model = networks.mobilenet_v2()
        x = networks.images(model, 8)
        runs = {FLOAT: local(prediction(model, x)), OURS: local(prediction(kq.quantize(model, "int8", x), x))}
        seconds = interleaved(runs, args.rounds)
        title = "`predict`, MobileNetV2 at 224×224, batch 8"
        report.show(title, list(rows(seconds, FLOAT)), args.json.with_name("predict.json"))


if __name__ == "__main__":
    main()
